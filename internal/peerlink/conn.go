package peerlink

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// protocol is what a connection carries.
type protocol uint8

const (
	protoPeer protocol = iota
	protoControl
	protoJoin
	protoAdmin
)

var alpns = [...]string{protoPeer: ALPNPeer, protoControl: ALPNControl, protoJoin: ALPNJoin, protoAdmin: ALPNAdmin}

func (p protocol) alpn() string { return alpns[p] }

func (p protocol) String() string {
	return [...]string{protoPeer: "peer", protoControl: "control", protoJoin: "join", protoAdmin: "admin"}[p]
}

// betweenNodes reports whether both ends of the connection are nodes.
func (p protocol) betweenNodes() bool { return p == protoPeer || p == protoControl }

// conn is one connection with the facts that decide its use.
type conn struct {
	q        *quic.Conn
	proto    protocol
	outbound bool
	claims   perigee.NodeClaims // of the node at the other end; zero for joiners and persons
	remote   netip.AddrPort     // when it was opened; the other side may move
	opened   time.Time

	handshake time.Duration // what opening it took; 0 = the other side opened it

	streams atomic.Int64 // in use
	lastUse atomic.Int64 // Unix nanoseconds of the last opening or end of a stream
	retired atomic.Bool  // no new streams; closed when the last one ends
}

func newConn(q *quic.Conn, p protocol, outbound bool) *conn {
	c := &conn{q: q, proto: p, outbound: outbound, remote: addrPort(q.RemoteAddr()), opened: time.Now()}
	c.lastUse.Store(c.opened.UnixNano())
	return c
}

// openStream opens a stream, which closeStream must follow. When the peer's limit of streams is
// reached, it returns quic.StreamLimitReachedError or waits, as told.
func (c *conn) openStream(ctx context.Context, dontWait bool) (st *quic.Stream, err error) {
	c.useStream()
	if dontWait {
		st, err = c.q.OpenStream()
	} else {
		st, err = c.q.OpenStreamSync(ctx)
	}
	if err != nil {
		c.closeStream()
	}
	return st, err
}

func (c *conn) useStream() {
	c.streams.Add(1)
	c.lastUse.Store(time.Now().UnixNano())
}

func (c *conn) closeStream() {
	c.lastUse.Store(time.Now().UnixNano())
	c.streams.Add(-1)
}

// unusedFor returns how long the connection has carried no stream.
func (c *conn) unusedFor(now time.Time) time.Duration {
	if c.streams.Load() > 0 {
		return 0
	}
	return now.Sub(time.Unix(0, c.lastUse.Load()))
}

// retire lets only what runs on the connection go on, also on the tunnel that carries it. It reports whether that
// is news.
func (c *conn) retire() bool {
	if t := tunnelOf(c.q); t != nil {
		t.retired.Store(true)
	}
	return !c.retired.Swap(true)
}

func (c *conn) alive() bool { return c.q.Context().Err() == nil && !c.retired.Load() }

// rtt returns the smoothed round trip. Until QUIC has measured one it is what the handshake took: a
// handshake over more than 200 ms sends its first packet twice, so that none of it is a sample, and
// quic-go would say 100 ms.
func (c *conn) rtt() time.Duration {
	stats := c.q.ConnectionStats()
	if stats.MeanDeviation == 0 { // as before the first sample, and never after it
		return max(stats.SmoothedRTT, c.handshake)
	}
	return stats.SmoothedRTT
}

// packets returns how many packets came from the peer so far.
func (c *conn) packets() uint64 { return c.q.ConnectionStats().PacketsReceived }

func (c *conn) close(code quic.ApplicationErrorCode, why string) {
	_ = c.q.CloseWithError(code, why) // reports only that it is closed already
}

// origin returns the network that the other side dialled from: an IPv4 address or an IPv6 /64.
func (c *conn) origin() netip.Addr {
	return originOf(c.remote)
}

func originOf(remote netip.AddrPort) netip.Addr {
	a := remote.Addr()
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}

// addrPort returns the zero AddrPort for an address that is not one.
func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// registry knows all open connections of a Link. It is safe for concurrent use.
type registry struct {
	mu     sync.RWMutex // guards the fields below
	all    map[*conn]struct{}
	byNode map[perigee.NodeID][]*conn
	count  [len(alpns)]int    // of inbound connections
	guests map[netip.Addr]int // inbound connections of joiners and persons by where they come from
}

func newRegistry() *registry {
	return &registry{all: map[*conn]struct{}{}, byNode: map[perigee.NodeID][]*conn{}, guests: map[netip.Addr]int{}}
}

// add registers a connection unless there are limit inbound ones of its protocol already. A quarter
// of the limit for joiners and persons may come from one place, so that one host can't keep others out.
func (r *registry) add(c *conn, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.outbound {
		guest := !c.proto.betweenNodes()
		if r.count[c.proto] >= limit || guest && r.guests[c.origin()] >= max(1, limit/4) {
			return false
		}
		r.count[c.proto]++
		if guest {
			r.guests[c.origin()]++
		}
	}
	r.all[c] = struct{}{}
	if c.proto.betweenNodes() {
		r.byNode[c.claims.ID] = append(r.byNode[c.claims.ID], c)
	}
	return true
}

// remove reports whether the connection was registered.
func (r *registry) remove(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.all[c]; !ok {
		return false
	}
	delete(r.all, c)
	if !c.outbound {
		r.count[c.proto]--
	}
	if !c.proto.betweenNodes() {
		if r.guests[c.origin()]--; r.guests[c.origin()] <= 0 {
			delete(r.guests, c.origin())
		}
		return true
	}
	rest := slices.DeleteFunc(slices.Clone(r.byNode[c.claims.ID]), func(o *conn) bool { return o == c })
	if len(rest) == 0 {
		delete(r.byNode, c.claims.ID)
	} else {
		r.byNode[c.claims.ID] = rest
	}
	return true
}

func (r *registry) snapshot() []*conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*conn, 0, len(r.all))
	for c := range r.all {
		all = append(all, c)
	}
	return all
}

// node returns the connections with a node. The slice must not be changed.
func (r *registry) node(id perigee.NodeID) []*conn {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byNode[id]
}
