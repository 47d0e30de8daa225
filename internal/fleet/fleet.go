// Package fleet runs a real cluster in one process: several nodes, joined by token over real mesh
// connections on loopback UDP, with the distances between their regions applied to every mesh
// packet. `perigee dev` and the tests of a whole cluster run on it.
//
// Each node has a goroutine of its own, ended by Stop, Kill or Close. What a fleet does not simulate
// is a machine: its nodes share one processor, one disk and one clock. Start starts all of it.
package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wan"
	"github.com/perigee-edge/perigee/node"
)

// Config says what to start.
type Config struct {
	Dir     string           // data directories go below it
	CodeDir string           // compiled code, shared by the nodes; default <Dir>/code
	Regions []perigee.Region // of the nodes, in order; one region may stand several times
	Domain  string           // default "localhost", so that clients need no DNS
	Admit   []string         // command of the admission child
	Receipt string           // default "full"

	Port  int  // HTTPS port of the first node, the next ones follow; 0 = any free
	Plain bool // also plain HTTP listeners, on any free port
	Near  bool // no distances: every packet arrives at once

	OutboundAllow []string // node.Config's, like those that follow
	TraceEndpoint string
	Trusted       []netip.Prefix

	GeoDatabases   []string
	NearerGateway  string
	GatewayDomains map[perigee.NodeID]string

	Trial time.Duration // how long a new revision is watched on one node before it goes on; default 50 ms

	AccessLog func(node.Dir) io.Writer // where each node writes a line per request; nil = nowhere
	Logger    *slog.Logger             // nil = slog.Default()
}

// Fleet is a running cluster. Its methods are safe for concurrent use.
type Fleet struct {
	cfg      Config
	network  *wan.Network
	delay    func(from, to perigee.Region) time.Duration
	operator *node.Person
	genesis  []byte
	roots    *x509.CertPool

	mu      sync.Mutex
	members []*Member // in the order of their start
}

const (
	readyTimeout = 60 * time.Second
	drainTimeout = 5 * time.Second
)

// Start founds a cluster in cfg.Dir and starts its nodes. They are joined and agree when it returns.
func Start(ctx context.Context, cfg Config) (_ *Fleet, err error) {
	if len(cfg.Regions) == 0 {
		return nil, errors.New("start a fleet: no region given")
	}
	if cfg.CodeDir == "" {
		cfg.CodeDir = filepath.Join(cfg.Dir, "code")
	}
	if cfg.Domain == "" {
		cfg.Domain = "localhost"
	}
	if cfg.Trial == 0 {
		cfg.Trial = 50 * time.Millisecond
	}
	if cfg.Receipt == "" {
		cfg.Receipt = "full"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := &Fleet{cfg: cfg, delay: delay(cfg.Near)}
	f.network = wan.New(f.delay)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := f.found(ctx); err != nil {
		return nil, err
	}
	for _, region := range cfg.Regions[1:] {
		if _, err := f.Join(ctx, region); err != nil {
			return nil, err
		}
	}
	return f, f.Settle(ctx)
}

func delay(near bool) func(from, to perigee.Region) time.Duration {
	if near {
		return func(_, _ perigee.Region) time.Duration { return 0 }
	}
	return wan.Published().Between(perigee.BuiltinRegions())
}

// found makes the first node.
func (f *Fleet) found(ctx context.Context) error {
	region := f.cfg.Regions[0]
	dir := f.dir(0)
	founded, err := node.Found(node.FoundConfig{Dir: dir, Region: region, Domain: f.cfg.Domain})
	if err != nil {
		return err
	}
	f.genesis = founded.Genesis
	socket, err := f.socket(region, anyPort)
	if err != nil {
		return err
	}
	m, err := f.launch(dir, region, socket, f.port(0))
	if err != nil {
		return err
	}
	g, _ := m.Genesis()
	web, err := x509.ParseCertificate(g.WebRoot)
	if err != nil {
		return err
	}
	f.roots = x509.NewCertPool()
	f.roots.AddCert(web)
	f.operator, err = node.NewPerson(m.Client(), founded.Operator, founded.Genesis)
	if err != nil {
		return err
	}
	return m.waitUp(ctx)
}

// Join adds a node, by a token that the first running node redeems.
func (f *Fleet) Join(ctx context.Context, region perigee.Region) (*Member, error) {
	f.mu.Lock()
	i := len(f.members)
	f.mu.Unlock()
	spec := node.TokenSpec{Kind: record.TokenNode, Region: region}
	if i < 3 {
		spec.Roles = []perigee.Role{perigee.RoleSigner, perigee.RoleIssuer}
	}
	token, err := f.Operator().CreateToken(ctx, spec)
	if err != nil {
		return nil, err
	}
	socket, err := f.socket(region, anyPort)
	if err != nil {
		return nil, err
	}
	dir := f.dir(i)
	if _, err := node.Join(ctx, node.JoinConfig{Dir: dir, Token: token, Socket: socket}); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	m, err := f.launch(dir, region, socket, f.port(i))
	if err != nil {
		return nil, err
	}
	return m, m.waitUp(ctx)
}

func (f *Fleet) dir(i int) node.Dir {
	return node.Dir(filepath.Join(f.cfg.Dir, "node"+strconv.Itoa(i+1)))
}

func (f *Fleet) port(i int) string {
	if f.cfg.Port == 0 {
		return anyPort
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(f.cfg.Port+i))
}

const anyPort = "127.0.0.1:0"

func (f *Fleet) socket(region perigee.Region, addr string) (net.PacketConn, error) {
	c, err := node.ListenMesh(addr)
	if err != nil {
		return nil, err
	}
	return f.network.Wrap(c, region), nil
}

// launch starts a node whose directory is complete and remembers it.
func (f *Fleet) launch(dir node.Dir, region perigee.Region, socket net.PacketConn, https string) (*Member, error) {
	m := &Member{Dir: dir, region: region}
	if err := f.run(m, socket, https); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = append(f.members, m)
	return m, nil
}

// run starts a member's node; it closes the socket when that fails.
func (f *Fleet) run(m *Member, socket net.PacketConn, https string) error {
	cfg := node.Config{
		Dir: m.Dir, Socket: socket, HTTPS: https, CodeDir: f.cfg.CodeDir, Admit: f.cfg.Admit,
		DrainTimeout: drainTimeout, Trial: f.cfg.Trial, Receipt: f.cfg.Receipt, OutboundAllow: f.cfg.OutboundAllow, TraceEndpoint: f.cfg.TraceEndpoint, Trusted: f.cfg.Trusted,
		GeoDatabases: f.cfg.GeoDatabases, NearerGateway: f.cfg.NearerGateway, GatewayDomains: f.cfg.GatewayDomains, Logger: f.cfg.Logger,
	}
	if f.cfg.Plain {
		cfg.HTTP = "127.0.0.1:0"
	}
	if f.cfg.AccessLog != nil {
		cfg.AccessLog = f.cfg.AccessLog(m.Dir)
	}
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{node: n, socket: socket, https: n.HTTPSAddr(), cancel: cancel, done: make(chan struct{})}
	m.life.Store(l)
	go func() {
		defer close(l.done)
		l.err = n.Run(ctx)
	}()
	return nil
}

// Members returns the nodes in the order of their start, stopped ones included.
func (f *Fleet) Members() []*Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*Member(nil), f.members...)
}

// Member returns the node with this id, or nil.
func (f *Fleet) Member(id perigee.NodeID) *Member {
	for _, m := range f.Members() {
		if m.ID() == id {
			return m
		}
	}
	return nil
}

// Operator returns the cluster's operator, who acts through the first running node.
func (f *Fleet) Operator() *node.Person {
	p := *f.operator
	for _, m := range f.Members() {
		if m.Running() {
			p.Client = m.Client()
			break
		}
	}
	return &p
}

// Genesis returns the cluster's first record.
func (f *Fleet) Genesis() []byte { return f.genesis }

// Roots returns the CA that certificates of the fleet's hosts chain to.
func (f *Fleet) Roots() *x509.CertPool { return f.roots }

// Settle waits until every running node sees every running node alive, with what it says it has, and
// holds the same state.
func (f *Fleet) Settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for !f.settled() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the nodes do not agree after %v", readyTimeout)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (f *Fleet) settled() bool {
	var running []*Member
	for _, m := range f.Members() {
		if m.Running() {
			running = append(running, m)
		}
	}
	for _, m := range running {
		v := m.View()
		alive := 0
		for _, p := range v.Observed.Nodes {
			if p.State == perigee.NodeAlive {
				alive++
			}
		}
		if alive != len(running) || v.Desired.Digest != running[0].View().Desired.Digest {
			return false
		}
		for _, o := range running {
			p := v.Observed.Nodes[o.ID()]
			if p == nil || !maps.Equal(p.Revisions, o.View().Observed.Nodes[o.ID()].Revisions) {
				return false
			}
		}
	}
	return true
}

// Client returns an HTTPS client that reaches every host through this node's gateway, as a client
// in the node's region would.
func (f *Fleet) Client(m *Member) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: f.roots},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, m.HTTPS())
		},
	}}
}

// Distance returns the round-trip time that the fleet gives packets between two regions.
func (f *Fleet) Distance(a, b perigee.Region) time.Duration { return f.delay(a, b) }

// Cut drops every mesh packet to and from a region, or lets them through again.
func (f *Fleet) Cut(region perigee.Region, cut bool) { f.network.Cut(region, cut) }

// Close stops all nodes, waits for them and returns the first failure.
func (f *Fleet) Close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(f.Members()))
	for i, m := range f.Members() {
		wg.Go(func() { errs[i] = m.Stop() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Remove deletes the fleet's directories; call it after Close.
func (f *Fleet) Remove() error { return os.RemoveAll(f.cfg.Dir) }
