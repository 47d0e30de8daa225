package peerlink

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mesh is a cluster's authority and where its test nodes are.
type mesh struct {
	t       testing.TB
	cluster perigee.ClusterID
	ca      *identity.Authority

	mu      sync.Mutex
	addrs   map[perigee.NodeID]netip.AddrPort
	revoked map[perigee.NodeID]bool
}

func newMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t, cluster: identity.NewClusterID(), addrs: map[perigee.NodeID]netip.AddrPort{}, revoked: map[perigee.NodeID]bool{}}
	var err error
	if m.ca, err = identity.NewRoot(m.cluster, time.Now()); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mesh) root() *x509.Certificate { return m.ca.Cert() }

func (m *mesh) identity(id perigee.NodeID) *identity.Node {
	m.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		m.t.Fatal(err)
	}
	chain, err := m.ca.IssueNode(m.cluster, perigee.NodeClaims{ID: id, Region: "fra"}, key.Public().(ed25519.PublicKey), time.Now())
	if err != nil {
		m.t.Fatal(err)
	}
	n, err := identity.NewNode(m.cluster, m.root(), key, chain)
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

func (m *mesh) addr(id perigee.NodeID) (netip.AddrPort, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.addrs[id]
	return a, ok
}

func (m *mesh) setAddr(id perigee.NodeID, a netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addrs[id] = a
}

func (m *mesh) allow(c perigee.NodeClaims) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revoked[c.ID] {
		return errors.New("revoked")
	}
	return nil
}

func (m *mesh) revoke(id perigee.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoked[id] = true
}

// node starts a Link, which ends with the test or when stop is called.
func (m *mesh) node(id perigee.NodeID, change func(*Config)) (l *Link, stop func()) {
	m.t.Helper()
	cfg := Config{
		Identity: m.identity(id), Allow: m.allow, Addr: m.addr, Control: http.NotFoundHandler(),
		AcceptFloor: 20 * time.Second, DialTimeout: 20 * time.Second, // a busy machine is no silent peer
		Logger: slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id),
	}
	if change != nil {
		change(&cfg)
	}
	if cfg.Socket == nil {
		cfg.Socket = listenUDP(m.t)
	}
	m.setAddr(id, addrPort(cfg.Socket.LocalAddr()))
	l, err := New(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				m.t.Errorf("Run of %s: %v", id, err)
			}
		})
	}
	m.t.Cleanup(stop)
	return l, stop
}

func listenUDP(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hops makes a node with a hop handler.
func hops(h http.HandlerFunc) func(*Config) { return func(c *Config) { c.Hops = h } }

func request(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// hopOK sends a request that must be answered, and returns the response with its body read.
func hopOK(t testing.TB, l *Link, id perigee.NodeID, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := l.RoundTripHop(id, r)
	if err != nil {
		t.Fatalf("hop: %v", err)
	}
	return resp, readBody(t, resp)
}

func readBody(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually fails the test unless cond becomes true within five seconds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// closeCounter counts the calls of Close.
type closeCounter struct {
	io.Reader
	closed atomic.Int32
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }
