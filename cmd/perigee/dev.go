package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/origin"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// dev is one session of `perigee dev`.
type dev struct {
	t          *target
	dir        string // function to deploy and follow; "" = none
	name       string // its name, when its manifest could last be read
	regions    []string
	port       int
	allow      []string // outbound_allow of the nodes
	verbose    bool
	tour, once bool

	stdout, stderr io.Writer
	fleet          *fleet.Fleet
	ca             string // path of the certificate that clients must trust
	announced      bool   // where everything is was printed
	tried          bool   // so was the line that works
}

const devContext = "dev"

func newDev(t *target) *cobra.Command {
	d := dev{t: t}
	c := &cobra.Command{
		Use: "dev [DIR]", Short: "A real cluster in one process, with simulated distances and hot reload",
		Long: "Dev starts one node for each region, joined over loopback UDP with the distances between the regions\n" +
			"applied to every packet, deploys the function in DIR, and deploys it again whenever a file changes.\n" +
			"Without DIR it takes the function of the working directory, if there is one.\n\n" +
			"It keeps nothing: the cluster is gone when it ends, which Ctrl-C does. Other commands reach it with\n" +
			"--context dev.",
		Example: "  perigee dev examples/hello\n  perigee dev --regions fra,ams,nrt --port 0\n  perigee --context dev show hello     # in another terminal",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d.stdout, d.stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if len(args) == 1 {
				d.dir = args[0]
			} else if exists(bundle.ManifestName) {
				d.dir = "."
			}
			if err := d.check(); err != nil {
				return err
			}
			err := d.run(cmd.Context())
			if cmd.Context().Err() != nil && !d.once && errors.Is(err, context.Canceled) {
				return nil // a session is ended by Ctrl-C, at whatever point
			}
			return err
		},
	}
	f := c.Flags()
	f.StringSliceVar(&d.regions, "regions", []string{"fra", "wdc", "syd"}, "`REGIONS`, separated by commas: one node is started for each")
	f.IntVar(&d.port, "port", 8443, "HTTPS `PORT` of the first node; the next nodes have the next ports; 0 = any")
	f.StringSliceVar(&d.allow, "outbound-allow", nil, "`ADDRESSES` that functions may reach although they are not public, separated by commas: ranges, IP or IP:PORT")
	f.BoolVarP(&d.verbose, "verbose", "v", false, "print the nodes' logs")
	f.BoolVar(&d.tour, "tour", false, "show placement at work: invoke from each region, pin, stop the pinned region")
	f.BoolVar(&d.once, "once", false, "with --tour: end after it; exit 1 if a row is not as promised")
	return c
}

// check refuses what can't work before anything is started.
func (d *dev) check() error {
	if d.tour && d.dir == "" {
		return usagef("--tour: the function's directory is missing: perigee dev --tour examples/hello")
	}
	if d.once && !d.tour {
		return usagef("--once goes with --tour")
	}
	if len(d.regions) == 0 {
		return usagef("--regions is empty: name at least one, like fra")
	}
	if _, err := origin.ParseNetworks(d.allow); err != nil {
		return fmt.Errorf("--outbound-allow: %w", err)
	}
	for _, r := range d.regions {
		if _, ok := perigee.BuiltinRegions().Lookup(perigee.Region(r)); !ok {
			return fmt.Errorf("there is no region %q: `perigee region ls --builtin` lists them", r)
		}
	}
	if d.dir != "" {
		m, err := bundle.LoadManifest(d.dir)
		if err != nil {
			return err
		}
		d.name = m.Name
	}
	if d.port == 0 {
		return nil
	}
	for i := range d.regions {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port+i)))
		if err != nil {
			return fmt.Errorf("%w: %s need the ports %d to %d: stop what has them (another `perigee dev`?), or use --port N, or --port 0 for any",
				err, count(len(d.regions), "node"), d.port, d.port+len(d.regions)-1)
		}
		l.Close()
	}
	return nil
}

func (d *dev) run(ctx context.Context) (err error) {
	level := slog.LevelError
	if d.verbose {
		level = slog.LevelInfo
	}
	logger := slog.New(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(logger)
	regions := make([]perigee.Region, len(d.regions))
	for i, r := range d.regions {
		regions[i] = perigee.Region(r)
	}
	tmp, err := os.MkdirTemp("", "perigee-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	code, err := codeCache()
	if err != nil {
		return err
	}
	admit, err := admitCommand()
	if err != nil {
		return err
	}
	fmt.Fprintf(d.stderr, "starting %s: %s\n", count(len(regions), "node"), strings.Join(d.regions, ", "))
	d.fleet, err = fleet.Start(ctx, fleet.Config{Dir: tmp, CodeDir: code, Regions: regions, Admit: admit, Port: d.port, OutboundAllow: d.allow, Logger: logger})
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil && !d.once {
			fmt.Fprintln(d.stderr, "stopping")
		}
		err = errors.Join(err, d.fleet.Close())
	}()
	withdraw, err := d.publish()
	if err != nil {
		return err
	}
	defer withdraw()
	if d.tour {
		if err := tour(ctx, d.fleet, d.dir, d.stdout, d.stderr); ctx.Err() == nil && (err != nil || d.once) {
			return err
		}
	} else if d.dir != "" {
		d.deploy(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := d.announce(); err != nil {
		return err
	}
	if d.dir == "" {
		<-ctx.Done()
		return nil
	}
	return d.follow(ctx)
}

// codeCache is where compiled code is kept between runs: a start after the first is quick.
func codeCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	dir = filepath.Join(dir, "perigee", "code")
	return dir, os.MkdirAll(dir, 0o700)
}

// publish writes the context "dev" and the CA that clients must trust, and returns what takes both
// away.
func (d *dev) publish() (withdraw func(), err error) {
	g, genesis := d.fleet.Members()[0].Genesis()
	in := &node.LoggedIn{Cluster: g.Cluster, Genesis: genesis, Key: d.fleet.Operator().Key, Role: record.TokenOperator}
	for _, m := range d.fleet.Members() {
		if p := m.View().Observed.Nodes[m.ID()]; p != nil {
			in.Addrs = append(in.Addrs, p.Addr.String())
		}
	}
	dir, err := contextDir(devContext)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(g.WebRoot)
	if err != nil {
		return nil, err
	}
	if err := saveContext(devContext, in); err != nil {
		return nil, err
	}
	withdraw = func() {
		if c, err := loadContext(devContext); err == nil && c.Cluster == g.Cluster { // not another session's
			os.RemoveAll(dir)
		}
	}
	d.ca = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(d.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 0o644); err != nil {
		withdraw()
		return nil, err
	}
	return withdraw, nil
}

// deploy makes what is in the directory now live, or says why not: a session goes on either way.
func (d *dev) deploy(ctx context.Context) {
	start := time.Now()
	m, archive, err := prepare(ctx, d.dir, d.stderr)
	if m != nil {
		d.name = m.Name
	}
	if err == nil {
		var s *node.FunctionStatus
		if _, s, err = deployAndWait(ctx, d.fleet.Operator(), node.DeployOptions{Rollout: placement.RolloutAll}, m, archive, deployWait{limit: time.Minute}, newProgress(d.stderr)); err == nil {
			fmt.Fprintf(d.stderr, "%s: revision %s is live, warm on %s, after %.1f s\n", s.Name, s.Live.ID, warmth(s), time.Since(start).Seconds())
			if d.announced && !d.tried && !d.t.json {
				d.tried = true
				fmt.Fprintf(d.stdout, "try it:  %s\n", d.curl())
			}
			return
		}
	}
	if ctx.Err() != nil {
		return
	}
	stays := "nothing is live yet"
	if s, _, ferr := d.fleet.Operator().Function(ctx, d.name); ferr == nil {
		stays = fmt.Sprintf("revision %s stays live", s.Live.ID)
	}
	fmt.Fprintf(d.stderr, "%v\n%s; mend the files and save: it is tried again\n", err, stays)
}

// announced is where everything is.
type announced struct {
	Nodes   []announcedNode `json:"nodes"`
	Context string          `json:"context"`
	CA      string          `json:"ca"`            // certificate that clients must trust
	Try     string          `json:"try,omitempty"` // a command that works
}

type announcedNode struct {
	ID     perigee.NodeID `json:"id"`
	Region perigee.Region `json:"region"`
	HTTPS  string         `json:"https"`
}

// announce prints where everything is, and one line that works, if there is one yet.
func (d *dev) announce() error {
	a := announced{Context: devContext, CA: d.ca, Try: d.curl()}
	d.announced, d.tried = true, a.Try != ""
	out := newTable("NODE", "REGION", "HTTPS")
	for _, m := range d.fleet.Members() {
		a.Nodes = append(a.Nodes, announcedNode{m.ID(), m.Region(), m.HTTPS()})
		out.row(string(m.ID()), string(m.Region()), m.HTTPS())
	}
	if d.t.json {
		return printJSON(d.stdout, a)
	}
	fmt.Fprintln(d.stdout)
	if err := out.write(d.stdout); err != nil {
		return err
	}
	fmt.Fprintln(d.stdout)
	if a.Try != "" {
		fmt.Fprintf(d.stdout, "try it:  %s\n", a.Try)
	}
	_, err := fmt.Fprintf(d.stdout, "look:    perigee --context %s node ls\nstop:    Ctrl-C\n", devContext)
	return err
}

// curl is a command that reaches a function through the first node; "" while there is none.
func (d *dev) curl() string {
	m := d.fleet.Members()[0]
	_, port, err := net.SplitHostPort(m.HTTPS())
	if err != nil {
		return ""
	}
	for _, fn := range m.View().Desired.Functions {
		for _, r := range fn.Routes(m.View().Desired.Domain) {
			return fmt.Sprintf("curl -i --cacert %s --resolve %s:%s:127.0.0.1 https://%s:%s%s", d.ca, r.Host, port, r.Host, port, r.Path)
		}
	}
	return ""
}
