package gossip

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	observeSpacing = 50 * time.Millisecond // at most 20 times a second
	observeAging   = time.Second           // states change by time alone
)

// observe builds the volatile half of the View from rows and membership, and publishes it if
// anything differs.
func (g *Gossip) observe(now time.Time) {
	size := len(g.observed().Nodes)
	g.mu.Lock()
	states, rows, dropped := g.core.rows.sweep(now, func(s *rowState) perigee.NodeState {
		return liveness(now, s, g.members.get(s.row.Node), beat(size), verdictHold(size))
	})
	for _, id := range dropped {
		g.core.clock.forget(id)
	}
	off := g.core.clock.off()
	known := g.core.clock.known(max(len(g.core.peers), len(g.known)))
	g.mu.Unlock()
	defer g.clockKnown.Store(known)
	g.metrics.ClockOff.Set(off.Seconds())
	g.own.setClockOff(off)
	g.members.drop(dropped)
	nodes := make(map[perigee.NodeID]*perigee.Peer, len(rows)+1)
	nodes[g.self] = &perigee.Peer{
		NodeClaims: g.conf.Identity.Claims(), Row: g.own.get(), State: perigee.NodeAlive, Expires: g.conf.Identity.Expires(),
	}
	if g.own.hasLeft() {
		nodes[g.self].State = perigee.NodeLeft
	}
	counts := map[perigee.NodeState]int{}
	for id, s := range rows {
		nodes[id] = &perigee.Peer{NodeClaims: s.claims, Row: s.row, State: states[id], Expires: s.expires}
		counts[states[id]]++
	}
	for _, state := range []perigee.NodeState{perigee.NodeAlive, perigee.NodeSuspect, perigee.NodeLeft, perigee.NodeDead} {
		g.metrics.Peers.WithLabelValues(string(state)).Set(float64(counts[state]))
	}
	same := keepSame(g.observed().Nodes, nodes)
	g.step(Peers{g.targets(nodes)}) // before readers see it, so that nobody waits for a node that is shown dead
	if same {
		return
	}
	g.publishObserved(&perigee.Observed{Self: g.self, Nodes: nodes, At: now})
}

// keepSame puts the old values of unchanged peers into the new map, so that readers can compare
// pointers, and reports whether nothing changed.
func keepSame(old, new map[perigee.NodeID]*perigee.Peer) bool {
	same := len(old) == len(new)
	for id, p := range new {
		if q := old[id]; q != nil && samePeer(p, q) {
			new[id] = q
		} else {
			same = false
		}
	}
	return same
}

// samePeer compares by the row's number: a row with the same number is the same, except for this
// node's own, which changes before it is signed again.
func samePeer(p, q *perigee.Peer) bool {
	return p.Incarnation == q.Incarnation && p.Seq == q.Seq && p.State == q.State && p.Expires.Equal(q.Expires) &&
		p.Load == q.Load && p.Draining == q.Draining && p.Full == q.Full && p.HTTPS == q.HTTPS && p.Addr == q.Addr && p.Version == q.Version && p.ClockOff == q.ClockOff &&
		p.Row.Digest == q.Row.Digest && maps.Equal(p.Revisions, q.Revisions) && maps.Equal(p.Trials, q.Trials) && p.Memory == q.Memory &&
		maps.Equal(p.Near, q.Near) && maps.Equal(p.Traffic, q.Traffic) && maps.EqualFunc(p.Optional, q.Optional, slices.Equal)
}

// observeLoop rebuilds the observed half when something changed, and once a second.
func (g *Gossip) observeLoop(ctx context.Context) {
	aging := time.NewTicker(observeAging)
	defer aging.Stop()
	for ctx.Err() == nil {
		g.observe(time.Now())
		if g.joined.Swap(false) {
			g.step(Joined{})
		}
		wait(ctx, observeSpacing)
		select {
		case <-g.observePoke:
		case <-aging.C:
		case <-ctx.Done():
		}
	}
}

func (g *Gossip) wakeObserver() {
	select {
	case g.observePoke <- struct{}{}:
	default: // it will see this change too
	}
}

// sizes returns how many nodes there are, here and in all.
func (g *Gossip) sizes() (near, all int) {
	nodes := g.observed().Nodes
	for _, p := range nodes {
		if p.Region == g.core.region {
			near++
		}
	}
	return near, len(nodes)
}

// rowLoop signs and spreads this node's own row.
func (g *Gossip) rowLoop(ctx context.Context) {
	for !g.own.hasLeft() {
		if d := g.nextRow(time.Now()); d > 0 {
			timer := time.NewTimer(d)
			select {
			case <-timer.C:
			case <-g.own.poke: // perhaps it is due earlier now
			case <-ctx.Done():
			}
			timer.Stop()
		} else {
			g.signRow(time.Now())
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func (g *Gossip) nextRow(now time.Time) time.Duration {
	near, all := g.sizes()
	return g.own.due(now, near, all)
}

// signRow publishes this node's row as it is now.
func (g *Gossip) signRow(now time.Time) {
	raw, row, reach, err := g.own.sign(now)
	if err != nil || len(raw) > maxRowSize {
		g.logger.Error("own row not published", "bytes", len(raw), "err", err)
		return
	}
	g.step(Own{Row: ownRowState(raw, row, g.conf.Identity, now), Reach: reach})
}
