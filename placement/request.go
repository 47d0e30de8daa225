package placement

import (
	"time"

	"github.com/perigee-edge/perigee"
)

// request is one call of Route: the demand with all that is known about it.
type request struct {
	*Demand
	view   *perigee.View
	fact   func(perigee.NodeID) Fact
	now    time.Time
	rules  rules
	prefer []perigee.Term
	origin perigee.Region // of the entry node; "" = unknown
	place  perigee.Term   // what the client asked for

	estimates estimates
}

func newRequest(d *Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, buf []perigee.Term) request {
	p := d.Function.Policy()
	r := request{Demand: d, view: v, fact: fact, now: now}
	r.prefer, buf, _ = parseTerms(p.Prefer, buf)
	r.rules = compile(p, v.Desired.Regions, buf)
	if entry := v.Observed.Nodes[d.Entry]; entry != nil {
		r.origin = entry.Region
	}
	caller := d.Caller
	if caller == "" {
		caller = r.origin
	}
	r.rules.from(caller)
	if d.Steer.Mode != SteerNone {
		r.place = perigee.Term{Place: d.Steer.Place}
	}
	return r
}

// standing says how a node stands to the request. From leaving on the hard rules allow the node and
// its peers can reach it.
type standing uint8

const (
	gone      standing = iota // revoked, left or dead
	ruledOut                  // a hard rule excludes it
	leaving                   // draining
	tried                     // refused this request, or did not answer
	elsewhere                 // not in the place the client forced
	eligible
)

func (r *request) standing(p *perigee.Peer) standing {
	switch {
	case r.view.Desired.Revoked[p.ID] || p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect:
		return gone
	case !r.rules.none() && r.rules.excludes(p.NodeClaims) != nothing:
		return ruledOut
	case !p.Routable():
		return leaving
	case r.Tried[p.ID]:
		return tried
	case r.Steer.Mode == SteerForce && !r.inPlace(p.NodeClaims):
		return elsewhere
	}
	return eligible
}

// inPlace reports whether the node is in the place the client asked for.
func (r *request) inPlace(n perigee.NodeClaims) bool { return r.place.Matches(n, r.rules.regions) }

// retried reports whether the request was tried before.
func (r *request) retried() bool {
	for _, tried := range r.Tried {
		if tried {
			return true
		}
	}
	return false
}

// facts returns what the entry node knows of a node.
func (r *request) facts(id perigee.NodeID) Fact {
	if r.fact == nil {
		return Fact{}
	}
	return r.fact(id)
}

// distance is the round trip to a node: measured if it was, else estimated.
func (r *request) distance(p *perigee.Peer, f Fact) time.Duration {
	switch {
	case p.ID == r.Entry:
		return 0
	case f.Measured:
		return f.RTT
	}
	return r.estimates.to(p.Region, r.origin, r.rules.regions)
}

// option puts together what the rank of a node depends on.
func (r *request) option(p *perigee.Peer, warmth perigee.Warmth) option {
	f := r.facts(p.ID)
	o := option{peer: p, rtt: r.distance(p, f)}
	o.cost = max(o.rtt, f.Penalty)
	load := p.Load
	if f.Load.Slots > 0 && r.now.Sub(f.LoadAt) <= LoadTTL || load.Slots == 0 {
		load = f.Load
	}
	o.used, o.slots = max(f.InFlight, int(load.InFlight)), int(load.Slots)

	tier := len(r.prefer)
	if !o.busy() {
		tier = tierOf(r.prefer, p.NodeClaims, r.rules.regions)
	}
	o.class = classTier * class(tier)
	if r.Steer.Mode == SteerPrefer && (o.busy() || !r.inPlace(p.NodeClaims)) {
		o.class |= classUnasked
	}
	switch warmth {
	case perigee.Absent:
		o.class |= classFetch | classCold
	case perigee.Held:
		o.class |= classCold
	}
	if f.EjectedUntil.After(r.now) {
		o.class |= classEjected
	}
	return o
}

// reason says why the first of the options is first. only means that the hard rules left no other.
func (r *request) reason(options []option, only bool) Reason {
	o := &options[0]
	switch {
	case r.Steer.Mode == SteerForce:
		return ReasonClientForces
	case only:
		return ReasonOnlyAllowed
	case o.class&classEjected != 0:
		return ReasonLastResort
	case o.class&classFetch != 0:
		return ReasonColdFetch
	case r.Steer.Mode == SteerPrefer && o.class&classUnasked == 0:
		return ReasonClientPrefers
	case tierOf(r.prefer, o.peer.NodeClaims, r.rules.regions) < len(r.prefer) && !o.busy():
		return ReasonPreferred
	case o.class&classCold != 0:
		return ReasonColdNearest
	case o.peer.ID == r.Entry:
		return ReasonLocalWarm
	}
	for i := range options[1:] {
		n := &options[1+i]
		if n.class == o.class && n.cost < o.cost && n.load() > o.load() {
			return ReasonLessLoaded
		}
	}
	return ReasonNearestWarm
}
