package routing

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/perigee-edge/perigee"
)

// Kind is how long requests take on a node.
type Kind string

// The kinds of service times.
const (
	Fixed       Kind = "fixed"        // 25 ms
	Exponential Kind = "exponential"  // 25 ms on average
	HeavyTailed Kind = "heavy-tailed" // likewise, Pareto with shape 2.2: one in a thousand takes more than 300 ms
	Waiting     Kind = "waiting"      // on I/O: exponential, 100 ms on average, 16 at once; no node is slow
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Fixed, Exponential, HeavyTailed, Waiting} }

// slots is how many requests a node runs at once.
func (k Kind) slots() int {
	if k == Waiting {
		return 16
	}
	return 4
}

func (k Kind) mean() time.Duration {
	if k == Waiting {
		return 100 * time.Millisecond
	}
	return 25 * time.Millisecond
}

// slowness is how much longer requests take on a slow node.
func (k Kind) slowness() float64 {
	if k == Waiting {
		return 1
	}
	return 3
}

// draw returns what one request takes on a node that is not slow.
func (k Kind) draw(r *rand.Rand) time.Duration {
	const shape = 2.2
	d := float64(k.mean())
	switch k {
	case Exponential, Waiting:
		d *= r.ExpFloat64()
	case HeavyTailed:
		d *= (shape - 1) / shape / math.Pow(1-r.Float64(), 1/shape)
	}
	return time.Duration(d)
}

// worker is a node that runs requests, in the order in which they come.
type worker struct {
	id      perigee.NodeID
	region  perigee.Region
	slots   int
	slow    float64 // requests take that much longer; 1 = it is not slow
	dead    bool    // it takes nothing, and what it had is gone
	life    int     // rises when it dies
	running int
	queue   []*trip
	has     []*trip // running or in the queue
	coming  int     // requests on the way there: for the oracle
	median  uint32  // of what requests took, in microseconds
	row     perigee.Load
}

// load is what the worker says of itself.
func (wk *worker) load() perigee.Load {
	return perigee.Load{InFlight: int32(wk.running + len(wk.queue)), Slots: int32(wk.slots), Service: wk.median}
}

// follow moves the median as package node does.
func (wk *worker) follow(took time.Duration) {
	us := uint32(max(1, took.Microseconds()))
	step := wk.median/16 + 1
	switch {
	case wk.median == 0:
		wk.median = us
	case us > wk.median:
		wk.median = min(us, wk.median+step)
	case us < wk.median:
		wk.median = max(us, wk.median-min(step, wk.median-1))
	}
}
