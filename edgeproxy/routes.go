package edgeproxy

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	routeAge   = time.Second           // choices are sorted by distance anew after this time
	routeEvery = 50 * time.Millisecond // and in a large cluster at most this often when the View changes
	routeSmall = 64                    // nodes of a cluster in which they are made anew with each View

	firstRetries = 100  // of a function, before it has had any request
	mostRetries  = 1000 // saved up at most
	retryShare   = 0.1  // for each request
)

// routes keeps what is prepared for each function. It is a cache: whatever it lacks is made again from
// the View.
type routes struct {
	mu    sync.Mutex // serialises changes of the map
	table atomic.Pointer[map[string]*route]
}

// route is what this entry node knows of one function's requests.
type route struct {
	prepared atomic.Pointer[prepared]
	requests atomic.Uint64 // that asked for it here

	mu      sync.Mutex // guards the fields below
	retries float64    // that are allowed now
	hedges  float64    // likewise
	stays   stays
	start   time.Duration // what cold starts took: a slow average of the longer ones
}

// prepared is the choice of nodes that was made from one View.
type prepared struct {
	fn       *perigee.Function
	desired  *perigee.Desired
	observed *perigee.Observed
	at       time.Time
	choices  *placement.Choices
}

func newRoutes() *routes {
	t := &routes{}
	t.table.Store(&map[string]*route{})
	return t
}

// of returns the entry of a function, and makes one if there is none. When one is added, those that the
// View has dropped go.
func (t *routes) of(fn *perigee.Function, known map[string]*perigee.Function) *route {
	if r := (*t.table.Load())[fn.Name]; r != nil {
		return r
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.table.Load()
	if r := old[fn.Name]; r != nil {
		return r
	}
	table := make(map[string]*route, len(old)+1)
	for name, r := range old {
		if known[name] != nil {
			table[name] = r
		}
	}
	r := &route{retries: firstRetries}
	table[fn.Name] = r
	t.table.Store(&table)
	return r
}

// Asked returns how many requests for each function this node was asked to have answered since it started, by
// clients and by functions here. A function that was gone in between begins anew.
func (p *Proxy) Asked() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for name, r := range *p.routes.table.Load() {
			if !yield(name, r.requests.Load()) {
				return
			}
		}
	}
}

// fresh reports whether the choices still hold.
func (p *prepared) fresh(fn *perigee.Function, v *perigee.View, now time.Time) bool {
	age := now.Sub(p.at)
	return p.fn == fn && p.desired == v.Desired && age < routeAge &&
		(p.observed == v.Observed || age < routeEvery && len(v.Observed.Nodes) > routeSmall)
}

// asked counts a request.
func (r *route) asked() {
	r.requests.Add(1)
	r.mu.Lock()
	r.retries = min(mostRetries, r.retries+retryShare)
	r.mu.Unlock()
}

// retry takes one of the retries that are allowed; false = there is none.
func (r *route) retry() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retries < 1 {
		return false
	}
	r.retries--
	return true
}

// started learns from a cold start. A long one counts at once, a short one slowly.
func (r *route) started(took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if took > r.start {
		r.start = (r.start + took) / 2
	} else {
		r.start -= (r.start - took) / 8
	}
}

func (r *route) startTime() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start
}

// choose is placement's choice for a request that is tried for the first time, whose client asks for
// nothing, whose function is not being rolled out, and is where this node is, as far as a rule of callers asks. It returns the number of candidates; 0 = Route has to look at all nodes.
func (v *visit) choose(now time.Time, chance float64, out []placement.Candidate) int {
	elsewhere := v.facts.region != "" && v.facts.region != v.proxy.cfg.Region
	if v.steer.Mode != placement.SteerNone || v.rollout != nil || elsewhere && len(v.fn.Policy().Callers) > 0 {
		return 0
	}
	p := v.route.prepared.Load()
	if p == nil || !p.fresh(v.fn, v.view, now) {
		fact := func(id perigee.NodeID) placement.Fact { return v.fact(id, now) }
		p = &prepared{
			fn: v.fn, desired: v.view.Desired, observed: v.view.Observed, at: now,
			choices: placement.NewChoices(v.fn, v.proxy.cfg.Self, "", v.view, fact, now),
		}
		v.route.prepared.Store(p)
	}
	var room [placement.MaxCandidates]placement.Fact
	facts := room[:p.choices.Len()]
	for i := range facts {
		facts[i] = v.fact(p.choices.Node(i), now)
	}
	return p.choices.Pick(facts, now, chance, out)
}
