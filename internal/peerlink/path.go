package peerlink

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

const (
	// headStart is what UDP has before TCP is tried beside it: a little more than most round trips, and so
	// much less than the half second for which the membership protocol waits that its check over a stream
	// succeeds by TCP.
	headStart = 200 * time.Millisecond

	maxHold = time.Minute      // before UDP is tried again, when it failed again and again or went in and out
	calm    = 10 * time.Minute // on UDP, after which a peer's trouble with it is forgotten
)

// path is what is known about the way to the mesh address of a peer that UDP did not reach lately. A peer
// without a path is reached over UDP.
type path struct {
	tcp     bool          // UDP does not reach it now
	tunnel  *tunnel       // the last one; it may have ended
	opening bool          // a tunnel is being opened for packets
	hold    time.Duration // how long it is left to TCP between attempts
	next    time.Time     // tcp: when UDP is tried next; else when the path is forgotten
}

// paths remembers which way leads to whom. It is safe for concurrent use.
type paths struct {
	first time.Duration // before UDP is tried again for the first time
	any   atomic.Bool   // there is one over TCP: spares the lock where there is none

	mu sync.Mutex // guards m
	m  map[netip.AddrPort]*path
}

// tunnel returns the tunnel to an address, nil if it has ended, and whether one is needed.
func (p *paths) tunnel(addr netip.AddrPort) (t *tunnel, tcp bool) {
	if !p.any.Load() {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.m[addr]
	if q == nil || !q.tcp {
		return nil, false
	}
	if q.tunnel == nil || !q.tunnel.alive() {
		return nil, true
	}
	return q.tunnel, true
}

// blocked notes that a tunnel reaches an address and UDP does not. It reports whether that is news.
func (p *paths) blocked(addr netip.AddrPort, t *tunnel, now time.Time) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.m[addr]
	if q == nil {
		q = &path{}
		p.m[addr] = q
	}
	q.tunnel = t
	if q.tcp {
		return false
	}
	p.any.Store(true)
	q.tcp, q.hold = true, min(max(p.first, 2*q.hold), maxHold)
	q.next = now.Add(q.hold)
	return true
}

// open notes that UDP reaches an address. It reports whether that is news.
func (p *paths) open(addr netip.AddrPort, now time.Time) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.m[addr]
	if q == nil || !q.tcp {
		return false
	}
	q.tcp, q.next = false, now.Add(calm)
	p.count()
	return true
}

// due returns the addresses at which UDP is to be tried again now, and forgets what is of no use: a path whose
// trouble is long over.
func (p *paths) due(now time.Time) (addrs []netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, q := range p.m {
		switch {
		case now.Before(q.next):
		case q.tcp:
			q.next = now.Add(maxHold) // while the attempt is under way
			addrs = append(addrs, addr)
		default:
			delete(p.m, addr)
		}
	}
	return addrs
}

// stillBlocked notes that UDP was tried in vain. If there is no tunnel either, nothing is known any more.
func (p *paths) stillBlocked(addr netip.AddrPort, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.m[addr]
	if q == nil || !q.tcp {
		return
	}
	if q.tunnel == nil || !q.tunnel.alive() {
		delete(p.m, addr)
		p.count()
		return
	}
	q.hold = min(2*q.hold, maxHold)
	q.next = now.Add(q.hold)
}

// hint has UDP be tried soon at an address, from which a connection came over it. That proves no more: many
// firewalls let through what answers, and not what asks.
func (p *paths) hint(addr netip.AddrPort, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.m[addr]; q != nil && q.tcp {
		q.next = now
	}
}

// count is for callers that hold mu.
func (p *paths) count() {
	for _, q := range p.m {
		if q.tcp {
			return
		}
	}
	p.any.Store(false)
}

// opening reports whether the caller is to open a tunnel for packets to an address, and must call opened then.
func (p *paths) opening(addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.m[addr]
	if q == nil || q.opening {
		return false
	}
	q.opening = true
	return true
}

func (p *paths) opened(addr netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.m[addr]; q != nil {
		q.opening = false
	}
}

// connect opens a connection to a node on the way that leads there: over UDP, and where that gets no answer
// over TCP. It remembers what it finds. rtt is the round trip, 0 if not known.
func (l *Link) connect(ctx context.Context, addr netip.AddrPort, conf *tls.Config, rtt time.Duration) (*quic.Conn, error) {
	if l.cfg.TCP == nil {
		return l.connectUDP(ctx, addr, conf)
	}
	first, second := overUDP, overTCP
	if _, tcp := l.paths.tunnel(addr); tcp {
		first, second = overTCP, overUDP
	}
	q, on, err := race(ctx, first, second, map[way]attempt{
		overUDP: func(ctx context.Context) (*quic.Conn, error) { return l.connectUDP(ctx, addr, conf) },
		overTCP: func(ctx context.Context) (*quic.Conn, error) { return l.connectTCP(ctx, addr, conf) },
	}, max(headStart, 2*rtt))
	switch {
	case err != nil:
		return nil, err
	case on == overTCP:
		l.useTCP(addr, tunnelOf(q))
	default:
		l.useUDP(addr)
	}
	return q, nil
}

func (l *Link) connectUDP(ctx context.Context, addr netip.AddrPort, conf *tls.Config) (*quic.Conn, error) {
	return l.tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), conf, l.outboundQUIC)
}

// connectTCP connects on the tunnel to a peer, or on a new one. A tunnel on which nobody answers is not used
// for anything new.
func (l *Link) connectTCP(ctx context.Context, addr netip.AddrPort, conf *tls.Config) (*quic.Conn, error) {
	t, err := l.tunnelTo(ctx, addr)
	if err != nil {
		return nil, err
	}
	q, err := l.tcp.Dial(ctx, t, conf, tunnelQUIC(l.outboundQUIC))
	if err != nil {
		t.retired.Store(true)
	}
	return q, err
}

// opening is a tunnel that is being opened. Its fields are for reading after done.
type opening struct {
	done   chan struct{} // closed when it is open or has failed
	tunnel *tunnel
	err    error
}

// tunnelTo returns the tunnel to a peer, a new one if there is none. Who wants one at the same time gets the same,
// which is opened without regard to who gives up meanwhile.
func (l *Link) tunnelTo(ctx context.Context, addr netip.AddrPort) (*tunnel, error) {
	if t, _ := l.paths.tunnel(addr); t != nil {
		return t, nil
	}
	l.tunnelsMu.Lock()
	o := l.openings[addr]
	if o == nil {
		o = &opening{done: make(chan struct{})}
		l.openings[addr] = o
		if !l.spawn(func() { l.fillOpening(o, addr) }) {
			o.err = ErrClosed
			delete(l.openings, addr)
			close(o.done)
		}
	}
	l.tunnelsMu.Unlock()
	select {
	case <-o.done:
		return o.tunnel, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *Link) fillOpening(o *opening, addr netip.AddrPort) {
	ctx, cancel := context.WithTimeout(l.life, l.cfg.DialTimeout)
	defer cancel()
	o.tunnel, o.err = openTunnel(ctx, l.tunnels, addr, l.cfg.Identity.PeerClientTLS(ALPNControl, "", l.cfg.Allow))
	if o.err == nil {
		o.err = l.runTunnel(o.tunnel)
	}
	l.tunnelsMu.Lock()
	delete(l.openings, addr)
	l.tunnelsMu.Unlock()
	close(o.done)
}

// tunnelQUIC is q for connections on a tunnel, where packets are as long as they may be.
func tunnelQUIC(q *quic.Config) *quic.Config {
	q = q.Clone()
	q.InitialPacketSize, q.DisablePathMTUDiscovery = MaxPacket, true
	return q
}

// tunnelOf returns the tunnel that carries a connection, nil for UDP.
func tunnelOf(q *quic.Conn) *tunnel {
	t, _ := q.RemoteAddr().(*tunnel)
	return t
}

// useTCP has everything new to a peer go on a tunnel. What runs over UDP may still get through: it ends when not even
// the answer to a keep-alive comes.
func (l *Link) useTCP(addr netip.AddrPort, t *tunnel) {
	if !l.paths.blocked(addr, t, time.Now()) {
		return
	}
	l.met.fallbacks.Inc()
	l.log.Info("peer is reached over TCP, since UDP does not get through", "addr", addr.String())
	for _, c := range l.conns.snapshot() {
		if c.outbound && c.remote == addr && tunnelOf(c.q) == nil && c.retire() {
			l.closeIfSilent(c, c.packets(), l.cfg.KeepAlive+suspectGrace)
		}
	}
}

// useUDP has everything new to a peer go over UDP again. What runs on tunnels ends there.
func (l *Link) useUDP(addr netip.AddrPort) {
	if !l.paths.open(addr, time.Now()) {
		return
	}
	l.log.Info("peer is reached over UDP again", "addr", addr.String())
	for _, c := range l.conns.snapshot() {
		if t := tunnelOf(c.q); t != nil && c.outbound && l.leadsTo(t, addr) {
			c.retired.Store(true)
		}
	}
}

// leadsTo reports whether a tunnel is one to the node at an address.
func (l *Link) leadsTo(t *tunnel, addr netip.AddrPort) bool {
	if t.outbound && t.remote == addr {
		return true
	}
	at, ok := l.cfg.Addr(t.claims.ID)
	return ok && at == addr
}

// retryUDP tries whether UDP reaches peers again, by a connection over it: nothing else tells whether one gets
// through. It keeps the connection if there is one.
func (l *Link) retryUDP() {
	for _, addr := range l.paths.due(time.Now()) {
		l.spawn(func() {
			p := l.pool(controlKey(addr))
			c, err := l.open(p.key, 0, l.connectUDP)
			if err != nil {
				l.paths.stillBlocked(addr, time.Now())
				return
			}
			l.useUDP(addr)
			l.watch(c, l.adopt(p, c))
		})
	}
}

// sendTunnel sends a packet of the membership protocol on the tunnel to a peer. If that has ended, a new one is
// opened for it. It returns false if UDP is the way.
func (l *Link) sendTunnel(b []byte, to netip.AddrPort) bool {
	t, tcp := l.paths.tunnel(to)
	switch {
	case t != nil:
		t.send(b)
	case tcp && l.paths.opening(to):
		b = append([]byte(nil), b...)
		if !l.spawn(func() {
			defer l.paths.opened(to)
			t, err := l.tunnelTo(l.life, to)
			if err != nil {
				l.log.Debug("no tunnel for packets", "addr", to.String(), "err", err)
				return
			}
			l.useTCP(to, t)
			t.send(b)
		}) {
			l.paths.opened(to)
		}
	}
	return tcp
}

// Over returns what carries what is new to a node: "udp", or "tcp" where UDP does not get through; "" if there
// is no connection with it.
func (l *Link) Over(id perigee.NodeID) string {
	if addr, ok := l.cfg.Addr(id); ok {
		if _, tcp := l.paths.tunnel(addr); tcp {
			return string(overTCP)
		}
	}
	on := ""
	for _, c := range l.conns.node(id) {
		switch {
		case tunnelOf(c.q) == nil:
			return string(overUDP)
		default:
			on = string(overTCP)
		}
	}
	return on
}
