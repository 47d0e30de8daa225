package placement

import (
	"cmp"
	"math"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// option is a node that may serve the request, with all that its rank depends on.
type option struct {
	peer  *perigee.Peer
	class class
	used  int // requests there
	slots int // requests it runs at once; 0 = unknown
	score Score
}

// Score is how long a request is expected to take on a node, and of what that is made up.
type Score struct {
	Way     time.Duration `json:"way"`     // round trip from the entry node: measured, or estimated from distance; 0 for itself
	Service time.Duration `json:"service"` // what the function takes there, by its median
	Wait    time.Duration `json:"wait"`    // until a slot is free
	Start   time.Duration `json:"start"`   // of a cold node
	Target  time.Duration `json:"target"`  // the way from there to what near names
	Penalty time.Duration `json:"penalty"` // it counts as at least this far away: recent failures
	Total   time.Duration `json:"total"`   // max(Way + Service + 2 Wait + Start + Target, Penalty)
	Chance  float64       `json:"chance"`  // with which it is drawn; 0 = not among the best
}

// What is assumed until something is known.
const (
	assumedService = 10 * time.Millisecond
	assumedStart   = 150 * time.Millisecond // load from disk and compile, or from the cache
	assumedFetch   = 350 * time.Millisecond // fetch a bundle before that
)

// waitWeight is how often the time until a slot is free counts. It is computed from what is known, and that
// is too little: other entry nodes send there too, and the median lies below the mean. In simulation
// (internal/sim/routing) p99 over that of the oracle was 1.4 to 1.6 with 1, 1.2 with 2 and 3, and again up to
// 1.5 with 4.
const waitWeight = 2

// class is what is compared before the score, the lower the better. In order of weight: has the
// bundle, not ejected, in the place the client prefers, early in the policy's prefer.
type class uint64

const (
	classTier    class = 1 << 1  // times the index in prefer
	classUnasked class = 1 << 40 // not where the client prefers
	classEjected class = 1 << 41 // failed lately
	classFetch   class = 1 << 42 // the bundle is not there either; whoever has it may be the one that fails
)

// busy reports that a request sent there would wait. Of a node that never reported its slots
// nothing is known that speaks against it.
func (o *option) busy() bool { return o.slots > 0 && o.used >= o.slots }

// load is the share of its slots in use, for comparison.
func (o *option) load() float64 { return float64(o.used) / float64(max(1, o.slots)) }

// byRank orders options, best first; it is total, since IDs differ.
func byRank(a, b *option) int {
	if a.class != b.class {
		return cmp.Compare(a.class, b.class)
	}
	if a.score.Total != b.score.Total {
		return cmp.Compare(a.score.Total, b.score.Total)
	}
	return strings.Compare(string(a.peer.ID), string(b.peer.ID))
}

// shortlist keeps the best options, sorted. Its room is part of it, so that it lives on the stack.
type shortlist struct {
	room  [MaxCandidates]option
	n     int // options in room
	limit int // n is at most this; at most MaxCandidates
}

func (s *shortlist) add(o *option) {
	if s.n == s.limit {
		if s.n == 0 || byRank(o, &s.room[s.n-1]) >= 0 {
			return
		}
		s.n--
	}
	at := s.n
	for ; at > 0 && byRank(o, &s.room[at-1]) < 0; at-- {
		s.room[at] = s.room[at-1]
	}
	s.room[at] = *o
	s.n++
}

func (s *shortlist) options() []option { return s.room[:s.n] }

// among is how much longer than the best a node may take and still be drawn: what is nearly as good
// shares the work, since the best of this moment is the best for all entry nodes.
func among(best time.Duration) time.Duration { return max(2*time.Millisecond, best/20) }

// draw gives the options of the best class, which are sorted, their chances, and puts the one that is
// drawn first. A better one is drawn more often, by a factor of e for half a millisecond and a fiftieth of the best. The
// entry node itself is not drawn against: if it is best and has a free slot, no hop pays.
func draw(options []option, entry perigee.NodeID, chance float64) {
	best := &options[0]
	if best.peer.ID == entry && !best.busy() {
		best.score.Chance = 1
		return
	}
	least := best.score.Total
	tau := float64(500*time.Microsecond + least/50)
	n, sum := 0, 0.0
	for n < len(options) && options[n].class == best.class && options[n].score.Total <= least+among(least) {
		options[n].score.Chance = math.Exp(-float64(options[n].score.Total-least) / tau)
		sum += options[n].score.Chance
		n++
	}
	drawn, point := 0, chance*sum
	for i := range n {
		if point >= 0 {
			drawn = i
		}
		point -= options[i].score.Chance
		options[i].score.Chance /= sum
	}
	if drawn > 0 {
		o := options[drawn]
		copy(options[1:drawn+1], options[:drawn])
		options[0] = o
	}
}
