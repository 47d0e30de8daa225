package placement

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// option is a node that may serve the request, with all that its rank depends on.
type option struct {
	peer  *perigee.Peer
	class class
	rtt   time.Duration
	cost  time.Duration // rtt, or the penalty if that is longer
	used  int           // requests there
	slots int           // requests it runs at once; 0 = unknown
	near  bool          // no farther than window from the nearest of its class
}

// class is what is compared before distance, the lower the better. In order of weight: has the
// bundle, not ejected, in the place the client prefers, early in the policy's prefer, warm.
type class uint64

const (
	classCold    class = 1 << 0  // not loaded there
	classTier    class = 1 << 1  // times the index in prefer
	classUnasked class = 1 << 40 // not where the client prefers
	classEjected class = 1 << 41 // failed lately
	classFetch   class = 1 << 42 // the bundle is not there either; whoever has it may be the one that fails
)

// window is how much farther than the nearest a node may be and still count as near: differences
// below it are noise, and load decides.
func window(nearest time.Duration) time.Duration {
	return max(2*time.Millisecond, nearest/10)
}

// busy reports that a request sent there would wait. Of a node that never reported its slots
// nothing is known that speaks against it.
func (o *option) busy() bool { return o.slots > 0 && o.used >= o.slots }

// queue is how long a request sent there would wait, in service times of the function.
func (o *option) queue() float64 {
	if !o.busy() {
		return 0
	}
	return float64(o.used+1-o.slots) / float64(o.slots)
}

// load is the share of its slots in use, for comparison.
func (o *option) load() float64 { return float64(o.used) / float64(max(1, o.slots)) }

// free is the weight of the node in a draw: its free slots. A node with unknown slots counts as
// having one, shared with what was sent there.
func (o *option) free() float64 {
	if o.slots > 0 {
		return float64(max(0, o.slots-o.used))
	}
	return 1 / float64(1+o.used)
}

// byCost orders options of any class, near or not.
func byCost(a, b *option) int {
	return cmp.Or(
		cmp.Compare(a.class, b.class),
		cmp.Compare(a.cost, b.cost),
		strings.Compare(string(a.peer.ID), string(b.peer.ID)),
	)
}

// byRank is byCost, except that within a class the near ones come first, and of those the ones with
// a free slot and then the ones where fewest wait for one.
func byRank(a, b *option) int {
	if c := cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.band(), b.band())); c != 0 {
		return c
	}
	if a.near {
		if c := cmp.Compare(a.queue(), b.queue()); c != 0 {
			return c
		}
	}
	return byCost(a, b)
}

func (o *option) band() int {
	switch {
	case o.near && !o.busy():
		return 0
	case o.near:
		return 1
	}
	return 2
}

// shortlist keeps the best options by byCost. Its room is part of it, so that it lives on the stack.
type shortlist struct {
	room  [MaxCandidates]option
	n     int // options in room, sorted
	limit int // n is at most this; at most MaxCandidates
}

func (s *shortlist) add(o option) {
	if s.n == s.limit {
		if s.n == 0 || byCost(&o, &s.room[s.n-1]) >= 0 {
			return
		}
		s.n--
	}
	at := s.n
	for ; at > 0 && byCost(&o, &s.room[at-1]) < 0; at-- {
		s.room[at] = s.room[at-1]
	}
	s.room[at] = o
	s.n++
}

func (s *shortlist) options() []option { return s.room[:s.n] }

// rank orders the options, best first, and draws the first among equals: those of the best class
// that are near and not busy, each with the weight of its free slots. Always sending to the nearest
// of them, or to the least busy, would make all entry nodes send to the same one between two
// reports of its load. The entry node itself is not drawn against: if it is best, no hop is better.
func rank(options []option, entry perigee.NodeID, chance float64) {
	slices.SortFunc(options, func(a, b option) int { return byCost(&a, &b) })
	var nearest *option
	for i := range options {
		o := &options[i]
		if nearest == nil || nearest.class != o.class {
			nearest = o
		}
		o.near = o.cost <= nearest.cost+window(nearest.cost)
	}
	slices.SortFunc(options, func(a, b option) int { return byRank(&a, &b) })
	if len(options) == 0 || options[0].peer.ID == entry {
		return
	}
	equals := 0
	sum := 0.0
	for equals < len(options) && options[equals].class == options[0].class && options[equals].band() == 0 {
		sum += options[equals].free()
		equals++
	}
	point := chance * sum
	for i := range equals {
		point -= options[i].free()
		if point < 0 {
			drawn := options[i]
			copy(options[1:i+1], options[:i])
			options[0] = drawn
			return
		}
	}
}
