package gossip

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is one cluster: its keys, and the network between its nodes.
type world struct {
	t        testing.TB
	cluster  perigee.ClusterID
	root     *identity.Authority
	ca       *identity.Authority
	operator ed25519.PrivateKey
	genesis  []byte
	epoch    uint32
	hlc      record.HLC
	net      *network
}

var keys sync.Map // of ed25519.PrivateKey by name; making one is slow

// key returns a key that is the same in every run.
func key(name string) ed25519.PrivateKey {
	if k, ok := keys.Load(name); ok {
		return k.(ed25519.PrivateKey)
	}
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	k := ed25519.NewKeyFromSeed(seed)
	keys.Store(name, k)
	return k
}

func pub(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func keyID(name string) perigee.KeyID { return record.KeyIDOf(pub(name)) }

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, cluster: "00112233445566aa", epoch: 1, operator: key("operator"), net: newNetwork()}
	var err error
	w.root, err = identity.NewRoot(w.cluster, time.Now())
	w.must(err)
	w.ca, err = w.root.NewIntermediate(time.Now())
	w.must(err)
	w.hlc = record.HLCAt(time.Now())
	w.genesis = w.sign("operator", nil, &record.Genesis{
		Cluster: w.cluster, Domain: "fn.example.com", Operator: pub("operator"), Root: w.root.Cert().Raw, WebRoot: []byte{1},
	})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// sign makes a record that is one tick later than the one before.
func (w *world) sign(who string, parents []perigee.Digest, p record.Payload) []byte {
	w.t.Helper()
	w.hlc = w.hlc.Next(time.Now())
	return w.signAt(w.hlc, who, parents, p)
}

func (w *world) signAt(at record.HLC, who string, parents []perigee.Digest, p record.Payload) []byte {
	w.t.Helper()
	_, b, err := record.Sign(key(who), w.cluster, w.epoch, at, parents, p)
	w.must(err)
	return b
}

// chain returns the certificates of a node whose key is named like it.
func (w *world) chain(c perigee.NodeClaims) [][]byte { return w.chainOf(c, pub(string(c.ID))) }

func (w *world) chainOf(c perigee.NodeClaims, public ed25519.PublicKey) [][]byte {
	w.t.Helper()
	chain, err := w.ca.IssueNode(w.cluster, c, public, time.Now())
	w.must(err)
	return chain
}

func signerClaims(id perigee.NodeID) perigee.NodeClaims {
	return perigee.NodeClaims{ID: id, Region: "fra", Roles: []perigee.Role{perigee.RoleSigner}}
}

// token returns a token record; its key is named by name.
func (w *world) token(name string, kind record.TokenKind, change ...func(*record.Token)) []byte {
	tok := &record.Token{Kind: kind, Public: pub(name), Signer: "fra-1", Expires: time.Now().Add(time.Hour).Unix()}
	if kind == record.TokenNode {
		tok.Region = "fra"
	}
	for _, f := range change {
		f(tok)
	}
	return w.sign("operator", nil, tok)
}

// redeem returns the redemption of a token by signer fra-1 for the key of this name.
func (w *world) redeem(token, who string, change ...func(*record.Redeem)) []byte {
	r := &record.Redeem{Token: keyID(token), Public: pub(who), Chain: w.chain(signerClaims("fra-1"))}
	for _, f := range change {
		f(r)
	}
	if r.Proof == nil {
		r.Proof = ed25519.Sign(key(token), record.RedeemMessage(w.cluster, r.Public, r.Node))
	}
	return w.sign("fra-1", nil, r)
}

// person returns the two records that give a key its rights.
func (w *world) person(who string, kind record.TokenKind, scope record.Scope) [][]byte {
	return [][]byte{w.token("token of "+who, kind, func(t *record.Token) { t.Scope = scope }), w.redeem("token of "+who, who)}
}

// manifest has one route per host.
func manifest(name string, hosts ...string) perigee.Manifest {
	m := perigee.Manifest{Name: name, Wasm: name + ".wasm"}
	for _, h := range hosts {
		m.Routes = append(m.Routes, perigee.Route{Host: h})
	}
	return m
}

// deploy returns a revision and the pointer to it.
func (w *world) deploy(who string, m perigee.Manifest, parents ...perigee.Digest) (revision, pointer []byte) {
	revision = w.sign(who, nil, &record.Revision{Manifest: m, Bundle: perigee.Digest{1}, Size: 5})
	return revision, w.sign(who, parents, &record.Pointer{Function: m.Name, Revision: record.ID(revision)})
}

func checkTestManifest(m *perigee.Manifest) error {
	if m.Wasm == "" {
		return errors.New("wasm is missing")
	}
	if m.Placement.Max < 0 {
		return errors.New("max is negative")
	}
	return nil
}

// parsed returns entries of records that must be well formed.
func (w *world) parsed(raws ...[]byte) []*entry {
	w.t.Helper()
	var entries []*entry
	for _, raw := range raws {
		e, err := w.parser().parse(raw)
		w.must(err)
		entries = append(entries, e)
	}
	return entries
}

func (w *world) parser() *parser {
	w.t.Helper()
	p, err := newParser(w.genesis, checkTestManifest)
	w.must(err)
	return p
}

// geneses returns the genesis records, the present one last.
func (w *world) geneses() []*entry {
	w.t.Helper()
	entries, err := w.parser().geneses()
	w.must(err)
	return entries
}

// testNode is a node under test.
type testNode struct {
	*Gossip
	conf   Config
	port   *port
	cancel context.CancelFunc
	done   chan error
}

// node makes a node that does not run yet.
func (w *world) node(id perigee.NodeID, region perigee.Region, change ...func(*Config)) *testNode {
	w.t.Helper()
	claims := perigee.NodeClaims{ID: id, Region: region}
	if id == "fra-1" {
		claims = signerClaims(id)
	}
	self, err := identity.NewNode(w.cluster, w.root.Cert(), key(string(id)), w.chain(claims))
	w.must(err)
	p := w.net.attach(id, claims)
	conf := Config{
		Identity: self, Genesis: w.genesis, Dir: "/state", FS: simdisk.New(), Mesh: p, Advertise: p.addr,
		Peer: peerOf, CheckManifest: checkTestManifest, GossipKey: bytes.Repeat([]byte{7}, gossipKeySize),
		Row: perigee.Row{Version: "test"}, Logger: slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, f := range change {
		f(&conf)
	}
	g, err := New(conf)
	w.must(err)
	n := &testNode{Gossip: g, conf: conf, port: p}
	p.serve(g.Handler())
	return n
}

// again makes the node that starts after this one's power was cut, with what its disk kept.
func (n *testNode) again(w *world) *testNode {
	w.t.Helper()
	return n.moved(w, n.port.addr)
}

// moved does so at another address.
func (n *testNode) moved(w *world, addr netip.AddrPort) *testNode {
	w.t.Helper()
	n.conf.FS = n.conf.FS.(*simdisk.Disk).Crash(w.net.rng)
	n.port = w.net.attachAt(n.self, n.conf.Identity.Claims(), addr)
	n.conf.Mesh, n.conf.Advertise = n.port, addr
	g, err := New(n.conf)
	w.must(err)
	next := &testNode{Gossip: g, conf: n.conf, port: n.port}
	next.port.serve(g.Handler())
	return next
}

func (n *testNode) start() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	go func() { n.done <- n.Run(ctx) }()
}

// stop ends the node without a word; what it still does is not heard.
func (n *testNode) stop(t *testing.T) {
	t.Helper()
	n.port.kill()
	n.cancel()
	if err := <-n.done; err != nil {
		t.Errorf("Run of %s: %v", n.self, err)
	}
}

func seeds(addrs ...netip.AddrPort) func(*Config) {
	return func(c *Config) { c.Seeds = func() []netip.AddrPort { return addrs } }
}

// network connects nodes in memory, with delay, loss and partitions.
type network struct {
	mu      sync.Mutex
	ports   map[netip.AddrPort]*port
	ids     map[perigee.NodeID]*port // the last of each node
	delay   time.Duration
	loss    float64        // of packets
	slow    perigee.NodeID // runs for 5 ms of every 100 only, as with 5 % of a processor
	blocked func(from, to perigee.NodeID) bool
	rng     *rand.Rand
}

func newNetwork() *network {
	return &network{ports: map[netip.AddrPort]*port{}, ids: map[perigee.NodeID]*port{}, delay: 10 * time.Millisecond, rng: rand.New(rand.NewPCG(1, 2))}
}

// port is one node's place in the network; it implements Mesh.
type port struct {
	net     *network
	claims  perigee.NodeClaims
	addr    netip.AddrPort
	packets chan simPacket
	streams chan net.Conn
	dead    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	handler http.Handler
}

type simPacket struct {
	b    []byte
	from netip.AddrPort
}

// attach gives a node an address, the same one each time.
func (n *network) attach(id perigee.NodeID, claims perigee.NodeClaims) *port {
	return n.attachAt(id, claims, addrOf(id))
}

func (n *network) attachAt(id perigee.NodeID, claims perigee.NodeClaims, addr netip.AddrPort) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &port{
		net: n, claims: claims, packets: make(chan simPacket, 512), streams: make(chan net.Conn, 16), dead: make(chan struct{}), addr: addr,
	}
	n.ports[p.addr], n.ids[id] = p, p
	return p
}

func addrOf(id perigee.NodeID) netip.AddrPort {
	d := record.ID([]byte(id))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, d[0], d[1], d[2]}), 7443)
}

// gate returns how long something waits until both ends have a processor. Mu is held.
func (n *network) gate(ends ...*port) (d time.Duration) {
	for _, p := range ends {
		if p != nil && p.claims.ID == n.slow {
			if at := time.Duration(time.Now().Add(d).UnixNano()) % (100 * time.Millisecond); at > 5*time.Millisecond {
				d += 100*time.Millisecond - at
			}
		}
	}
	return d
}

func (n *network) gateTo(from *port, to netip.AddrPort) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gate(from, n.ports[to])
}

func (n *network) partition(blocked func(from, to perigee.NodeID) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked = blocked
}

// find returns the port at an address, if it can be reached from another now.
func (n *network) find(from *port, to netip.AddrPort) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.ports[to]
	if p == nil || n.blocked != nil && n.blocked(from.claims.ID, p.claims.ID) {
		return nil
	}
	select {
	case <-p.dead:
		return nil
	case <-from.dead:
		return nil
	default:
		return p
	}
}

func (p *port) serve(h http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = h
}

func (p *port) kill() { p.once.Do(func() { close(p.dead) }) }

type peerKey struct{}

func peerOf(r *http.Request) (perigee.NodeClaims, bool) {
	c, ok := r.Context().Value(peerKey{}).(perigee.NodeClaims)
	return c, ok
}

func (p *port) Call(ctx context.Context, to perigee.NodeID, path string, body []byte) ([]byte, error) {
	p.net.mu.Lock()
	peer := p.net.ids[to]
	p.net.mu.Unlock()
	if peer == nil {
		return nil, fmt.Errorf("no address of %s", to)
	}
	return p.CallAddr(ctx, peer.addr, path, body)
}

func (p *port) CallAddr(ctx context.Context, to netip.AddrPort, path string, body []byte) ([]byte, error) {
	wait(ctx, p.net.delay+p.net.gateTo(p, to))
	peer := p.net.find(p, to)
	if peer == nil { // nothing answers: silence until the caller gives up
		<-ctx.Done()
		return nil, ctx.Err()
	}
	peer.mu.Lock()
	h := peer.handler
	peer.mu.Unlock()
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r = r.WithContext(context.WithValue(ctx, peerKey{}, p.claims))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	wait(ctx, p.net.delay+p.net.gateTo(p, to))
	if p.net.find(p, to) == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if rec.Code != http.StatusOK {
		return nil, fmt.Errorf("status %d: %s", rec.Code, rec.Body)
	}
	return io.ReadAll(rec.Body)
}

func (p *port) WritePacket(b []byte, to netip.AddrPort) error {
	p.net.mu.Lock()
	lost := p.net.rng.Float64() < p.net.loss
	delay := p.net.delay + p.net.gate(p, p.net.ports[to])
	p.net.mu.Unlock()
	if lost {
		return nil
	}
	packet := simPacket{slices.Clone(b), p.addr}
	time.AfterFunc(delay, func() {
		if peer := p.net.find(p, to); peer != nil {
			select {
			case peer.packets <- packet:
			default:
			}
		}
	})
	return nil
}

func (p *port) ReadPacket(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	select {
	case packet := <-p.packets:
		return copy(b, packet.b), packet.from, nil
	case <-ctx.Done():
		return 0, netip.AddrPort{}, ctx.Err()
	}
}

func (p *port) DialStream(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	wait(ctx, 2*(p.net.delay+p.net.gateTo(p, to)))
	peer := p.net.find(p, to)
	if peer == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	mine, theirs := net.Pipe()
	select {
	case peer.streams <- &addrConn{theirs, peer.addr, p.addr}:
		return &addrConn{mine, p.addr, peer.addr}, nil
	default:
		return nil, errors.New("connection refused")
	}
}

func (p *port) AcceptStream(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-p.streams:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// addrConn has addresses like a connection of the mesh.
type addrConn struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c *addrConn) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(c.local) }
func (c *addrConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.remote) }

// within waits until ok holds, and fails the test when it does not in time.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("not within %s: %s", limit, what)
		}
		wait(context.Background(), 10*time.Millisecond)
	}
	return time.Since(start)
}

// secret is a secret's value, sealed to a node that nobody is.
func (w *world) secret(who, function, name, value string) []byte {
	w.t.Helper()
	w.hlc = w.hlc.Next(time.Now())
	to := []identity.Recipient{{Node: "x", Key: bytes.Repeat([]byte{9}, 32)}}
	env, err := identity.Seal([]byte(value), to, identity.SealContext{Cluster: w.cluster, Kind: "secret", Name: function + "/" + name, Version: uint64(w.hlc)})
	w.must(err)
	sealed, err := env.Marshal()
	w.must(err)
	return w.signAt(w.hlc, who, nil, &record.Secret{Function: function, Name: name, Sealed: sealed})
}
