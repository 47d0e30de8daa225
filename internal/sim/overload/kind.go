package overload

import (
	"math"
	"math/rand/v2"
	"time"
)

// Kind is how long requests take.
type Kind string

// The kinds of requests.
const (
	Fixed       Kind = "fixed"        // compute for 25 ms
	Exponential Kind = "exponential"  // for 25 ms on average
	HeavyTailed Kind = "heavy-tailed" // likewise, Pareto with shape 2.2
	Waiting     Kind = "waiting"      // compute for 5 ms, and wait for something outside in the middle: exponential, 100 ms on average
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Fixed, Exponential, HeavyTailed, Waiting} }

// computing is for how long a request computes on average.
func (k Kind) computing() time.Duration {
	if k == Waiting {
		return 5 * time.Millisecond
	}
	return 25 * time.Millisecond
}

// draw makes a request.
func (k Kind) draw(rng *rand.Rand) *request {
	const shape, outside = 2.2, 100 * time.Millisecond
	work := k.computing().Seconds()
	switch k {
	case Exponential:
		work *= rng.ExpFloat64()
	case HeavyTailed:
		work *= (shape - 1) / shape / math.Pow(1-rng.Float64(), 1/shape)
	case Waiting:
		return &request{left: [2]float64{work / 2, work / 2}, outside: seconds(outside.Seconds() * rng.ExpFloat64())}
	}
	return &request{left: [2]float64{work}}
}
