package edgeproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// forward tries candidates until one has answered, and returns nil then. Otherwise it returns why
// the last try failed, or the refusal if there was nobody to try.
func (v *visit) forward(ctx context.Context) error {
	v.route = v.proxy.routes.of(v.fn, v.view.Desired.Functions)
	v.route.asked()
	demand := v.demand()
	excluded := false // a node refused by a hard rule
	var lost error
	for {
		now := time.Now()
		chance := rand.Float64()
		candidates := v.choices[:0]
		if demand.Tried == nil {
			candidates = v.choices[:v.choose(now, chance, v.choices[:])]
		}
		if len(candidates) == 0 {
			d := placement.Route(demand, v.view, func(id perigee.NodeID) placement.Fact { return v.fact(id, now) }, now, chance)
			if d.Refusal != nil && excluded && lost == nil && v.renew(ctx) {
				demand, excluded = v.demand(), false
				continue
			}
			if d.Refusal != nil {
				return cmp.Or(lost, error(&refusedError{d.Refusal}))
			}
			candidates = d.Candidates
		}
		v.warmNear(candidates)
		node, err := v.tryFirst(ctx, candidates, now)
		if err == nil {
			return nil
		}
		err = v.blame(ctx, err)
		if !mayRetry(attempt{err, v.tries, v.answer.started(), isIdempotent(v.in), v.body != nil, v.body.state()}) {
			return err
		}
		if !isRefused(err) && !v.route.retry() {
			v.proxy.metrics.unretried.Inc()
			return err
		}
		if errors.Is(err, errLost) {
			lost = err // should nobody else take it: it may have run, so it was not refused
		}
		if hop := (*perigee.HopError)(nil); errors.As(err, &hop) {
			switch hop.Code {
			case perigee.RefusedOverloaded:
				v.busy = hop
			case perigee.RefusedNotAllowed:
				excluded = true
			}
		}
		v.answer.reset()
		v.unexpect()
		v.proxy.metrics.retries.Inc()
		if demand.Tried == nil {
			demand.Tried = map[perigee.NodeID]bool{}
		}
		demand.Tried[node] = true
	}
}

// demand is what the router is asked.
func (v *visit) demand() placement.Demand {
	return placement.Demand{Function: v.fn, Entry: v.proxy.cfg.Self, Caller: v.facts.region, Steer: v.steer, Rollout: v.rollout}
}

// blame returns the error that counts, if a try failed: what the client did, or the deadline, goes
// before what followed from it on the way.
func (v *visit) blame(ctx context.Context, err error) error {
	gone := v.in.Context().Err() != nil
	if gone && v.body != nil && v.stall.read != nil {
		// The server cancels a request whose body stalls before it says so to the reader.
		v.stall.abandon(lingering)
		v.body.awaitRead()
	}
	switch {
	case v.body.err() != nil && (!gone || errors.Is(v.body.err(), errBodyStalled)):
		return v.body.err()
	case gone:
		return errClientGone
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// tryFirst tries the first candidate that does not wait for another request to try it.
func (v *visit) tryFirst(ctx context.Context, candidates []placement.Candidate, now time.Time) (perigee.NodeID, error) {
	v.tries++
	for i := range candidates {
		c := &candidates[i]
		if c.Node == v.proxy.cfg.Self {
			return c.Node, v.runHere(ctx, c)
		}
		last := i == len(candidates)-1
		tr, ok := v.proxy.peers.begin(c.Node, v.revision(c.Node), v.view.Observed.Nodes, now, last)
		if !ok {
			candidates[i+1].Reason = placement.ReasonNext
			continue
		}
		return v.runThere(ctx, c, &tr, candidates[i+1:], len(candidates) == 1)
	}
	return "", errors.New("no candidate") // Route returns one or a refusal
}

// warmNear has this node start the function in the background when a request goes elsewhere only because
// it is cold here: serve far now, warm near. It must have the bundle: who is to have it, the plan says.
func (v *visit) warmNear(candidates []placement.Candidate) {
	self := v.view.Observed.Nodes[v.proxy.cfg.Self]
	if v.proxy.cfg.WarmUp == nil || self == nil || candidates[0].Node == self.ID || !candidates[0].Warm {
		return
	}
	if self.Revisions[v.revision(self.ID)] != perigee.Held {
		return
	}
	for i := range candidates[1:] {
		if c := &candidates[1+i]; c.Node == v.proxy.cfg.Self && !c.Warm && c.Score.Total-c.Score.Start < candidates[0].Score.Total {
			v.proxy.cfg.WarmUp(v.fn)
		}
	}
}

// fact is what Route is told about a node.
func (v *visit) fact(id perigee.NodeID, now time.Time) (f placement.Fact) {
	rev := v.revision(id)
	f.Start = v.route.startTime()
	if id == v.proxy.cfg.Self {
		f.Load, f.LoadAt, f.Measured = v.proxy.cfg.Local.Load(rev), now, true
		return f
	}
	v.proxy.peers.fact(&f, id, rev, now)
	f.RTT, f.Measured = v.proxy.cfg.Hops.RTT(id)
	return f
}

// revision returns what a node runs of the function.
func (v *visit) revision(id perigee.NodeID) perigee.RevisionID {
	if p := v.view.Observed.Nodes[id]; v.rollout != nil && p != nil {
		if fn := v.rollout.On(v.fn, p); fn != nil {
			return fn.Live.ID
		}
	}
	return v.fn.Live.ID
}

// expect fills in the receipt for a try that may succeed.
func (v *visit) expect(c *placement.Candidate) {
	v.receipt.Region, v.receipt.Node, v.receipt.Revision = c.Region, c.Node, v.revision(c.Node)
	v.receipt.Reason, v.receipt.Hop, v.receipt.Fuel, v.receipt.Partial = string(c.Reason), 0, 0, false
	v.receipt.Start = StartCold
	if c.Warm {
		v.receipt.Start = StartWarm
	}
}

// unexpect takes back what expect said: the guest was not started.
func (v *visit) unexpect() {
	v.timing = timing{}
	v.receipt = Receipt{Entry: v.receipt.Entry, Reason: ReasonRefused, ID: v.receipt.ID}
	v.where = ranNowhere
}

// runHere runs the function on this node.
func (v *visit) runHere(ctx context.Context, c *placement.Candidate) error {
	v.expect(c)
	v.where = ranHere
	out := v.out
	if v.tries > 1 {
		out = v.out.WithContext(ctx) // the request of an earlier hop may still be in use
		out.Header = out.Header.Clone()
		dropInternal(out.Header)
	}
	v.timing = timing{handed: time.Now()}
	view := v.sending()
	defer view.Close()
	out.Body = view
	v.facts.dress(out.Header, v.proxy.cfg.Region, v.in.Host)
	span := v.child("run", SpanInternal, out.Header)
	result, err := v.proxy.cfg.Local.Invoke(ctx, v.fn, v.revision(c.Node), &v.answer, out)
	v.endChild(span, c.Node, err)
	var hop *perigee.HopError
	if errors.As(err, &hop) {
		v.unexpect()
	} else {
		v.report(result)
		v.learn(result.Start, result.StartTook)
	}
	return err
}

// learn notes what a cold start took.
func (v *visit) learn(start string, took time.Duration) {
	if start == StartCold && took > 0 {
		v.route.started(took)
	}
}

// runThere has a peer run the function, or one of the others if that one answers first. It returns which.
// only says that there is no other candidate, so that a cold start is better than a refusal.
func (v *visit) runThere(ctx context.Context, c *placement.Candidate, tr *trip, others []placement.Candidate, only bool) (perigee.NodeID, error) {
	v.early = &early{answer: &v.answer}
	f := v.flight(ctx, c, tr, only || !c.Warm)
	v.expect(c)
	v.where = ranHop
	f = v.fly(ctx, f, others)
	defer f.end()
	if f.err != nil {
		err := v.hopFailed(ctx, f.err, f.trip)
		v.endChild(f.span, f.to.Node, err)
		return f.to.Node, err
	}
	if f.to != c {
		f.to.Reason = placement.ReasonHedge
		v.expect(f.to)
	}
	f.trip.taken(f.load, time.Now())
	v.receipt.Hop, v.timing = time.Since(f.sent), timing{handed: f.sent}
	v.readRun(f.resp.Header)
	v.route.stayed(v.receipt.Hop - f.to.Score.Way)
	if f.resp.Header.Get(hopStart) == StartCold {
		v.learn(StartCold, v.receipt.Hop-f.to.Score.Way-f.to.Score.Service)
	}
	err := v.relay(f.to.Node, f.resp, f.trip)
	if v.proxy.cfg.LoadOf != nil {
		if last, ok := v.proxy.cfg.LoadOf(f.resp); ok {
			f.load = last
		}
	}
	f.trip.report(f.load, time.Now())
	v.proxy.metrics.hops.WithLabelValues(hopOutcome(err)).Inc()
	v.endChild(f.span, f.to.Node, err)
	return f.to.Node, err
}

// flight prepares a request to a peer.
func (v *visit) flight(ctx context.Context, c *placement.Candidate, tr *trip, cold bool) *flight {
	cfg := &v.proxy.cfg
	f := &flight{to: c, trip: tr}
	ctx, f.cancel = context.WithCancelCause(ctx)
	meta := hopMeta{
		facts: v.facts, function: v.fn.Name, revision: v.revision(c.Node), entry: cfg.Self,
		path: []perigee.NodeID{cfg.Self}, cold: cold, depth: perigee.DepthFrom(ctx), caller: perigee.CallerFrom(ctx),
	}
	if v.up != nil {
		meta.upgrade = webSocket
	}
	if deadline, ok := v.deadline(ctx); ok {
		meta.timeout = max(time.Millisecond, time.Until(deadline))
	}
	if cfg.WithAccepted != nil {
		ctx = cfg.WithAccepted(ctx, func(l perigee.Load) { tr.took(l, time.Now()) })
	}
	f.out = v.out.WithContext(v.early.of(ctx, f))
	f.out.Header = v.out.Header.Clone()
	dropInternal(f.out.Header) // of an earlier try here
	f.out.Body = v.sending()
	meta.put(f.out.Header)
	f.span = v.child("hop", SpanClient, f.out.Header)
	return f
}

// fly sends a request, hedged if it may be.
func (v *visit) fly(ctx context.Context, f *flight, others []placement.Candidate) *flight {
	now := time.Now()
	second := v.second(others, now)
	unusual, known := v.route.unusual()
	if second == nil || !known {
		f.fly(v.proxy.cfg.Hops)
		return f
	}
	winner, loser := race(v.proxy.cfg.Hops, f, f.to.Score.Way+unusual, func() *flight {
		tr, ok := v.proxy.peers.begin(second.Node, v.revision(second.Node), v.view.Observed.Nodes, time.Now(), false)
		if !ok {
			return nil
		}
		if !v.route.hedge() {
			tr.done()
			return nil
		}
		v.proxy.metrics.hedges.Inc()
		return v.flight(ctx, second, &tr, false)
	})
	if loser != nil {
		loser.outrun(v.proxy.metrics)
	}
	return winner
}

// sending returns what the client sends, for one try.
func (v *visit) sending() io.ReadCloser {
	if v.up != nil {
		return v.up.reader()
	}
	return v.body.view()
}

// deadline returns when the head of the response must have come.
func (v *visit) deadline(ctx context.Context) (time.Time, bool) {
	if v.up != nil {
		return v.up.until, true
	}
	return ctx.Deadline()
}

// hopFailed handles a hop without a response.
func (v *visit) hopFailed(ctx context.Context, err error, tr *trip) error {
	var hop *perigee.HopError
	switch {
	case ctx.Err() != nil: // says nothing about the peer
		err = context.Cause(ctx)
	case v.body.err() != nil: // nor does this
		err = v.body.err()
	case errors.As(err, &hop):
		tr.refused(hop, time.Now())
	default:
		tr.lost(time.Now())
		err = fmt.Errorf("%w: %v", errLost, err)
	}
	if hop != nil {
		v.unexpect()
	}
	v.proxy.metrics.hops.WithLabelValues(hopOutcome(err)).Inc()
	return err
}

// hopOutcome is the label of a hop in the metrics.
func hopOutcome(err error) string {
	var (
		hop   *perigee.HopError
		guest *GuestError
	)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &hop):
		return string(hop.Code)
	case errors.As(err, &guest):
		return "fault"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errClientGone):
		return "given-up"
	}
	return "lost"
}

// relay passes a peer's response to the client.
func (v *visit) relay(node perigee.NodeID, resp *http.Response, tr *trip) error {
	defer resp.Body.Close()
	if err := v.readHopHeader(node, resp.Header); err != nil {
		var hop *perigee.HopError
		if errors.As(err, &hop) {
			tr.refused(hop, time.Now())
			v.unexpect()
		} else {
			tr.answered()
		}
		return err
	}
	tr.answered()
	announceTrailer(resp)
	copyHeader(v.answer.Header(), resp)
	if v.up != nil && resp.StatusCode == http.StatusOK && resp.Header.Get(hopUpgrade) == webSocket {
		resp.StatusCode = http.StatusSwitchingProtocols
	}
	v.answer.WriteHeader(resp.StatusCode)
	if v.answer.bad != nil {
		return v.answer.bad
	}
	if err := v.copyBody(resp); err != nil {
		if errors.Is(err, errLost) && v.body.err() == nil {
			tr.lost(time.Now())
		}
		return err
	}
	v.readFuel(resp.Trailer)
	sendTrailer(v.answer.Header(), resp)
	return nil
}

// readFuel reads what a worker says of the fuel, in the head or in the trailer.
func (v *visit) readFuel(h http.Header) {
	number, partial := strings.CutSuffix(h.Get(hopFuel), ";"+paramPartial)
	if fuel, err := strconv.ParseUint(number, 10, 64); err == nil {
		v.report(Result{Fuel: fuel, Partial: partial})
	}
}

// readHopHeader reads what a worker says to the entry node, and not to the client.
func (v *visit) readHopHeader(node perigee.NodeID, h http.Header) error {
	if code := perigee.RefuseCode(h.Get(hopRefused)); code != "" {
		if !isRefuseCode(code) {
			code = perigee.RefusedNotHere // of a later release
		}
		return &perigee.HopError{Node: node, Code: code, Limit: h.Get(hopLimit)}
	}
	if start := h.Get(hopStart); start == StartWarm || start == StartImage || start == StartCold {
		v.receipt.Start = start
	}
	v.readFuel(h)
	switch fault := h.Get(hopFault); fault {
	case "":
	case faultInternal:
		return errLost
	default:
		detail := h.Get(hopDetail)
		limit := h.Get(hopLimit)
		if !knownLimit(limit) {
			limit = ""
		}
		return &GuestError{Kind: Fault(fault), Detail: detail[:min(len(detail), maxHopDetail)], Limit: limit}
	}
	return nil
}

// isRefuseCode reports whether a worker of this release uses the code.
func isRefuseCode(c perigee.RefuseCode) bool {
	switch c {
	case perigee.RefusedOverloaded, perigee.RefusedDraining, perigee.RefusedNotHere, perigee.RefusedNotAllowed, perigee.RefusedDeadline:
		return true
	}
	return false
}
