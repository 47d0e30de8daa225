package peerlink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
)

// Link is a node's end of the mesh: one UDP socket, the connections on it, and what they carry. Its
// methods are safe for concurrent use. Those that need the socket wait until Run listens, and fail
// with ErrClosed when it has ended.
type Link struct {
	cfg Config
	log *slog.Logger
	met *Metrics

	tr           *quic.Transport // over UDP
	tcp          *quic.Transport // through tunnels
	tunnels      *tunnels        // its socket
	outboundQUIC *quic.Config
	conns        *registry
	windows      *windowBudget
	probes       *prober
	packets      chan packet     // never closed
	raws         chan rawArrival // never closed

	// life is the time from New to the end of Run, not of any caller's context.
	life context.Context
	end  context.CancelCauseFunc

	listening chan struct{} // closed by Run when the socket listens

	running atomic.Bool // Run was called
	leaving atomic.Bool // new streams are refused
	moved   atomic.Bool // so are they, since another process takes them

	mu      sync.Mutex // guards stopped, so that wg is not waited for before it is added to
	stopped bool       // no goroutine may start
	wg      sync.WaitGroup

	poolsMu sync.RWMutex // guards pools
	pools   map[poolKey]*pool

	paths     paths
	tunnelsMu sync.Mutex // guards the fields below
	standing  map[*tunnel]struct{}
	openings  map[netip.AddrPort]*opening
}

// New checks the configuration. It starts nothing and does not touch the socket.
func New(cfg Config) (*Link, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Link{
		cfg: cfg, log: cfg.Logger, met: cfg.Metrics,
		conns:     newRegistry(),
		windows:   newWindowBudget(int64(cfg.WindowBudget)),
		packets:   make(chan packet, cfg.PacketQueue),
		raws:      make(chan rawArrival, cfg.RawQueue),
		listening: make(chan struct{}),
		pools:     map[poolKey]*pool{},
		paths:     paths{first: cfg.RetryUDP, m: map[netip.AddrPort]*path{}},
		standing:  map[*tunnel]struct{}{},
		openings:  map[netip.AddrPort]*opening{},
	}
	l.life, l.end = context.WithCancelCause(context.Background())
	l.outboundQUIC = clientQUIC(cfg.IdleTimeout, cfg.KeepAlive)
	l.outboundQUIC.AllowConnectionWindowIncrease = l.windows.allow
	l.tr = newTransport(cfg.Socket, cfg.StatelessResetKey, cfg.Mark)
	l.tr.VerifySourceAddress = l.verifySource()
	l.tunnels = newTunnels(cfg.Socket.LocalAddr(), cfg.IdleTimeout, l.met.tunnelDrops.Inc)
	l.tcp = newTransport(l.tunnels, cfg.StatelessResetKey, cfg.Mark)
	l.probes = newProber(l.tr.WriteTo, l.met.probes.Inc)
	return l, nil
}

// verifySource makes clients prove their address, at the cost of a round trip, while there are more
// handshakes than usual: a flood from forged addresses then costs no certificate work.
func (l *Link) verifySource() func(net.Addr) bool {
	usual := rate.NewLimiter(rate.Limit(l.cfg.RetryAbove), l.cfg.RetryAbove)
	return func(net.Addr) bool {
		if usual.Allow() {
			return false
		}
		l.met.retries.Inc()
		return true
	}
}

// Run listens and serves until ctx ends or the socket fails, and returns after all its goroutines
// ended and the socket is closed. It returns nil if ctx ended it. It may be called once.
//
// At the end, in this order: no connection is accepted any more and new streams are refused as
// draining; answers written just before get about two round trips to leave; all connections are
// closed, which cancels the contexts of handlers still running; when these have returned, the socket
// is closed. A node that wants its handlers to finish waits for them before it ends ctx.
func (l *Link) Run(ctx context.Context) error {
	if l.running.Swap(true) {
		return errors.New("peerlink: Run called twice")
	}
	err := l.run(ctx)
	l.shutdown()
	return err
}

func (l *Link) run(ctx context.Context) error {
	tlsConf, quicConf := l.serverTLS(), l.cfg.serverQUIC()
	quicConf.AllowConnectionWindowIncrease = l.windows.allow
	ln, err := l.tr.Listen(tlsConf, quicConf)
	if err != nil {
		return fmt.Errorf("listen on mesh port %s: %w", l.cfg.Socket.LocalAddr(), err)
	}
	defer ln.Close()
	startPackets(l.tr)
	failed := make(chan error, 2)
	l.spawn(func() { failed <- l.accept(ln) })
	l.spawn(func() { l.readPackets(l.tr) })
	l.spawn(l.reap)
	if l.cfg.TCP != nil {
		tln, err := l.tcp.Listen(tlsConf, tunnelQUIC(quicConf))
		if err != nil {
			return fmt.Errorf("listen on mesh port %s over TCP: %w", l.cfg.TCP.Addr(), err)
		}
		defer tln.Close()
		startPackets(l.tcp)
		l.spawn(func() { failed <- l.accept(tln) })
		l.spawn(func() { l.readPackets(l.tcp) })
		l.spawn(l.acceptTCP)
	}
	close(l.listening)
	l.log.Info("mesh port open", "addr", l.cfg.Socket.LocalAddr().String())
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("accept on mesh port %s: %w", l.cfg.Socket.LocalAddr(), err)
	}
}

// shutdown ends everything that run started.
func (l *Link) shutdown() {
	l.leaving.Store(true)
	linger := time.NewTimer(l.linger())
	<-linger.C
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	l.end(ErrClosed)
	for _, c := range l.conns.snapshot() {
		c.close(closeShutdown, "the node is stopping")
	}
	l.closeTCP()
	for _, t := range l.openTunnels() {
		t.close()
	}
	l.wg.Wait()
	_ = l.tr.Close() // closes what is left in quic-go's queues; its error is that of a socket about to be closed
	if l.cfg.TCP != nil {
		_ = l.tcp.Close()
	}
	if err := l.cfg.Socket.Close(); err != nil {
		l.log.Debug("close mesh port", "err", err)
	}
}

// Moved has peers open new connections, which another process of this node takes, for whatever they
// begin from now on. What is under way here goes on, and so do this side's own requests.
func (l *Link) Moved() {
	l.moved.Store(true)
	l.closeTCP()
	for _, t := range l.openTunnels() {
		t.send(nil)
	}
}

func (l *Link) closeTCP() {
	if l.cfg.TCP != nil {
		_ = l.cfg.TCP.Close() // it takes no more
	}
}

// linger returns how long the answers written last may need to leave: QUIC does not tell when a
// finished stream is acknowledged. It is zero when no stream was used lately.
func (l *Link) linger() (most time.Duration) {
	const atMost = 500 * time.Millisecond
	now := time.Now()
	for _, c := range l.conns.snapshot() {
		if need := 2*c.rtt() + 20*time.Millisecond; !c.outbound && c.unusedFor(now) < need {
			most = max(most, need)
		}
	}
	return min(most, atMost)
}

// spawn starts a goroutine that Run waits for. It returns false when Run is past that.
func (l *Link) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.wg.Go(f)
	return true
}

// ready waits until the socket listens.
func (l *Link) ready(ctx context.Context) error {
	select {
	case <-l.listening:
	case <-l.life.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if l.life.Err() != nil {
		return ErrClosed
	}
	return nil
}

// register adds a connection after its handshake. Revocation is checked once more, since it may
// have arrived between the handshake and now, when Recheck did not know the connection.
func (l *Link) register(c *conn) error {
	limit := l.cfg.MaxPeers
	if !c.proto.betweenNodes() {
		limit = l.cfg.MaxGuests
	}
	if !l.conns.add(c, limit) {
		c.close(closeTooMany, "too many connections")
		return fmt.Errorf("more than %d inbound %s connections", limit, c.proto)
	}
	l.windows.open(c.q)
	l.met.open(c, 1)
	if t := tunnelOf(c.q); t != nil {
		l.routeTunnel(t)
	} else if addr, ok := l.cfg.Addr(c.claims.ID); ok && !c.outbound {
		l.paths.hint(addr, time.Now())
	}
	if l.life.Err() != nil { // shutdown may not have seen it
		c.close(closeShutdown, "the node is stopping")
		l.forget(c)
		return ErrClosed
	}
	if c.proto.betweenNodes() {
		if err := l.cfg.Allow(c.claims); err != nil {
			c.close(closeRefused, err.Error())
			l.forget(c)
			return fmt.Errorf("refuse node %s: %w", c.claims.ID, err)
		}
	}
	return nil
}

// forget undoes register, once.
func (l *Link) forget(c *conn) {
	if l.conns.remove(c) {
		l.windows.close(c.q)
		l.met.open(c, -1)
	}
}

// joinLife is how long a joiner may stay connected: nobody knows who it is.
const joinLife = time.Minute

// reap closes connections that nobody uses, retired ones whose last stream has ended, and joiners
// that stay too long.
func (l *Link) reap() {
	every := min(5*time.Second, l.cfg.UnusedTimeout/10, l.cfg.RetryUDP)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case now := <-tick.C:
			for _, c := range l.conns.snapshot() {
				l.reapConn(c, now, every)
			}
			l.dropPools()
			l.reapTunnels(now)
			l.retryUDP()
		}
	}
}

func (l *Link) reapConn(c *conn, now time.Time, every time.Duration) {
	limit := l.cfg.UnusedTimeout
	switch {
	case c.retired.Load():
		limit = every
	case !c.proto.betweenNodes():
		limit /= 10
	}
	if c.unusedFor(now) >= limit || c.proto == protoJoin && now.Sub(c.opened) >= joinLife {
		c.close(closeUnused, "unused")
	}
}

// dropPools forgets peers without a connection, so that addresses once tried do not pile up.
func (l *Link) dropPools() {
	l.poolsMu.Lock()
	defer l.poolsMu.Unlock()
	for key, p := range l.pools {
		if p.forgettable() {
			delete(l.pools, key)
		}
	}
}

// RTT returns the smoothed round trip time to a node, false without a live connection.
func (l *Link) RTT(id perigee.NodeID) (time.Duration, bool) {
	conns := l.conns.node(id)
	if len(conns) == 0 {
		return 0, false
	}
	best := conns[0]
	for _, c := range conns[1:] {
		if c.outbound && (!best.outbound || c.lastUse.Load() > best.lastUse.Load()) {
			best = c
		}
	}
	return best.rtt(), true
}

// Connected reports whether there is a connection with a node, whoever opened it.
func (l *Link) Connected(id perigee.NodeID) bool { return len(l.conns.node(id)) > 0 }

// Disconnect closes all connections with a node. Requests on them fail. It does not keep either
// side from connecting again: that is for Allow.
func (l *Link) Disconnect(id perigee.NodeID) {
	for _, c := range l.conns.node(id) {
		c.close(closeUnused, "disconnected")
	}
	l.disconnectTunnels(id)
}

// Recheck closes the connections of all nodes that Allow refuses now. Call it when Allow may have
// changed its mind.
func (l *Link) Recheck() {
	defer l.recheckTunnels()
	for _, c := range l.conns.snapshot() {
		if !c.proto.betweenNodes() {
			continue
		}
		if err := l.cfg.Allow(c.claims); err != nil {
			c.close(closeRefused, err.Error())
			l.log.Info("connection closed, node refused", "peer", string(c.claims.ID), "err", err)
		}
	}
}

// Addr returns the socket's address.
func (l *Link) Addr() netip.AddrPort { return addrPort(l.cfg.Socket.LocalAddr()) }
