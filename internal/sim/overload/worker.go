// Package overload simulates one worker that is asked for too much, or nearly: with the limit and the queues of
// runtime/overload, and with other ways to find a limit for the same queue. Time is simulated, and a run depends
// on nothing but its Config. It is for tests and figures only.
//
// The worker's processors are shared evenly among the requests that compute. A request that waits for the world
// outside needs none. What switching between requests costs is not simulated.
package overload

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee/runtime/overload"
)

const (
	processors = 4
	length     = 30 * time.Second
	warmUp     = 5 * time.Second // its requests are not counted
	inTime     = time.Second     // an answer after that is worth nothing
)

// Config says what is simulated.
type Config struct {
	Seed  uint64
	Kind  Kind
	Limit Limit
	Load  float64 // of what the processors can do
}

// Result is what came of it.
type Result struct {
	Goodput float64       // answers in time, as a share of what was asked or could be done, whichever is less
	P99     time.Duration // of the answers
	Refused float64       // share of the requests
}

// request is on its way through the worker.
type request struct {
	came    time.Duration
	left    [2]float64 // seconds of computing, before and after the wait outside
	outside time.Duration
	back    time.Duration // when that wait is over
	entered time.Duration
	work    float64 // seconds that it computed
	delayed float64 // seconds that it waited for a processor
	counted bool
}

// worker is a run.
type worker struct {
	now       time.Duration
	gate      gate
	computing []*request
	away      []*request // waiting for the world outside
	waiting   []*waiter
	took      []time.Duration
	refused   int
	asked     int
}

// waiter is a request in the gate's queue.
type waiter struct {
	r        *request
	deadline time.Duration
	w        *overload.Waiter
}

// Run simulates.
func Run(c Config) Result { return run(c, newGate(c.Limit)) }

func run(c Config, g gate) Result {
	rng := rand.New(rand.NewPCG(c.Seed, 0))
	wk := &worker{gate: g}
	every := c.Kind.computing().Seconds() / processors / c.Load
	next := time.Duration(0)
	for wk.now < length {
		at, what := next, func() {
			next += seconds(every * rng.ExpFloat64())
			wk.ask(c.Kind.draw(rng))
		}
		sooner := func(t time.Duration, do func()) {
			if t < at {
				at, what = t, do
			}
		}
		for _, r := range wk.computing {
			sooner(wk.now+seconds(r.left[0]/wk.rate()), func() { wk.ends(r) })
		}
		for _, r := range wk.away {
			sooner(r.back, func() { wk.comesBack(r) })
		}
		for _, w := range wk.waiting {
			sooner(w.deadline, func() { wk.givesUp(w) })
		}
		wk.advance(at)
		what()
	}
	slices.Sort(wk.took)
	good, _ := slices.BinarySearch(wk.took, inTime+1)
	span := (length - warmUp).Seconds()
	worth := min(float64(wk.asked), span*processors/c.Kind.computing().Seconds())
	res := Result{Goodput: float64(good) / worth, Refused: float64(wk.refused) / float64(wk.asked)}
	if n := len(wk.took); n > 0 {
		res.P99 = wk.took[min(n-1, n*99/100)]
	}
	return res
}

func seconds(s float64) time.Duration { return time.Duration(math.Ceil(s * float64(time.Second))) }

// rate is how fast each request computes.
func (wk *worker) rate() float64 { return min(1, processors/float64(len(wk.computing))) }

func (wk *worker) advance(to time.Duration) {
	passed := (to - wk.now).Seconds()
	done := passed * wk.rate()
	for _, r := range wk.computing {
		r.left[0] -= done
		r.work += done
		r.delayed += passed - done
	}
	wk.now = to
}

// time returns now as the limiter wants it.
func (wk *worker) time() time.Time { return time.Unix(0, 0).Add(wk.now) }

func (wk *worker) ask(r *request) {
	if r.came, r.counted = wk.now, wk.now >= warmUp; r.counted {
		wk.asked++
	}
	w := wk.gate.Enter(wk.time())
	if w == nil {
		wk.begin(r)
		return
	}
	in := &waiter{r: r, deadline: wk.now + w.Patience, w: w}
	w.Decide = func(admitted bool) {
		wk.waiting = without(wk.waiting, in)
		if admitted {
			wk.begin(r)
		} else {
			wk.refuse(r)
		}
	}
	wk.waiting = append(wk.waiting, in)
}

func (wk *worker) begin(r *request) {
	r.entered = wk.now
	wk.computing = append(wk.computing, r)
}

func (wk *worker) refuse(r *request) {
	if r.counted {
		wk.refused++
	}
}

func (wk *worker) givesUp(w *waiter) {
	wk.gate.GiveUp(w.w)
	wk.waiting = without(wk.waiting, w)
	wk.refuse(w.r)
}

// ends is called when a request has computed what it had to.
func (wk *worker) ends(r *request) {
	wk.computing = without(wk.computing, r)
	if r.outside > 0 {
		r.back, r.outside = wk.now+r.outside, 0
		r.left = [2]float64{r.left[1]}
		wk.away = append(wk.away, r)
		wk.gate.Pause(wk.time())
		return
	}
	if r.counted {
		wk.took = append(wk.took, wk.now-r.came)
	}
	wk.gate.Exit(wk.now-r.entered, seconds(r.work), seconds(r.delayed), wk.time())
}

func (wk *worker) comesBack(r *request) {
	wk.away = without(wk.away, r)
	wk.computing = append(wk.computing, r)
	wk.gate.Resume()
}

func without[T comparable](list []T, x T) []T {
	i := slices.Index(list, x)
	return slices.Delete(list, i, i+1)
}
