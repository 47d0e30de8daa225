package overload

import (
	"math"
	"time"
)

// rule moves a limit by how long requests were inside, as Netflix's concurrency-limits has it, with its defaults
// but where a comment says otherwise.
// A refusal moves none of them: the queue before the limit refuses, which says nothing of what is inside.
type rule interface {
	Limit() int
	Ended(took time.Duration, inside int) // a request, and how many were inside with it
}

const (
	firstLimit = 20
	mostLimit  = 256
)

func bound(l float64) float64 { return min(mostLimit, max(1, l)) }

// fixed never moves.
type fixed int

func (f fixed) Limit() int               { return int(f) }
func (f fixed) Ended(time.Duration, int) {}

// aimd adds one, or takes a tenth away.
type aimd struct{ limit float64 }

const tooLong = 200 * time.Millisecond // the default, 5 s, would never be reached here

func (a *aimd) Limit() int { return int(a.limit) }

func (a *aimd) Ended(took time.Duration, inside int) {
	switch {
	case took > tooLong:
		a.limit = bound(a.limit * 0.9)
	case 2*inside >= a.Limit():
		a.limit = bound(a.limit + 1)
	}
}

// vegas estimates the queue inside from the shortest time seen.
type vegas struct {
	limit    float64
	shortest time.Duration
	seen     int
}

const probeEvery = 30 // times the limit: then the shortest time is looked for anew

func (v *vegas) Limit() int { return int(v.limit) }

func (v *vegas) Ended(took time.Duration, inside int) {
	if v.seen++; v.shortest == 0 || took < v.shortest || float64(v.seen) >= probeEvery*v.limit {
		v.shortest, v.seen = took, 0
		return
	}
	if 2*inside < v.Limit() {
		return
	}
	step := max(1, math.Log10(v.limit))
	switch queue := math.Ceil(v.limit * (1 - float64(v.shortest)/float64(took))); {
	case queue <= step:
		v.limit += 6 * step
	case queue < 3*step:
		v.limit += step
	case queue > 6*step:
		v.limit -= step
	}
	v.limit = bound(v.limit)
}

// gradient2 compares a request's time with the average of hundreds.
type gradient2 struct {
	limit float64
	long  float64 // seconds
}

func (g *gradient2) Limit() int { return int(g.limit) }

func (g *gradient2) Ended(took time.Duration, inside int) {
	const tolerance, weight, smoothing, room = 1.5, 2.0 / 601, 0.2, 4
	short := took.Seconds()
	if g.long == 0 {
		g.long = short
	}
	if g.long += weight * (short - g.long); g.long/short > 2 {
		g.long *= 0.95
	}
	if 2*inside < g.Limit() {
		return
	}
	gradient := max(0.5, min(1, tolerance*g.long/short))
	g.limit = bound(g.limit*(1-smoothing) + smoothing*(g.limit*gradient+room))
}
