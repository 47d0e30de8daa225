// Package routing simulates requests in a cluster of several regions, with the production choice of
// package placement and with others to compare it with. Time is simulated: a run is a queue of events and
// depends on nothing but its Config. It is for tests and figures only.
//
// The world has the published round trips (internal/wan): six regions, three gateways and two workers in
// each. Almost half of the requests enter in one region, so that they must spill. A worker is three times
// as slow for about a fifth of the time. Workers run requests in the order in which they come and refuse
// none. They report their load with each acceptance and response, and twice a second by gossip, which
// takes a while. What is not simulated: bandwidth, loss of packets, cold starts, retries of what has begun.
package routing

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wan"
)

const (
	gatewaysPerRegion = 3
	workersPerRegion  = 2
	busyShare         = 0.45 // of requests, in the first region

	gossipEvery = 500 * time.Millisecond
	gossipTakes = 250 * time.Millisecond

	warmUp = 5 * time.Second // its requests are not counted
	settle = 5 * time.Second // after the last request: answers still come

	patience = 300 * time.Millisecond // a request not accepted by then, or in 3 round trips, goes elsewhere
)

// Regions are those of the world; the first is the busy one.
func Regions() []perigee.Region { return []perigee.Region{"fra", "lon", "wdc", "dal", "tok", "syd"} }

// Config says what is simulated.
type Config struct {
	Seed   uint64
	Kind   Kind
	Policy Policy
	Load   float64 // the share of all slots that would be in use if no node were ever slow
	Length time.Duration

	// BurstAt is when twice as many requests enter the busy region, for BurstFor; 0 = never.
	BurstAt, BurstFor time.Duration
	// LossAt is when the workers of the busy region die, for LossFor; 0 = never.
	LossAt, LossFor time.Duration
}

// Result is what came of it.
type Result struct {
	Took   []time.Duration // of each request, sorted
	Failed int             // requests without an answer when all was over

	// Served is how many requests ran in each region, in the order of Regions, in each second.
	Served [][]int
	// Slices are the times of the requests that began in each second, sorted.
	Slices [][]time.Duration
}

// Quantile returns what a share of sorted times does not exceed; 0 if there are none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// world is a run. Chance comes from several sources, so that all policies meet the same requests, the
// same service times and the same weather.
type world struct {
	clock
	cfg      Config
	gateways []*gateway
	workers  []*worker
	choose   chooser
	result   Result
	out      int // requests not answered

	arrivals, weather, choices *rand.Rand
}

type request struct {
	gateway *gateway
	began   time.Duration
	length  time.Duration // what it takes on a node that is not slow
	tried   map[int]bool  // workers that did not answer; nil = none
}

// Run simulates.
func Run(cfg Config) Result {
	source := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(cfg.Seed, stream)) }
	w := &world{cfg: cfg, arrivals: source(1), weather: source(2), choices: source(3)}
	w.build()
	w.choose = policies[cfg.Policy](w)
	w.gossip()
	w.clock.after(0, w.arrive)
	for _, wk := range w.workers {
		w.change(wk)
	}
	if cfg.LossAt > 0 {
		w.after(cfg.LossAt, func() { w.lose(true) })
		w.after(cfg.LossAt+cfg.LossFor, func() { w.lose(false) })
	}
	seconds := int(cfg.Length/time.Second) + 1
	w.result.Served, w.result.Slices = make([][]int, seconds), make([][]time.Duration, seconds)
	for i := range w.result.Served {
		w.result.Served[i] = make([]int, len(Regions()))
	}
	w.run(cfg.Length + settle)
	slices.Sort(w.result.Took)
	for _, s := range w.result.Slices {
		slices.Sort(s)
	}
	w.result.Failed = w.out
	return w.result
}

func (w *world) build() {
	between := wan.Published().Between(perigee.BuiltinRegions())
	for _, code := range Regions() {
		for i := range workersPerRegion {
			w.workers = append(w.workers, &worker{
				id: perigee.NodeID(fmt.Sprintf("%s-%d", code, i)), region: code, slots: w.cfg.Kind.slots(), slow: 1,
			})
		}
	}
	for _, code := range Regions() {
		for range gatewaysPerRegion {
			w.gateways = append(w.gateways, newGateway(code, w.workers, between))
		}
	}
}

// change makes a worker slow now and then, or ends that.
func (w *world) change(wk *worker) {
	slow := wk.slow == 1 && w.weather.Float64() < 0.4
	wk.slow = 1
	if slow {
		wk.slow = w.cfg.Kind.slowness()
	}
	w.after(time.Duration((0.5+w.weather.Float64())*float64(2*time.Second)), func() { w.change(wk) })
}

// lose kills the workers of the busy region, or brings them back.
func (w *world) lose(dead bool) {
	for _, wk := range w.workers[:workersPerRegion] {
		has := wk.has
		wk.dead, wk.running, wk.queue, wk.has = dead, 0, nil, nil
		wk.life++
		for _, t := range has {
			w.after(t.patience(), func() { w.unanswered(t) })
		}
	}
}

// gossip has every gateway know, a moment later, what each worker says now.
func (w *world) gossip() {
	rows := make([]perigee.Load, len(w.workers))
	for i, wk := range w.workers {
		rows[i] = wk.load()
		rows[i].Service = 0 // a row is about all functions of a node
	}
	publish := func() {
		for i, wk := range w.workers {
			wk.row = rows[i]
		}
		w.publish()
	}
	if w.now == 0 {
		publish()
	} else {
		w.after(gossipTakes, publish)
	}
	w.after(gossipEvery, w.gossip)
}

// arrive lets a request enter, and the next later.
func (w *world) arrive() {
	if w.now >= w.cfg.Length {
		return
	}
	// All that is drawn is drawn for every request, so that no policy changes the next.
	near, first := w.arrivals.IntN(gatewaysPerRegion), w.arrivals.Float64() < busyShare
	far := gatewaysPerRegion + w.arrivals.IntN(len(w.gateways)-gatewaysPerRegion)
	r := &request{began: w.now, length: w.cfg.Kind.draw(w.arrivals), gateway: w.gateways[far]}
	if first {
		r.gateway = w.gateways[near]
	}
	w.out++
	w.send(r)
	rate := w.cfg.Load * float64(w.cfg.Kind.slots()*len(w.workers)) / w.cfg.Kind.mean().Seconds()
	if from := w.cfg.BurstAt; from > 0 && w.now >= from && w.now < from+w.cfg.BurstFor && first {
		again := *r // as many again
		w.out++
		w.send(&again)
	}
	w.after(time.Duration(w.arrivals.ExpFloat64()/rate*float64(time.Second)), w.arrive)
}
