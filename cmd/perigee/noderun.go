package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/configs"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/handover"
	"github.com/perigee-edge/perigee/internal/heap"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

func newNodeRun(t *target) *cobra.Command {
	var join, id string
	var check bool
	var set settings
	c := &cobra.Command{
		Use: "run [--join TOKEN]", Short: "Run this machine's node",
		Long: "Run always starts; --join is ignored once this machine is a member, so that a service manager can\n" +
			"keep it in the command. It runs until a signal ends it: then it takes no more requests, lets those\n" +
			"that run end, and says goodbye to the cluster. At SIGUSR2 its program, as it is on the disk then,\n" +
			"takes over, as with \"perigee node upgrade\".\n\n" +
			"Without a node.toml, --join writes one.\n" + settingsHelp,
		Example: "  perigee node run\n  perigee node run --join pgt1_… --advertise 203.0.113.7:7443",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := t.configPath()
			if !exists(path) && join == "" {
				return fmt.Errorf("there is no %s: make a cluster with `perigee cluster init`, or join one with `perigee node run --join TOKEN`", path)
			}
			cfg, fresh, err := set.load(path, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if id != "" {
				cfg.ID = id
			}
			logger := newLogger(cmd.ErrOrStderr(), cfg)
			slog.SetDefault(logger)
			r := runner{path: path, cfg: cfg, stdout: cmd.OutOrStdout(), log: logger}
			if check {
				return r.check(t, cmd)
			}
			heap.Settle()
			if err := r.inherit(); err != nil {
				return err
			}
			if err := r.open(cmd.Context(), join); err != nil {
				return err
			}
			if fresh {
				if err := set.write(path); err != nil {
					r.close()
					return err
				}
			}
			return r.run(cmd.Context())
		},
	}
	c.Flags().StringVar(&join, "join", "", "`TOKEN` of \"perigee token create --region REGION\": join its cluster first")
	c.Flags().StringVar(&id, "id", "", "node `ID` to ask for at the join (default: the region and a number)")
	c.Flags().BoolVar(&check, "check", false, "only say whether it would start: read the settings and the files of a member")
	set.add(c.Flags())
	return c
}

func (t *target) configPath() string {
	switch {
	case t.config != "":
		return t.config
	case !exists(localConfig) && exists(systemConfig):
		return systemConfig
	}
	return localConfig
}

// runner runs this machine's node.
type runner struct {
	path   string // of node.toml
	cfg    configs.Node
	stdout io.Writer
	log    *slog.Logger

	socket net.PacketConn
	before *handover.Predecessor // the process to take over from; nil = none
}

func (r *runner) dir() node.Dir { return node.Dir(dataDir(r.path, r.cfg)) }

// open opens the mesh socket and, if this machine is not a member yet, joins over it: the cluster
// dials back to the very port that the node will use.
func (r *runner) open(ctx context.Context, join string) (err error) {
	member := r.dir().Member()
	if !member && join == "" {
		return fmt.Errorf("data directory %s belongs to no cluster: make one with `perigee cluster init`, or join one with --join TOKEN", r.dir())
	}
	var token identity.Token
	if join != "" {
		if token, err = identity.ParseToken(join); err != nil && !member {
			return err
		}
	}
	if member && err == nil && join != "" {
		if err := r.sameCluster(token); err != nil {
			return err
		}
	}
	if r.before != nil {
		return nil // it has the socket
	}
	if r.socket, err = node.ListenMesh(r.cfg.Listen); err != nil {
		return r.orRuns(ctx, err)
	}
	if member {
		return nil
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if err := r.portsFree(); err != nil {
		return err
	}
	tcp, terr := node.ListenMeshTCP(r.socket)
	if terr != nil {
		r.log.Info("the join goes over UDP only", "err", terr)
	} else if tcp != nil {
		defer tcp.Close() // the node opens it anew, after what its settings name
	}
	claims, err := node.Join(ctx, node.JoinConfig{Dir: r.dir(), Token: token, ID: perigee.NodeID(r.cfg.ID), Socket: r.socket, TCP: tcp, Advertise: r.cfg.Advertise})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.stdout, "joined as %s in %s\n", claims.ID, claims.Region)
	return err
}

// sameCluster refuses a token of another cluster than the one that the data directory belongs to:
// who gives it expects to join there.
func (r *runner) sameCluster(token identity.Token) error {
	genesis, err := os.ReadFile(filepath.Join(string(r.dir()), "genesis.rec"))
	if err != nil {
		return err
	}
	if token.Genesis != record.ID(genesis) {
		return fmt.Errorf("data directory %s belongs to another cluster than the token: use another data_dir to join that one as well, or remove this one to leave its cluster for ever", r.dir())
	}
	return nil
}

// orRuns says that the node runs already, if that is why its port is taken.
func (r *runner) orRuns(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if s, serr := node.NewSocketClient(node.SocketPath(socketOf(r.path, r.cfg))).Status(ctx); serr == nil {
		return fmt.Errorf("%s of this data directory runs already: `perigee status` asks it", s.Node)
	}
	if !r.dir().Member() {
		return fmt.Errorf("nothing was joined, the token is still good: --listen: %w", err)
	}
	return err
}

// portsFree makes sure that a join, which uses up its token, is not followed by a node that can't listen.
func (r *runner) portsFree() error {
	for _, k := range settingKeys {
		addr := *k.of(&r.cfg)
		if k.key == "listen" || k.key == "advertise" || strings.HasPrefix(k.key, "acme_") || addr == "" {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("nothing was joined, the token is still good: %s = %q (--%s): %w%s", k.key, addr, k.flag, err, whyNoPort(err))
		}
		l.Close()
	}
	return nil
}

// whyNoPort says what to do about a port that can't be listened on.
func whyNoPort(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another program has the port (`ss -lntup` shows which): stop it, or choose another port"
	case errors.Is(err, fs.ErrPermission):
		return ": a port below 1024 needs the right CAP_NET_BIND_SERVICE, which the systemd unit gives: or choose a higher port"
	}
	return ""
}

// close lets go of the mesh port when no node takes it.
func (r *runner) close() {
	if r.socket != nil {
		r.socket.Close()
	}
}

func (r *runner) run(ctx context.Context) error {
	admit, err := admitCommand()
	if err != nil {
		r.close()
		return err
	}
	ca, err := acmeConfig(r.path, r.cfg)
	if err != nil {
		r.close()
		return err
	}
	access, err := openAccessLog(r.path, r.cfg.AccessLog, r.stdout)
	if err != nil {
		r.close()
		return err
	}
	defer access.Close()
	if r.before != nil {
		if err := r.before.AwaitGo(); err != nil {
			return err
		}
	}
	n, err := node.New(node.Config{
		Command: node.Command(), Predecessor: r.before,
		ACME: ca, AccessLog: access.Writer,
		Dir: r.dir(), Socket: r.socket, Advertise: r.cfg.Advertise, HTTPS: r.cfg.HTTPS, HTTP: r.cfg.HTTP, Admin: r.cfg.AdminHTTP,
		AdminSocket: node.SocketPath(socketOf(r.path, r.cfg)), Admit: admit, MemoryBudget: r.cfg.Memory, MaxResponse: r.cfg.MaxResponse,
		DiskReserve: r.cfg.DiskReserve, Trial: time.Duration(r.cfg.TrialTime), DrainTimeout: time.Duration(r.cfg.DrainTimeout), OutboundAllow: r.cfg.OutboundAllow, OutboundDeny: r.cfg.OutboundDeny,
		GeoDatabases: besideAll(r.path, r.cfg.GeoDatabases), DNS: r.cfg.DNS, DNSZones: r.cfg.DNSZones, DNSServers: r.cfg.DNSServers,
		NearerGateway: r.cfg.NearerGateway, GatewayDomains: configs.Domains(r.cfg.GatewayDomains),
		DisableHTTP3: !r.cfg.HTTP3, MaxConns: r.cfg.MaxConnections, MaxConnsPerIP: r.cfg.MaxConnectionsPerIP, MinBodyRate: minBodyRate(r.cfg), CacheSize: cacheSize(r.cfg), NoCompression: !r.cfg.Compress,
		TraceEndpoint: r.cfg.TraceEndpoint, TraceSample: traceSample(r.cfg),
		ProxyProtocol: configs.Prefixes(r.cfg.ProxyProtocol), Trusted: configs.Prefixes(r.cfg.TrustedProxies),
		Receipt: r.cfg.Receipt, Steer: r.cfg.Steer, Logger: r.log,
	})
	if err != nil {
		return err
	}
	defer upgradeOnSignal(ctx, n, r.log)()
	return n.Run(ctx)
}

// accessFile is where the access log goes.
type accessFile struct {
	io.Writer
	file *os.File // nil = not ours to close
}

// openAccessLog opens the file for appending, so that it can be cut off by whoever rotates logs.
func openAccessLog(path, name string, stdout io.Writer) (accessFile, error) {
	switch name {
	case "":
		return accessFile{}, nil
	case "-":
		return accessFile{Writer: stdout}, nil
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(path), name)
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return accessFile{}, fmt.Errorf("access_log: %w", err)
	}
	return accessFile{f, f}, nil
}

func (a accessFile) Close() {
	if a.file != nil {
		a.file.Close()
	}
}

// acmeConfig is the public CA that the settings name; none without a mail address.
func acmeConfig(path string, cfg configs.Node) (ca acme.Config, err error) {
	if cfg.ACMEEmail == "" {
		return ca, nil
	}
	ca = acme.Config{Directory: cfg.ACMEDirectory, Email: cfg.ACMEEmail}
	ca.EABKey, ca.EABMAC, _ = strings.Cut(cfg.ACMEEAB, ":")
	if cfg.ACMERoots != "" {
		file := cfg.ACMERoots
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		if ca.Roots, err = os.ReadFile(file); err != nil {
			return ca, fmt.Errorf("acme_roots: %w", err)
		}
	}
	if cfg.ACMEDNS != "" {
		key := strings.Split(cfg.ACMEDNSKey, ":") // configs has counted
		ca.DNS = &acme.DNS{Server: cfg.ACMEDNS, KeyName: key[0], Algorithm: key[1], Key: key[2], Resolvers: cfg.ACMEResolvers}
	}
	return ca, nil
}

// traceSample is the part of the requests that are to be traced.
func traceSample(cfg configs.Node) float64 {
	if cfg.TraceOneOf == 0 {
		return 0
	}
	return 1 / float64(cfg.TraceOneOf)
}

// minBodyRate is in the form of node.Config, where 0 is the default and not "as slow as it likes".
func minBodyRate(cfg configs.Node) int64 {
	if cfg.MinBodyRate == 0 {
		return -1
	}
	return int64(cfg.MinBodyRate)
}

func cacheSize(cfg configs.Node) int64 {
	if cfg.Cache == 0 {
		return -1
	}
	return int64(cfg.Cache)
}

func newLogger(w io.Writer, cfg configs.Node) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // configs has checked the word
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
