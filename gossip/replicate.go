package gossip

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	replicateTime = 2 * time.Second // to get records onto a second disk, before Submit answers anyway
	replicateMost = 8               // peers tried
)

// apply queues a submission: only one at a time is checked and stored, so that of two redemptions of
// one token the second is refused.
func (e Submit) apply(c *Core, now time.Time) {
	c.submits = append(c.submits, e)
	c.nextSubmit(now)
}

func (c *Core) nextSubmit(now time.Time) {
	for c.submitted == nil && len(c.submits) > 0 {
		e := c.submits[0]
		c.submits = c.submits[1:]
		entries, err := c.check(now, e.Records)
		if err != nil {
			c.out.Outcomes = append(c.out.Outcomes, Outcome{Number: e.Number, Err: err})
			continue
		}
		c.submitted = &e
		c.store(now, entries, source{person: true}, func(now time.Time, err error) {
			c.submitted = nil
			if err == nil {
				err = c.confirm(entries)
			}
			if err != nil {
				c.out.Outcomes = append(c.out.Outcomes, Outcome{Number: e.Number, Err: err})
			} else {
				c.replicate(now, e.Number, entries)
			}
			c.nextSubmit(now)
		})
	}
}

// replication is a submission that waits for a second disk.
type replication struct {
	*Core
	number   uint64
	deadline time.Time
	entries  []*entry
	rest     []Peer // to be tried after those that were asked
	further  Reach
	asked    int
}

// replicate pushes records to peers until one has all of them on disk. Outcomes:
//  1. a peer confirmed: it is named;
//  2. there is no peer, or none confirmed in time: none is.
func (c *Core) replicate(now time.Time, number uint64, entries []*entry) {
	first, rest, all := c.pushOrder(ReachAll, true)
	r := &replication{c, number, now.Add(replicateTime), entries, rest, further(ReachAll, all), len(first)}
	c.deadlines = append(c.deadlines, r)
	for _, to := range first {
		c.push(now, to, entries, nil, r.further, r.answered)
	}
	if len(first) == 0 {
		r.end("")
	}
}

func (r *replication) answered(now time.Time, a pushed) {
	r.asked--
	switch {
	case a.err == nil && holdsAll(a.held, r.entries):
		r.end(a.node)
	case len(r.rest) > 0 && slices.Contains(r.deadlines, r): // the next one instead
		to := r.rest[0]
		r.rest = r.rest[1:]
		r.asked++
		r.push(now, to, r.entries, nil, r.further, r.answered)
	case r.asked == 0:
		r.end("")
	}
}

// end reports the outcome, once.
func (r *replication) end(node perigee.NodeID) {
	if i := slices.Index(r.deadlines, r); i >= 0 {
		r.deadlines = slices.Delete(r.deadlines, i, i+1)
		r.out.Outcomes = append(r.out.Outcomes, Outcome{Number: r.number, Node: node})
	}
}

// expire ends those whose time is over.
func (c *Core) expire(now time.Time) {
	for _, r := range slices.Clone(c.deadlines) {
		if !now.Before(r.deadline) {
			r.end("")
		}
	}
}

func holdsAll(held map[perigee.Digest]bool, entries []*entry) bool {
	for _, e := range entries {
		if !held[e.id] {
			return false
		}
	}
	return true
}
