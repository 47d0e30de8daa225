package peerlink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

const (
	// spreadAbove is how many streams each connection to a peer carries before another is opened.
	spreadAbove = 16

	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 2 * time.Second
)

// poolKey names a peer as the caller knows it: by node, or by address alone.
type poolKey struct {
	proto protocol
	node  perigee.NodeID
	addr  netip.AddrPort // zero if node is set
}

func (k poolKey) String() string {
	if k.node != "" {
		return string(k.node)
	}
	return k.addr.String()
}

// pool has the outbound connections of one protocol to one peer. Its fields are guarded by mu.
type pool struct {
	key  poolKey
	size int // connections at most

	mu      sync.Mutex
	conns   []*conn
	dialing chan struct{} // closed when the dial under way ended; nil if there is none
	err     error         // of the last dial; nil after a success
	backoff time.Duration
	retryAt time.Time     // no dial before
	rtt     time.Duration // last known; 0 = none
}

// get returns a connection to the peer, dialling one if there is none. The dial goes on without
// the caller, so that one impatient request does not fail the others. After a failed dial get
// returns its error for a short while without trying.
func (l *Link) get(ctx context.Context, p *pool) (*conn, error) {
	for range 3 { // a connection that opens may be gone before it is used
		p.mu.Lock()
		c, alive := p.leastUsed()
		more := c == nil || alive < p.size && c.streams.Load() >= spreadAbove
		if more && p.dialing == nil && !time.Now().Before(p.retryAt) {
			p.dialing = make(chan struct{})
			if !l.spawn(func() { l.fill(p) }) {
				close(p.dialing)
				p.dialing, p.err = nil, ErrClosed
			}
		}
		dialing, err := p.dialing, p.err
		p.mu.Unlock()
		switch {
		case c != nil:
			return c, nil
		case dialing == nil:
			return nil, err
		}
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return nil, fmt.Errorf("connect to %s: its connections end as soon as they open", p.key)
}

// leastUsed returns the live connection with the fewest streams, nil if there is none, and how many
// are alive. mu is held.
func (p *pool) leastUsed() (best *conn, alive int) {
	for _, c := range p.conns {
		if !c.alive() {
			continue
		}
		alive++
		if best == nil || c.streams.Load() < best.streams.Load() {
			best = c
		}
	}
	return best, alive
}

// fill dials one connection for the pool. A watcher takes it out when it ends. A control connection
// serves the pool that knows the same peer by its other name as well.
func (l *Link) fill(p *pool) {
	p.mu.Lock()
	rtt := p.rtt
	for _, c := range p.conns {
		rtt = c.rtt()
	}
	p.mu.Unlock()
	c, err := l.dial(p.key, rtt)
	var pools []*pool
	if err == nil {
		pools = l.adopt(p, c)
	}
	p.mu.Lock()
	p.dialed(err)
	close(p.dialing)
	p.dialing = nil
	p.mu.Unlock()
	if err == nil {
		l.watch(c, pools)
	}
}

// adopt puts a new connection into the pools that it is for, which watch takes it out of.
func (l *Link) adopt(p *pool, c *conn) []*pool {
	pools := []*pool{p}
	if c.proto == protoControl {
		pools = append(pools, l.pool(p.otherKey(c)))
	}
	for _, p := range pools {
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
	}
	return pools
}

func (p *pool) otherKey(c *conn) poolKey {
	if p.key.node != "" {
		return poolKey{proto: c.proto, addr: c.remote}
	}
	return poolKey{proto: c.proto, node: c.claims.ID}
}

// watch waits for the end of a connection and takes it out of its pools.
func (l *Link) watch(c *conn, pools []*pool) {
	<-c.q.Context().Done()
	l.forget(c)
	for _, p := range pools {
		p.drop(c, context.Cause(c.q.Context()), time.Since(c.opened))
	}
}

// dialed notes the outcome of a dial, or a refusal that came after it. mu is held.
func (p *pool) dialed(err error) {
	p.err = err
	if err == nil {
		p.backoff, p.retryAt = 0, time.Time{}
		return
	}
	p.backoff = min(max(firstBackoff, 2*p.backoff), maxBackoff)
	p.retryAt = time.Now().Add(p.backoff)
}

// drop takes out a connection that ended. If the peer refused this node just after the handshake,
// which in TLS 1.3 is when a client learns it, the dial counts as failed.
func (p *pool) drop(c *conn, cause error, lived time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(o *conn) bool { return o == c })
	p.rtt = c.rtt()
	if err := connErr(cause); errors.Is(err, ErrIdentityRefused) && lived < maxBackoff {
		p.dialed(fmt.Errorf("connect to %s: %w", p.key, err))
	}
}

// forgettable reports whether nothing is lost by making the pool anew when it is needed.
func (p *pool) forgettable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) == 0 && p.dialing == nil && p.rtt == 0 && time.Since(p.retryAt) > maxBackoff
}

// pool returns the pool of a key.
func (l *Link) pool(key poolKey) *pool {
	l.poolsMu.RLock()
	p := l.pools[key]
	l.poolsMu.RUnlock()
	if p != nil {
		return p
	}
	l.poolsMu.Lock()
	defer l.poolsMu.Unlock()
	if p = l.pools[key]; p == nil {
		p = &pool{key: key, size: 1}
		if key.proto == protoPeer {
			p.size = l.cfg.DataConns
		}
		l.pools[key] = p
	}
	return p
}

// dial opens a connection on the way that leads to the peer, and registers it. rtt is the round trip to it, 0
// if not known.
func (l *Link) dial(key poolKey, rtt time.Duration) (*conn, error) {
	return l.open(key, rtt, func(ctx context.Context, addr netip.AddrPort, conf *tls.Config) (*quic.Conn, error) {
		return l.connect(ctx, addr, conf, rtt)
	})
}

// open is dial with the way that connect takes.
func (l *Link) open(key poolKey, rtt time.Duration, connect func(context.Context, netip.AddrPort, *tls.Config) (*quic.Conn, error)) (*conn, error) {
	addr := key.addr
	if key.node != "" {
		var ok bool
		if addr, ok = l.cfg.Addr(key.node); !ok {
			return nil, fmt.Errorf("connect to %s: its address is not known here", key.node)
		}
	}
	limit := l.cfg.DialTimeout
	if rtt > 0 {
		limit = min(limit, 3*rtt+time.Second)
	}
	ctx, cancel := context.WithTimeout(l.life, limit)
	defer cancel()
	began := time.Now()
	q, err := connect(ctx, addr, l.cfg.Identity.PeerClientTLS(key.proto.alpn(), key.node, l.cfg.Allow))
	if err != nil {
		l.met.dialsFailed.Inc()
		return nil, fmt.Errorf("connect to %s at %s: %w", key, addr, connErr(err))
	}
	c := newConn(q, key.proto, true)
	c.remote, c.handshake = addr, time.Since(began)
	claims, ok := identity.PeerClaims(q.ConnectionState().TLS)
	if !ok {
		c.close(closeRefused, "no node certificate")
		return nil, fmt.Errorf("connect to %s at %s: the other side has no node certificate", key, addr)
	}
	c.claims = claims
	if err := l.register(c); err != nil {
		return nil, fmt.Errorf("connect to %s at %s: %w", key, addr, err)
	}
	l.met.dialsOK.Inc()
	return c, nil
}
