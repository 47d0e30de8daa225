package peerlink

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

// The protocols of a connection, as ALPN names them.
const (
	ALPNPeer    = "perigee-peer/1"
	ALPNControl = "perigee-control/1"
	ALPNJoin    = "perigee-join/1"
	ALPNAdmin   = "perigee-admin/1"
)

// Config says what a Link needs and bounds. Zero values of the limits mean the defaults. It is not
// changed after New.
type Config struct {
	Socket   net.PacketConn // the mesh port; Run closes it. Anything but a *net.UDPConn is slower: no batches, no ECN
	Identity *identity.Node

	// TCP listens on the same port for peers that UDP does not reach; Run closes it. Nil means that there is
	// no way over TCP, in or out.
	TCP net.Listener

	// Allow returns an error for a node that must not be connected to: a revoked one. It is called
	// at each handshake and by Recheck, from many goroutines. Nil allows every node of the cluster.
	Allow func(perigee.NodeClaims) error

	// Addr returns the mesh address of a node, false if it is not known. It is called at each dial.
	Addr func(perigee.NodeID) (netip.AddrPort, bool)

	// The handlers of the four protocols. A protocol whose handler is nil is refused at the handshake,
	// except that control also carries raw streams and is always offered.
	Hops, Control, Join, Admin http.Handler

	Logger  *slog.Logger // nil = slog.Default()
	Metrics *Metrics     // nil = not counted

	AcceptFloor time.Duration // least wait for a worker's "accepted"; 3 round trips if that is more; default 300 ms
	DialTimeout time.Duration // for a handshake; less where the round trip is known: 3 of them and 1 s; default 3 s
	HeadTimeout time.Duration // for the arrival of a request's head, and for a handshake over TCP; default 10 s

	// IdleTimeout ends a connection whose peer sends nothing, not even acknowledgements; default 15 s.
	// Where no new request finds the peer silent first, accepted requests hang on a dead peer for up
	// to IdleTimeout and KeepAlive together.
	IdleTimeout time.Duration

	// KeepAlive is how often the dialling side asks for a sign of life on a quiet connection; default
	// 5 s, so that three may be lost within IdleTimeout. It stops with UnusedTimeout: a link that
	// nobody uses sends nothing at all.
	KeepAlive time.Duration

	// UnusedTimeout closes a connection that carried no stream for so long; default 5 min. Opening one
	// again costs a round trip, which is worth a packet every few seconds for a while. Connections of
	// joiners and persons are closed after a tenth of it.
	UnusedTimeout time.Duration

	// RetryUDP is how long a peer that UDP did not reach is left to TCP before UDP is tried again; doubled
	// each time in vain, to a minute at most; default 5 s.
	RetryUDP time.Duration

	DataConns  int // connections for hops to one peer, since one is the work of one core; default 2
	MaxStreams int // at once on one inbound connection; default 10000
	MaxPeers   int // inbound connections of nodes, for hops and for control each; default 8192
	MaxGuests  int // inbound connections of joiners, and as many of persons, a quarter of them from one place; default 64
	RetryAbove int // handshakes a second, beyond which a client must first prove its address; default 200

	PacketQueue int // packets waiting for ReadPacket; more are dropped and counted; default 1024
	RawQueue    int // raw streams waiting for AcceptRaw; more are refused; default 64

	// WindowBudget is how much all connections together may promise to receive beyond their first
	// windows (2 MiB each) when the application keeps up; default 512 MiB.
	WindowBudget perigee.Bytes

	// StatelessResetKey lets peers of an earlier run of this node notice at once that it is gone. Nil
	// means a random key, with which they notice after IdleTimeout.
	StatelessResetKey *[32]byte

	// Mark begins all connection ids of this process; default zeros. Processes that share the port
	// need marks of their own.
	Mark [4]byte
}

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Socket == nil:
		return c, errors.New("peerlink config: Socket is nil: give it the mesh port")
	case c.Identity == nil:
		return c, errors.New("peerlink config: Identity is nil: load the node's key and certificate first")
	case c.Addr == nil:
		return c, errors.New("peerlink config: Addr is nil: it must say where a node is")
	}
	if c.Allow == nil {
		c.Allow = func(perigee.NodeClaims) error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"AcceptFloor", &c.AcceptFloor, 300 * time.Millisecond},
		{"DialTimeout", &c.DialTimeout, 3 * time.Second},
		{"HeadTimeout", &c.HeadTimeout, 10 * time.Second},
		{"IdleTimeout", &c.IdleTimeout, 15 * time.Second},
		{"KeepAlive", &c.KeepAlive, 5 * time.Second},
		{"UnusedTimeout", &c.UnusedTimeout, 5 * time.Minute},
		{"RetryUDP", &c.RetryUDP, 5 * time.Second},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("peerlink config: %s is %v: use a positive duration, or 0 for %v", d.name, *d.value, d.def)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{
		{"DataConns", &c.DataConns, 2},
		{"MaxStreams", &c.MaxStreams, 10000},
		{"MaxPeers", &c.MaxPeers, 8192},
		{"MaxGuests", &c.MaxGuests, 64},
		{"RetryAbove", &c.RetryAbove, 200},
		{"PacketQueue", &c.PacketQueue, 1024},
		{"RawQueue", &c.RawQueue, 64},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("peerlink config: %s is %d: use a positive number, or 0 for %d", n.name, *n.value, n.def)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	if c.KeepAlive >= c.IdleTimeout {
		return c, fmt.Errorf("peerlink config: KeepAlive %v must be less than IdleTimeout %v", c.KeepAlive, c.IdleTimeout)
	}
	if c.WindowBudget == 0 {
		c.WindowBudget = 512 * perigee.MiB
	}
	return c, nil
}

// The flow control windows. A stream gets what 80 ms at 100 Mbit/s need at once and what 100 ms at
// 1 Gbit/s need in the end; quic-go grows them only while the application reads as fast as data
// comes. A connection that is not read holds at most its first window.
const (
	firstStreamWindow = 1 << 20
	maxStreamWindow   = 16 << 20
	firstConnWindow   = 2 << 20
	maxConnWindow     = 64 << 20
)

// serverQUIC is for inbound connections: no keep-alive, so that the dialler decides how long to stay.
func (c *Config) serverQUIC() *quic.Config {
	q := clientQUIC(c.IdleTimeout, 0)
	q.MaxIncomingStreams = int64(c.MaxStreams + creditBatch(c.MaxStreams) - 1)
	q.RequireStreamCreditRelease = true // credits do it
	return q
}

// clientQUIC is for outbound connections: the peer opens no streams on them.
func clientQUIC(idle, keepAlive time.Duration) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 idle,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     firstStreamWindow,
		MaxStreamReceiveWindow:         maxStreamWindow,
		InitialConnectionReceiveWindow: firstConnWindow,
		MaxConnectionReceiveWindow:     maxConnWindow,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          -1,
	}
}
