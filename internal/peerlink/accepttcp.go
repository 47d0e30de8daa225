package peerlink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

// What strangers may have of the TCP port. Those who are let in are bounded by Config.
const (
	maxShaking      = 256 // connections whose handshake is not complete
	maxShakingFrom  = 32  // of them from one place
	maxTunnelsNode  = 4   // that one node opened; the one that was quiet for longest makes room
	guestTunnelIdle = 30 * time.Second
)

// door bounds the connections on the TCP port that have not said who they are. It is safe for concurrent use.
type door struct {
	mu   sync.Mutex // guards the fields below
	all  int
	from map[netip.Addr]int
}

// enter reports whether one more may come from a place; it then must leave.
func (d *door) enter(from netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= maxShaking || d.from[from] >= maxShakingFrom {
		return false
	}
	d.all++
	d.from[from]++
	return true
}

func (d *door) leave(from netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	if d.from[from]--; d.from[from] == 0 {
		delete(d.from, from)
	}
}

// acceptTCP takes connections on the TCP port until the listener is closed.
func (l *Link) acceptTCP() {
	conf := tunnelTLS(l.serverTLS())
	d := &door{from: map[netip.Addr]int{}}
	for {
		raw, err := l.cfg.TCP.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptors, for a while
			if !l.pause(100 * time.Millisecond) {
				return
			}
			continue
		}
		from := originOf(addrPort(raw.RemoteAddr()))
		if !d.enter(from) {
			l.met.tunnelsRefused.Inc()
			_ = raw.Close()
			continue
		}
		if !l.spawn(func() {
			t, err := l.shake(raw, conf)
			d.leave(from)
			if err == nil && t != nil {
				err = l.runTunnel(t)
			}
			if err != nil {
				l.met.tunnelsRefused.Inc()
				_ = raw.Close()
				l.log.Debug("tunnel refused", "addr", raw.RemoteAddr().String(), "err", err)
			}
		}) {
			_ = raw.Close()
			return
		}
	}
}

func (l *Link) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.life.Done():
		return false
	}
}

// shake does the handshake of a tunnel, or answers a probe: then there is no tunnel.
func (l *Link) shake(raw net.Conn, conf *tls.Config) (*tunnel, error) {
	ctx, cancel := context.WithTimeout(l.life, l.cfg.HeadTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	first, probe, err := l.probes.isStream(raw)
	if err != nil || probe {
		_ = raw.Close()
		return nil, err
	}
	conn := tls.Server(first, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	t := newTunnel(l.tunnels, conn, false)
	p := slices.Index(alpns[:], conn.ConnectionState().NegotiatedProtocol)
	if p < 0 {
		return nil, errors.New("no protocol of this package was agreed on")
	}
	if t.proto = protocol(p); t.betweenNodes() {
		var ok bool
		if t.claims, ok = identity.PeerClaims(conn.ConnectionState()); !ok {
			return nil, errors.New("no node certificate")
		}
	}
	return t, nil
}

// runTunnel registers a tunnel after its handshake and starts it. As with connections, revocation is checked
// once more.
func (l *Link) runTunnel(t *tunnel) error {
	if t.outbound {
		claims, ok := identity.PeerClaims(t.conn.ConnectionState())
		if !ok {
			_ = t.conn.Close()
			return errors.New("the other side has no node certificate")
		}
		t.proto, t.claims = protoControl, claims
	}
	l.tunnelsMu.Lock()
	err := l.admit(t)
	if err == nil {
		l.standing[t] = struct{}{}
		l.met.tunnel(t, 1)
	}
	l.tunnelsMu.Unlock()
	if err == nil && t.betweenNodes() {
		err = l.cfg.Allow(t.claims)
	}
	if err == nil && !l.spawn(func() {
		t.run()
		l.forgetTunnel(t)
	}) {
		err = ErrClosed
	}
	if err != nil {
		_ = t.conn.Close()
		l.forgetTunnel(t)
		return err
	}
	return nil
}

// admit applies the limits: of nodes as many as may have connections, but few of each; of joiners and persons as
// many as may have connections, a quarter of them from one place. tunnelsMu is held.
func (l *Link) admit(t *tunnel) error {
	if t.outbound {
		return nil
	}
	var all, near int
	var quiet *tunnel
	for o := range l.standing {
		switch {
		case o.outbound || o.betweenNodes() != t.betweenNodes():
			continue
		case t.betweenNodes() && o.claims.ID == t.claims.ID:
			if near++; quiet == nil || o.last.Load() < quiet.last.Load() {
				quiet = o
			}
		case !t.betweenNodes() && originOf(o.remote) == originOf(t.remote):
			near++
		}
		all++
	}
	if t.betweenNodes() {
		if all >= l.cfg.MaxPeers {
			return fmt.Errorf("more than %d tunnels of nodes", l.cfg.MaxPeers)
		}
		if near >= maxTunnelsNode {
			quiet.close()
		}
		return nil
	}
	if all >= l.cfg.MaxGuests || near >= max(1, l.cfg.MaxGuests/4) {
		return fmt.Errorf("more than %d tunnels of joiners and persons, or more than a quarter of them from one place", l.cfg.MaxGuests)
	}
	return nil
}

// forgetTunnel undoes runTunnel, once, and ends the connections that a tunnel carried.
func (l *Link) forgetTunnel(t *tunnel) {
	l.tunnelsMu.Lock()
	_, ok := l.standing[t]
	delete(l.standing, t)
	l.tunnelsMu.Unlock()
	t.close()
	if !ok {
		return
	}
	l.met.tunnel(t, -1)
	for _, c := range l.conns.snapshot() {
		if tunnelOf(c.q) == t {
			c.close(closeUnused, "its TCP connection ended")
		}
	}
}

// routeTunnel has what goes to the node at the other end of a tunnel that it opened, and uses, go on it: it would
// not use it if UDP got through.
func (l *Link) routeTunnel(t *tunnel) {
	if t.outbound || t.routed.Load() || !t.betweenNodes() || !t.alive() {
		return
	}
	if addr, ok := l.cfg.Addr(t.claims.ID); ok && !t.routed.Swap(true) {
		l.useTCP(addr, t)
	}
}

func (l *Link) openTunnels() []*tunnel {
	l.tunnelsMu.Lock()
	defer l.tunnelsMu.Unlock()
	all := make([]*tunnel, 0, len(l.standing))
	for t := range l.standing {
		all = append(all, t)
	}
	return all
}

// reapTunnels closes tunnels that carry no connection and that no packet passed for long, retired ones without
// a connection, and those of guests sooner.
func (l *Link) reapTunnels(now time.Time) {
	used := map[*tunnel]bool{}
	for _, c := range l.conns.snapshot() {
		if t := tunnelOf(c.q); t != nil {
			used[t] = true
		}
	}
	for _, t := range l.openTunnels() {
		if used[t] {
			l.routeTunnel(t) // its node's address may not have been known
		}
		idle := now.Sub(time.Unix(0, t.last.Load()))
		limit := l.cfg.UnusedTimeout
		if way, _ := l.paths.tunnel(t.remote); t.outbound && way != t && !used[t] && now.Sub(t.opened) >= l.cfg.DialTimeout {
			t.retired.Store(true) // UDP was faster, or came back
		}
		switch {
		case !t.betweenNodes():
			limit = min(limit, guestTunnelIdle)
			if t.proto == protoJoin && now.Sub(t.opened) >= joinLife {
				t.close()
			}
		case t.retired.Load():
			limit = min(limit, l.cfg.DialTimeout) // a handshake on it may be under way
		}
		if idle >= limit || t.retired.Load() && !used[t] && now.Sub(t.opened) >= limit {
			t.close()
		}
	}
}

// recheckTunnels closes the tunnels of nodes that Allow refuses now.
func (l *Link) recheckTunnels() {
	for _, t := range l.openTunnels() {
		if t.betweenNodes() && l.cfg.Allow(t.claims) != nil {
			t.close()
		}
	}
}

// disconnectTunnels closes the tunnels of a node.
func (l *Link) disconnectTunnels(id perigee.NodeID) {
	for _, t := range l.openTunnels() {
		if t.betweenNodes() && t.claims.ID == id {
			t.close()
		}
	}
}
