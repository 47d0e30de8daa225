package routing

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// gateway is an entry node with what it knows of each worker, in the same order.
type gateway struct {
	region perigee.Region
	rtt    []time.Duration
	ledger []placement.Ledger
	eject  []placement.Ejection
	peak   []float64 // for PeakEWMA: of answers, in nanoseconds
	peakAt []time.Duration
	pool   []probe // for Prequal

	view     *perigee.View
	choices  *placement.Choices
	order    []int // the worker of each choice
	prepared time.Duration
}

func newGateway(code perigee.Region, workers []*worker, between func(a, b perigee.Region) time.Duration) *gateway {
	n := len(workers)
	g := &gateway{region: code, ledger: make([]placement.Ledger, n), eject: make([]placement.Ejection, n), peak: make([]float64, n), peakAt: make([]time.Duration, n)}
	for _, wk := range workers {
		g.rtt = append(g.rtt, between(code, wk.region))
	}
	return g
}

// trip is one request sent to one worker.
type trip struct {
	*request
	to       int
	sent     time.Duration
	trying   bool // the worker was ejected
	accepted bool
	over     bool
}

func (t *trip) rtt() time.Duration { return t.gateway.rtt[t.to] }

// patience is how long a gateway waits for a worker to accept.
func (t *trip) patience() time.Duration { return max(patience, 3*t.rtt()) }

// offered lists the workers that a gateway may send a request to: neither tried nor ejected, or only not
// tried, or all.
func (w *world) offered(g *gateway, r *request) []int {
	var good, some, all []int
	for i := range w.workers {
		all = append(all, i)
		if !r.tried[i] {
			some = append(some, i)
			if !g.eject[i].Until(w.time()).After(w.time()) {
				good = append(good, i)
			}
		}
	}
	switch {
	case len(good) > 0:
		return good
	case len(some) > 0:
		return some
	}
	return all
}

// send sends a request to the worker that the policy chooses.
func (w *world) send(r *request) {
	g := r.gateway
	t := &trip{request: r, to: w.choose(g, r), sent: w.now}
	t.trying, _ = g.eject[t.to].Begin(w.time(), true)
	g.ledger[t.to].Sent()
	wk := w.workers[t.to]
	wk.coming++
	w.after(t.rtt()/2, func() {
		wk.coming--
		w.take(wk, t)
	})
	w.after(t.patience(), func() {
		if !t.accepted {
			w.unanswered(t)
		}
	})
}

// take is a request's arrival at a worker.
func (w *world) take(wk *worker, t *trip) {
	if wk.dead {
		return
	}
	report := wk.load()
	report.InFlight++
	w.after(t.rtt()/2, func() {
		if t.over {
			return
		}
		t.accepted = true
		t.gateway.ledger[t.to].Accepted()
		t.gateway.ledger[t.to].Reported(report, w.time())
		t.gateway.eject[t.to].Lives()
	})
	wk.has = append(wk.has, t)
	if wk.running < wk.slots {
		w.start(wk, t)
	} else {
		wk.queue = append(wk.queue, t)
	}
}

func (w *world) start(wk *worker, t *trip) {
	wk.running++
	life, took := wk.life, time.Duration(float64(t.length)*wk.slow)
	w.after(took, func() {
		if wk.life != life {
			return
		}
		wk.running--
		wk.has = slices.DeleteFunc(wk.has, func(x *trip) bool { return x == t })
		wk.follow(took)
		w.count(wk)
		if len(wk.queue) > 0 {
			next := wk.queue[0]
			wk.queue = wk.queue[1:]
			w.start(wk, next)
		}
		report := wk.load()
		w.after(t.rtt()/2, func() { w.answered(t, report) })
	})
}

// answered ends a request.
func (w *world) answered(t *trip, report perigee.Load) {
	if t.over {
		return
	}
	t.over = true
	g := t.gateway
	g.ledger[t.to].Ended(t.accepted)
	g.ledger[t.to].Reported(report, w.time())
	if t.trying {
		g.eject[t.to].Tried()
	}
	w.learn(g, t.to, w.now-t.sent)
	w.out--
	if t.began >= warmUp {
		w.result.Took = append(w.result.Took, w.now-t.began)
	}
	at := int(t.began / time.Second)
	w.result.Slices[at] = append(w.result.Slices[at], w.now-t.began)
}

// unanswered gives a worker up and tries another.
func (w *world) unanswered(t *trip) {
	if t.over {
		return
	}
	t.over = true
	g := t.gateway
	g.ledger[t.to].Ended(t.accepted)
	g.eject[t.to].Silent(time.Unix(0, 0).Add(t.sent), w.time())
	if t.tried == nil {
		t.tried = map[int]bool{}
	}
	t.tried[t.to] = true
	if len(t.tried) < len(w.workers) {
		w.send(t.request)
	}
}

// count notes where a request ran.
func (w *world) count(wk *worker) {
	if at := int(w.now / time.Second); at < len(w.result.Served) {
		w.result.Served[at][slices.Index(Regions(), wk.region)]++
	}
}
