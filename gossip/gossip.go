package gossip

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// DefaultMaxState bounds the records of a cluster when Config.MaxState is zero.
const DefaultMaxState = 256 * perigee.MiB

// gossipKeySize is that of AES-256.
const gossipKeySize = 32

// Config says who this node is and what carries its messages. It is not changed after New.
type Config struct {
	Identity *identity.Node // required
	Genesis  []byte         // the encoded genesis record of the cluster; required
	Dir      string         // holds the log and the file of last known peers; made where missing; required
	FS       vfs.FS         // nil = the real file system
	Mesh     Mesh           // required
	// Peer returns who sent a request to Handler, as the mesh connection proved; required.
	Peer func(*http.Request) (perigee.NodeClaims, bool)
	// CheckManifest holds the manifest's own rules. It must judge by the manifest alone, so that all
	// nodes agree; a revision that it refuses is kept without effect. Required.
	CheckManifest func(*perigee.Manifest) error

	// Read reads what records mean, as this node will, of the functions that changed. It is called before
	// anybody else hears of a record: one that makes it panic is set aside. nil = nothing.
	Read func(d *perigee.Desired, functions []string)

	// Boot is another text after each start of the machine. With it, a record that ends the process twice is set
	// aside; "" = it is not.
	Boot string

	Advertise netip.AddrPort          // where peers reach this node's mesh port; required
	Seeds     func() []netip.AddrPort // addresses of nodes to join; nil = none. Called often
	GossipKey []byte                  // 32 bytes that all nodes share; it protects liveness only. Required
	Row       perigee.Row             // what this node says of itself at first; Addr defaults to Advertise
	MaxState  perigee.Bytes           // of all records; 0 = DefaultMaxState. Equal on all nodes
	Logger    *slog.Logger            // nil = slog.Default()
	Metrics   *Metrics                // nil = not exported
}

// Mesh carries gossip's messages between nodes. Connections are mutually authenticated; packets are not.
type Mesh interface {
	// Call posts a message to a node and returns its answer, of at most 16 MiB.
	Call(ctx context.Context, to perigee.NodeID, path string, body []byte) ([]byte, error)
	// CallAddr does so to whichever node of this cluster is at the address.
	CallAddr(ctx context.Context, addr netip.AddrPort, path string, body []byte) ([]byte, error)
	// WritePacket sends a packet, which may get lost.
	WritePacket(b []byte, to netip.AddrPort) error
	// ReadPacket waits for a packet.
	ReadPacket(ctx context.Context, b []byte) (int, netip.AddrPort, error)
	// DialStream opens a stream to the node at the address.
	DialStream(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// AcceptStream waits for a stream that a node opened.
	AcceptStream(ctx context.Context) (net.Conn, error)
}

// Gossip is this node's part of the cluster's shared state. Its methods are safe for concurrent use.
type Gossip struct {
	core *Core // what it holds and decides; rim.mu guards it
	rim
	disk
	conf    Config
	self    perigee.NodeID
	logger  *slog.Logger
	own     ownRow
	members memberTable
	known   map[perigee.NodeID]netip.AddrPort // the last known peers when this node started

	viewMu   sync.Mutex // one half of the View changes at a time
	view     atomic.Pointer[perigee.View]
	folded   atomic.Pointer[folded]
	watchers watchers

	observePoke chan struct{} // room for one; never closed
	clockKnown  atomic.Bool
	joined      atomic.Bool // somebody appeared since the observer looked
	running     atomic.Bool

	listMu sync.Mutex             // keeps Leave from using a list that was shut down
	list   *memberlist.Memberlist // nil while Run does not run
}

// New opens the state of a directory and folds it, so that View answers at once; it starts nothing.
// It returns ErrForeign when the directory belongs to another cluster.
func New(conf Config) (*Gossip, error) {
	conf, err := conf.fill()
	if err != nil {
		return nil, fmt.Errorf("set up gossip: %w", err)
	}
	claims := conf.Identity.Claims()
	core, err := NewCore(CoreConfig{
		Self: claims.ID, Region: claims.Region, Cluster: conf.Identity.Cluster(), Root: conf.Identity.Root(), Genesis: conf.Genesis,
		CheckManifest: conf.CheckManifest, Read: conf.Read, Max: conf.MaxState, Chance: newRand(),
	})
	if err != nil {
		return nil, fmt.Errorf("set up gossip: %w", err)
	}
	g := &Gossip{
		core: core, self: claims.ID, disk: disk{metrics: conf.Metrics}, conf: conf, logger: conf.Logger.With("node", claims.ID), observePoke: make(chan struct{}, 1),
		rim: rim{poke: make(chan struct{}, 1), replies: map[uint64]chan<- Reply{}, results: map[uint64]chan<- Outcome{}},
	}
	g.members = memberTable{self: g.self, byID: map[perigee.NodeID]*member{}, changed: g.membersChanged}
	g.own.node, g.own.row, g.own.poke = conf.Identity, conf.Row, make(chan struct{}, 1)
	g.own.row.Revisions = maps.Clone(conf.Row.Revisions)
	g.own.row.Sealing = conf.Identity.SealingKey()
	g.own.row.Node, g.own.row.Incarnation, g.own.row.Seq = g.self, uint64(time.Now().UnixMilli()), 0

	g.view.Store(&perigee.View{Desired: &perigee.Desired{}, Observed: &perigee.Observed{}})
	if err := g.load(conf.FS, conf.Dir, g.logger); err != nil {
		return nil, fmt.Errorf("set up gossip: %w", err)
	}
	g.publishDesired(g.core.fold)
	if g.known, err = loadPeers(conf.FS, conf.Dir); err != nil {
		g.logger.Warn("last known peers not read", "err", err)
	}
	g.observe(time.Now())
	return g, nil
}

// fill puts defaults in and checks what has none.
func (c Config) fill() (Config, error) {
	switch {
	case c.Identity == nil || c.Mesh == nil || c.Peer == nil || c.CheckManifest == nil:
		return c, errors.New("the config lacks one of Identity, Mesh, Peer and CheckManifest")
	case c.Dir == "":
		return c, errors.New("the config names no Dir")
	case !c.Advertise.IsValid() || c.Advertise.Port() == 0:
		return c, fmt.Errorf("the config's Advertise is %s: want an address and a port that peers can reach", c.Advertise)
	case len(c.GossipKey) != gossipKeySize:
		return c, fmt.Errorf("the config's GossipKey has %d bytes: want %d", len(c.GossipKey), gossipKeySize)
	case c.MaxState < 0:
		return c, fmt.Errorf("the config's MaxState is %d: want 0 or more", c.MaxState)
	}
	c.Advertise = netip.AddrPortFrom(c.Advertise.Addr().Unmap(), c.Advertise.Port())
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.Seeds == nil {
		c.Seeds = func() []netip.AddrPort { return nil }
	}
	if c.MaxState == 0 {
		c.MaxState = DefaultMaxState
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if !c.Row.Addr.IsValid() {
		c.Row.Addr = c.Advertise
	}
	return c, nil
}

// View returns what this node believes now. It costs one atomic load; the value is immutable.
func (g *Gossip) View() *perigee.View { return g.view.Load() }

// ClockKnown reports whether the View says by how much this node's clock is off. Before the clocks of two peers were
// read, or of all if there are fewer, it says nothing, although the clock may be wrong.
func (g *Gossip) ClockKnown() bool { return g.clockKnown.Load() }

// Watch returns a channel that gets a signal after each new View, one at most pending. It is closed
// when ctx ends.
func (g *Gossip) Watch(ctx context.Context) <-chan struct{} { return g.watchers.watch(ctx) }

// Now returns a reading of the cluster's clock that is after every record seen here. Records that
// are signed for submission here should carry one no earlier.
func (g *Gossip) Now() record.HLC {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.core.Now(time.Now())
}

// SetRow changes what this node says about itself. The change function gets a copy and must not
// keep it; Node, Incarnation, Seq and Digest are gossip's. Peers hear of it within 50 ms when
// routing depends on it, and within half a second when it is load.
func (g *Gossip) SetRow(change func(*perigee.Row)) {
	if !g.own.set(change) {
		return
	}
	if g.running.Load() {
		g.wakeObserver()
	} else {
		g.observe(time.Now())
	}
}

// Genesis returns the record that began the cluster's present epoch. It must not be changed.
func (g *Gossip) Genesis() *record.Genesis { return g.core.parser.present().Genesis }

// GenesisRecord returns its encoding. It must not be changed.
func (g *Gossip) GenesisRecord() []byte { return g.core.parser.present().Raw }

// NodeKey returns the key that a node's name is bound to: by the redemption of its token, by its
// own redemptions as a signer, or by its row. Names are never bound to another key.
func (g *Gossip) NodeKey(id perigee.NodeID) (ed25519.PublicKey, bool) {
	if id == g.self {
		return g.conf.Identity.Key().Public().(ed25519.PublicKey), true
	}
	if key := g.folded.Load().auth.nodes[id]; key != nil {
		return key, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.core.rows.key(id)
}

func (g *Gossip) observed() *perigee.Observed { return g.view.Load().Observed }

// publishDesired replaces the durable half of the View. It is called in order.
func (g *Gossip) publishDesired(f *folded) {
	g.folded.Store(f)
	g.viewMu.Lock()
	g.view.Store(&perigee.View{Desired: f.desired, Observed: g.observed()})
	g.viewMu.Unlock()
	g.own.setDigest(f.desired.Digest)
	g.watchers.signal()
}

func (g *Gossip) publishObserved(o *perigee.Observed) {
	g.viewMu.Lock()
	g.view.Store(&perigee.View{Desired: g.view.Load().Desired, Observed: o})
	g.viewMu.Unlock()
	g.watchers.signal()
}

func (g *Gossip) membersChanged(joined bool) {
	g.wakeObserver()
	if joined {
		g.joined.Store(true)
	}
}

// Usage is what this node's copy of the state takes.
type Usage struct {
	Records        int           `json:"records"`
	Bytes          perigee.Bytes `json:"bytes"`
	Max            perigee.Bytes `json:"max"`       // of Bytes, before deploys are refused
	Collected      int           `json:"collected"` // records that later ones made meaningless, since the start
	CollectedBytes perigee.Bytes `json:"collected_bytes"`
}

// Usage returns what the state takes now.
func (g *Gossip) Usage() Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.core
	return Usage{len(c.set.byID), perigee.Bytes(c.set.bytes), perigee.Bytes(c.max), c.collected.Outlived, perigee.Bytes(c.collected.OutlivedBytes)}
}
