package gossip

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// maxAhead is how far a record's stamp may be ahead of a node's clock. Clocks kept by NTP differ
// by a few milliseconds.
const maxAhead = 500 * time.Millisecond

// MaxClockOff is how far a node's clock may be from the median of its peers' before the node takes no
// records, those of its own included.
const MaxClockOff = maxAhead

// maxOffsets bounds how many peers' clocks are remembered.
const maxOffsets = 64

// clock is the hybrid logical clock of this node, and what it knows of the clocks of others.
type clock struct {
	last    record.HLC
	offsets map[perigee.NodeID]time.Duration // their clock minus ours, at the last exchange
}

// now returns a reading after all that were returned or observed before.
func (c *clock) now(t time.Time) record.HLC {
	c.last = c.last.Next(t)
	return c.last
}

// observe makes later readings come after h.
func (c *clock) observe(h record.HLC) {
	c.last = max(c.last, h)
}

// compare notes a peer's clock, which it read between our sending and receiving.
func (c *clock) compare(peer perigee.NodeID, theirs, sent, received time.Time) {
	middle := sent.Add(received.Sub(sent) / 2)
	slack := received.Sub(sent) / 2 // the reading may be off by this much
	offset := theirs.Sub(middle)
	switch {
	case offset > slack:
		offset -= slack
	case offset < -slack:
		offset += slack
	default:
		offset = 0
	}
	if c.offsets == nil {
		c.offsets = map[perigee.NodeID]time.Duration{}
	}
	if _, known := c.offsets[peer]; !known && len(c.offsets) >= maxOffsets {
		return
	}
	c.offsets[peer] = offset
}

// forget drops what is known of a peer that is gone.
func (c *clock) forget(peer perigee.NodeID) {
	delete(c.offsets, peer)
}

// off returns by how much this node's clock differs from the median of all, its own included:
// positive when it is slow. With one peer nobody can tell who is wrong, and the answer is zero.
func (c *clock) off() time.Duration {
	all := []time.Duration{0}
	for _, o := range c.offsets {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b time.Duration) int { return cmp.Compare(a, b) })
	low, high := all[(len(all)-1)/2], all[len(all)/2]
	switch {
	case low > 0:
		return low
	case high < 0:
		return high
	}
	return 0
}

// known reports whether off says as much as it can: the clocks of two peers were read, or of all if there are fewer.
func (c *clock) known(peers int) bool { return len(c.offsets) >= min(2, peers) }

// checkStamp refuses a record from the future, and any record while this node's own clock is off.
func (c *clock) checkStamp(h record.HLC, now time.Time) *RefusedError {
	if off := c.off(); off.Abs() > MaxClockOff {
		return refuse(RuleClock, "this node's clock shows %s and differs from its peers' by %s: correct it (NTP), or ask another node",
			timeText(now), off.Round(time.Millisecond))
	}
	if ahead(h, now) > maxAhead {
		return refuse(RuleClock, "the record is stamped %s, and this node's clock shows %s: correct the clock of the machine that signed it, and sign again",
			timeText(h.Time()), timeText(now))
	}
	return nil
}

func ahead(h record.HLC, now time.Time) time.Duration { return h.Time().Sub(now) }
