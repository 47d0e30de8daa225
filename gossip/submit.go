package gossip

import (
	"context"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	replicateTime = 2 * time.Second // to get records onto a second disk, before Submit answers anyway
	replicateMost = 8               // peers tried
)

// Ack says where submitted records are on disk: this node first, then those that confirmed it in time.
type Ack struct {
	Stored []perigee.NodeID `json:"stored"`
}

// Submit takes encoded records from people and from this node. It verifies all of them, together
// with what is known here, and stores all or none; the error is then a *RefusedError that names the
// rule. It returns when they are on this node's disk and, where another node can be reached within
// two seconds, on that one's too; an Ack that lists this node alone means that no other confirmed in
// time. Submitting a record again is fine. It is safe for concurrent use, and works before Run and
// while the disk of this node has room.
func (g *Gossip) Submit(ctx context.Context, records ...[]byte) (Ack, error) {
	entries, fresh, err := g.accept(records)
	if err != nil {
		if rule := RuleOf(err); rule != "" {
			g.metrics.Refused.WithLabelValues(string(rule)).Inc()
		}
		return Ack{}, err
	}
	g.metrics.Records.WithLabelValues("submit").Add(float64(len(fresh)))
	others := g.replicate(ctx, entries)
	return Ack{Stored: append([]perigee.NodeID{g.self}, others...)}, nil
}

// accept checks and stores. Only one caller at a time does, so that of two redemptions of one token
// the second is refused.
func (g *Gossip) accept(records [][]byte) (entries, fresh []*entry, err error) {
	g.submitMu.Lock()
	defer g.submitMu.Unlock()
	if entries, err = g.check(records); err != nil {
		return nil, nil, err
	}
	if fresh, err = g.store(entries); err != nil {
		return nil, nil, err
	}
	return entries, fresh, g.confirm(entries)
}

// replicate pushes records to peers and waits until one has all of them on disk. Outcomes:
//  1. a peer confirmed: it, and those that confirmed until then, are returned;
//  2. there is no peer, none confirmed in time, or ctx ended: none is.
func (g *Gossip) replicate(ctx context.Context, entries []*entry) (stored []perigee.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, replicateTime)
	defer cancel()
	first, rest, all := g.pushOrder()
	answers := make(chan pushed, len(first)+len(rest))
	for _, to := range first {
		g.pusher.push(to, entries, nil, !all, answers)
	}
	for asked := len(first); asked > 0; asked-- {
		select {
		case a := <-answers:
			if a.err == nil && holdsAll(a.held, entries) {
				return append(stored, a.node)
			}
			if len(rest) > 0 { // the next one instead
				g.pusher.push(rest[0], entries, nil, !all, answers)
				rest = rest[1:]
				asked++
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func holdsAll(held map[perigee.Digest]bool, entries []*entry) bool {
	for _, e := range entries {
		if !held[e.id] {
			return false
		}
	}
	return true
}
