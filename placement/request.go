package placement

import (
	"cmp"
	"time"

	"github.com/perigee-edge/perigee"
)

// request is one call of Route, or many for which Choices were made: the demand with all that is known
// about it beforehand.
type request struct {
	*Demand
	view   *perigee.View
	rules  rules
	prefer []perigee.Term
	origin perigee.Region // of the entry node; "" = unknown
	place  perigee.Term   // what the client asked for
	target *target        // what near names; nil = nothing that anybody has reached

	estimates estimates
}

func newRequest(d *Demand, v *perigee.View, buf []perigee.Term) request {
	p := d.Function.Policy()
	r := request{Demand: d, view: v, target: targetIn(d.Function, v)}
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

// distance is the round trip to a node: measured if it was, else estimated.
func (r *request) distance(p *perigee.Peer, f *Fact) time.Duration {
	switch {
	case p.ID == r.Entry:
		return 0
	case f.Measured:
		return f.RTT
	}
	return r.estimates.to(p.Region, r.origin, r.rules.regions)
}

// choice is a node that may serve the request, with what of its rank does not change from request to
// request.
type choice struct {
	peer     *perigee.Peer
	warmth   perigee.Warmth
	tier     int           // the first entry of prefer that it is in; their number if it is in none
	last     int           // the number of entries of prefer
	asked    bool          // the client prefers a place
	there    bool          // and it is in it
	local    bool          // it is the entry node
	estimate time.Duration // of the round trip there
	target   time.Duration // from there to what near names
}

func (r *request) choice(p *perigee.Peer, warmth perigee.Warmth) choice {
	return choice{
		peer: p, warmth: warmth,
		tier: tierOf(r.prefer, p.NodeClaims, r.rules.regions), last: len(r.prefer),
		asked:    r.Steer.Mode == SteerPrefer,
		there:    r.Steer.Mode == SteerPrefer && r.inPlace(p.NodeClaims),
		local:    p.ID == r.Entry,
		estimate: r.distance(p, &Fact{}),
		target:   r.target.way(p),
	}
}

// rate puts together what the rank of a node depends on at the moment.
func (c *choice) rate(f *Fact, now time.Time, o *option) {
	o.peer = c.peer
	load := &c.peer.Load
	if f.Load.Slots > 0 && now.Sub(f.LoadAt) <= LoadTTL || load.Slots == 0 {
		load = &f.Load
	}
	o.used, o.slots = int(load.InFlight), int(load.Slots)
	if load == &f.Load {
		o.used += f.Unreported
	}
	o.used = max(o.used, f.InFlight)

	s := &o.score
	s.Service = assumedService
	if us := cmp.Or(f.Load.Service, load.Service); us > 0 { // an old report of it is better than none
		s.Service = time.Duration(us) * time.Microsecond
	}
	if o.busy() {
		s.Wait = s.Service * time.Duration(o.used+1-o.slots) / time.Duration(o.slots)
	}
	if s.Way = c.estimate; f.Measured && !c.local {
		s.Way = f.RTT
	}
	if c.warmth < perigee.Warm {
		if s.Start = assumedStart; f.Start > 0 {
			s.Start = f.Start
		}
	}
	s.Target, s.Penalty = c.target, f.Penalty
	s.Total = max(s.Way+s.Service+waitWeight*s.Wait+s.Start+s.Target, s.Penalty)

	tier := c.last
	if !o.busy() {
		tier = c.tier
	}
	o.class = classTier * class(tier)
	if c.asked && (o.busy() || !c.there) {
		o.class |= classUnasked
	}
	if c.warmth == perigee.Absent {
		o.class |= classFetch
		s.Start += assumedFetch
		s.Total += assumedFetch
	}
	if f.EjectedUntil.After(now) {
		o.class |= classEjected
	}
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
	}
	others := options[1:]
	if o.score.Start > 0 {
		for i := range others {
			if n := &others[i]; n.class == o.class && n.score.Start == 0 {
				return ReasonColdSooner
			}
		}
		return ReasonColdNearest
	}
	if o.peer.ID == r.Entry {
		return ReasonLocalWarm
	}
	for i := range others {
		n := &others[i]
		if n.class != o.class || n.score.Start > 0 || n.score.Way >= o.score.Way {
			continue
		}
		if n.score.Target > o.score.Target {
			return ReasonThrough
		}
		if n.load() > o.load() || n.score.Wait+n.score.Service > o.score.Wait+o.score.Service {
			return ReasonLessLoaded
		}
	}
	return ReasonNearestWarm
}
