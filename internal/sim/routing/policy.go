package routing

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// Policy is a way to choose.
type Policy string

// The policies. All of them leave out ejected workers, by the production rule.
const (
	Production  Policy = "perigee"      // package placement
	Nearest     Policy = "nearest"      // always
	LeastLoaded Policy = "least-loaded" // by gossip, the nearer of two alike
	PeakEWMA    Policy = "peak-ewma"    // of two by chance the one with the lower (peak average of answers) x (own in flight + 1), as Finagle, Linkerd
	Prequal     Policy = "prequal"      // hot and cold by probes (arXiv 2312.10172), with the way added to the latency
	Oracle      Policy = "oracle"       // the soonest by the true state of this moment, as nobody can know it
)

// Policies lists them.
func Policies() []Policy {
	return []Policy{Production, Oracle, Prequal, PeakEWMA, LeastLoaded, Nearest}
}

// chooser returns the number of a worker.
type chooser func(*gateway, *request) int

var policies = map[Policy]func(*world) chooser{
	Production:  func(w *world) chooser { return w.production },
	Nearest:     func(w *world) chooser { return w.least(func(g *gateway, i int) float64 { return float64(g.rtt[i]) }) },
	LeastLoaded: func(w *world) chooser { return w.least(w.gossiped) },
	PeakEWMA:    func(w *world) chooser { return w.peakEWMA },
	Prequal:     func(w *world) chooser { return w.prequal },
	Oracle:      func(w *world) chooser { return w.least(w.truth) },
}

// least chooses by lowest cost.
func (w *world) least(cost func(*gateway, int) float64) chooser {
	return func(g *gateway, r *request) int {
		return slices.MinFunc(w.offered(g, r), func(a, b int) int { return cmp.Compare(cost(g, a), cost(g, b)) })
	}
}

func (w *world) gossiped(g *gateway, i int) float64 {
	return float64(w.workers[i].row.InFlight) + float64(g.rtt[i])/float64(time.Hour)
}

// truth is when an answer would come, on average.
func (w *world) truth(g *gateway, i int) float64 {
	wk := w.workers[i]
	if wk.dead {
		return math.Inf(1)
	}
	mean := float64(w.cfg.Kind.mean()) * wk.slow
	ahead := wk.running + len(wk.queue) + wk.coming
	return float64(g.rtt[i]) + mean + mean*float64(max(0, ahead+1-wk.slots))/float64(wk.slots)
}

// peakDecay is the time in which a peak is forgotten to a third.
const peakDecay = 10 * time.Second

// learn keeps what an answer took: a longer one counts at once, a shorter one by the time since the last.
func (w *world) learn(g *gateway, i int, took time.Duration) {
	weight := math.Exp(-float64(w.now-g.peakAt[i]) / float64(peakDecay))
	g.peak[i] = max(float64(took), g.peak[i]*weight+float64(took)*(1-weight))
	g.peakAt[i] = w.now
}

func (w *world) peakEWMA(g *gateway, r *request) int {
	two := w.offered(g, r)
	cost := func(i int) float64 {
		var f placement.Fact
		g.ledger[i].Fill(&f)
		return max(g.peak[i], float64(g.rtt[i])) * float64(f.InFlight+1)
	}
	a, b := two[w.choices.IntN(len(two))], two[w.choices.IntN(len(two))]
	if cost(a) <= cost(b) {
		return a
	}
	return b
}

// probe is what a worker answered to one: how busy it is and what requests take there.
type probe struct {
	worker int
	at     time.Duration
	load   perigee.Load
}

const (
	poolSize    = 16
	poolAge     = time.Second
	probesEach  = 3    // sent for each request
	hotQuantile = 0.84 // of the requests in flight in the pool: above it a worker is hot
)

func (w *world) prequal(g *gateway, r *request) int {
	offered := w.offered(g, r)
	for range probesEach {
		i := offered[w.choices.IntN(len(offered))]
		w.after(g.rtt[i]/2, func() {
			if w.workers[i].dead {
				return
			}
			load := w.workers[i].load()
			w.after(g.rtt[i]/2, func() {
				g.pool = append(g.pool, probe{i, w.now, load})
				if len(g.pool) > poolSize {
					g.pool = g.pool[1:]
				}
			})
		})
	}
	g.pool = slices.DeleteFunc(g.pool, func(p probe) bool { return w.now-p.at > poolAge || !slices.Contains(offered, p.worker) })
	if len(g.pool) == 0 {
		return offered[w.choices.IntN(len(offered))]
	}
	var busy []int
	for _, p := range g.pool {
		busy = append(busy, int(p.load.InFlight))
	}
	slices.Sort(busy)
	limit := busy[min(len(busy)-1, int(hotQuantile*float64(len(busy))))]
	latency := func(p probe) time.Duration {
		return g.rtt[p.worker] + time.Duration(p.load.Service)*time.Microsecond*time.Duration(max(int(p.load.Slots), int(p.load.InFlight)+1))/time.Duration(p.load.Slots)
	}
	best := 0
	for k, p := range g.pool {
		hot, than := int(p.load.InFlight) > limit, int(g.pool[best].load.InFlight) > limit
		switch {
		case hot != than:
			if !hot {
				best = k
			}
		case hot && p.load.InFlight < g.pool[best].load.InFlight, !hot && latency(p) < latency(g.pool[best]):
			best = k
		}
	}
	to := g.pool[best].worker
	g.pool[best].load.InFlight++
	return to
}

const rev = perigee.RevisionID("a1b2c3d4e5f6")

// function has no rule.
var function = &perigee.Function{Name: "f", Live: &perigee.Revision{ID: rev}}

// publish gives the gateways a new View.
func (w *world) publish() {
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: perigee.BuiltinRegions()},
		Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}},
	}
	for _, wk := range w.workers {
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.ID, p.Region, p.Load = wk.id, wk.region, wk.row
		p.Revisions = map[perigee.RevisionID]perigee.Warmth{rev: perigee.Warm}
		v.Observed.Nodes[p.ID] = p
	}
	for _, g := range w.gateways {
		g.view, g.choices = v, nil
	}
}

// production chooses as an entry node does: from prepared choices at first, by Route for a request that
// was tried.
func (w *world) production(g *gateway, r *request) int {
	now := w.time()
	fact := func(id perigee.NodeID) placement.Fact { return w.fact(g, w.number(id)) }
	entry := perigee.NodeID(g.region + "-gateway")
	var out [1]placement.Candidate
	if r.tried == nil {
		if g.choices == nil || w.now-g.prepared > time.Second {
			g.choices, g.prepared = placement.NewChoices(function, entry, g.region, g.view, fact, now), w.now
			g.order = g.order[:0]
			for i := range g.choices.Len() {
				g.order = append(g.order, w.number(g.choices.Node(i)))
			}
		}
		var room [placement.MaxCandidates]placement.Fact
		for i, k := range g.order {
			room[i] = w.fact(g, k)
		}
		if g.choices.Pick(room[:len(g.order)], now, w.choices.Float64(), out[:]) > 0 {
			return w.number(out[0].Node)
		}
	}
	d := placement.Demand{Function: function, Entry: entry, Caller: g.region, Tried: map[perigee.NodeID]bool{}}
	for i := range r.tried {
		d.Tried[w.workers[i].id] = true
	}
	return w.number(placement.Route(d, g.view, fact, now, w.choices.Float64()).Candidates[0].Node)
}

func (w *world) fact(g *gateway, i int) placement.Fact {
	f := placement.Fact{RTT: g.rtt[i], Measured: true, EjectedUntil: g.eject[i].Until(w.time())}
	g.ledger[i].Fill(&f)
	return f
}

func (w *world) number(id perigee.NodeID) int {
	return slices.IndexFunc(w.workers, func(wk *worker) bool { return wk.id == id })
}
