package edgeproxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	hedgeShare   = 0.03 // of the requests of a function that are sent to other nodes
	mostHedges   = 10   // saved up at most
	hedgeLearned = 100  // answers until it is known what is unusually long
)

// A hedge is a second copy of a request, sent to the next node when the first takes longer than 19 of 20
// do (Dean and Barroso, "The Tail at Scale", 2013). Who answers first serves; the other is given up.

// mayHedge reports whether a request may run twice at the same time: it changes nothing, or its client says
// that the function recognises repetitions. There must be no body to be sent twice.
func mayHedge(r *http.Request, body *body) bool {
	switch {
	case body != nil:
		return false
	case r.Method == http.MethodGet, r.Method == http.MethodHead, r.Method == http.MethodOptions:
		return true
	}
	return r.Header.Get("Idempotency-Key") != ""
}

// stays is what requests of a function take on other nodes, the way left out: the time that 19 of 20 do not
// exceed. Each moves it by a part of itself, up by nineteen times as much as down.
type stays struct {
	n   int
	p95 time.Duration
}

func (s *stays) add(took time.Duration) {
	took = max(took, time.Microsecond)
	step := s.p95/256 + 1
	switch {
	case s.n == 0:
		s.p95 = took
	case took > s.p95:
		s.p95 = min(took, s.p95+19*step)
	default:
		s.p95 = max(took, s.p95-step)
	}
	s.n++
}

// stayed counts an answer of another node.
func (r *route) stayed(took time.Duration) {
	r.mu.Lock()
	r.stays.add(took)
	r.hedges = min(mostHedges, r.hedges+hedgeShare)
	r.mu.Unlock()
}

// unusual returns the time on a node after which a request is hedged; false = not known yet.
func (r *route) unusual() (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stays.p95, r.stays.n >= hedgeLearned
}

// hedge takes one of the hedges that are allowed; false = there is none.
func (r *route) hedge() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hedges < 1 {
		return false
	}
	r.hedges--
	return true
}

// second returns the candidate that a request may be hedged with: the next that is warm, has a free slot,
// and did not fail lately. When all are busy, one request more helps none.
func (v *visit) second(others []placement.Candidate, now time.Time) *placement.Candidate {
	if v.up != nil || !mayHedge(v.in, v.body) {
		return nil
	}
	return v.spare(others, now)
}

// spare is second for a request that may run twice.
func (v *visit) spare(others []placement.Candidate, now time.Time) *placement.Candidate {
	for i := range others {
		c := &others[i]
		if c.Node != v.proxy.cfg.Self && c.Warm && c.Score.Wait == 0 && !v.fact(c.Node, now).EjectedUntil.After(now) {
			return c
		}
	}
	return nil
}

// flight is one request sent to one node, up to the head of the response.
type flight struct {
	to     *placement.Candidate
	trip   *trip
	out    *http.Request
	cancel context.CancelCauseFunc
	sent   time.Time
	resp   *http.Response
	load   perigee.Load
	err    error
	span   *Span // nil = not traced
}

// fly sends the request and waits for the head of the response.
func (f *flight) fly(hops Hops) {
	f.sent = time.Now()
	f.resp, f.load, f.err = hops.RoundTrip(f.out.Context(), f.to.Node, f.out)
}

// outrun ends a flight that another has won: nobody needs its response, if it has one.
func (f *flight) outrun(m *Metrics) {
	outcome := "outrun"
	var hop *perigee.HopError
	switch {
	case f.err == nil:
		_ = f.resp.Body.Close() // nothing was read
	case errors.As(f.err, &hop):
		f.trip.refused(hop, time.Now())
		outcome = string(hop.Code)
	}
	m.hops.WithLabelValues(outcome).Inc()
	f.end()
}

// end releases what the flight holds.
func (f *flight) end() {
	_ = f.out.Body.Close() // a view of the body, which has its own errors
	f.cancel(errOutrun)
	f.trip.done()
}

var errOutrun = errors.New("another node answered first")

// race sends first, and after the time what second returns; nil = nothing. It returns the one that has a
// response, else first, and the other, which is over then; nil = there was none.
func race(hops Hops, first *flight, after time.Duration, second func() *flight) (winner, loser *flight) {
	var (
		mu    sync.Mutex // guards won, over and late until ended is closed
		won   *flight
		over  bool // first is
		late  *flight
		ended = make(chan struct{})
	)
	timer := time.AfterFunc(after, func() {
		defer close(ended)
		mu.Lock()
		if !over {
			late = second()
		}
		mu.Unlock()
		if late == nil {
			return
		}
		late.fly(hops)
		mu.Lock()
		defer mu.Unlock()
		if won == nil && late.err == nil {
			won = late
			first.cancel(errOutrun)
		}
	})
	first.fly(hops)
	mu.Lock()
	over = true
	if won == nil && first.err == nil {
		won = first
		if late != nil {
			late.cancel(errOutrun)
		}
	}
	mu.Unlock()
	if !timer.Stop() {
		<-ended
	}
	if won != nil && won == late {
		return late, first
	}
	return first, late
}
