package placement

import (
	"time"

	"github.com/perigee-edge/perigee"
)

// Demand is one request as Route sees it.
type Demand struct {
	Function *perigee.Function
	Entry    perigee.NodeID // the node that took the request; distances count from it
	Caller   perigee.Region // where the client is, for the rules of callers; "" = in the region of Entry
	Steer    Steer
	Rollout  *Rollout                // which nodes run the live revision; nil = all
	Tried    map[perigee.NodeID]bool // nodes that refused this request or did not answer; they are not offered again
}

// Steer is what the client asked for. Whether clients may is decided by the caller, from the
// manifest; the zero value asks for nothing.
type Steer struct {
	Mode  SteerMode
	Place string // a region or a group of regions
}

// SteerMode says how strongly the client asked for a place.
type SteerMode string

// The modes, as the word in a manifest's steer key spells them.
const (
	SteerNone   SteerMode = ""
	SteerPrefer SteerMode = "prefer" // there if possible, else elsewhere
	SteerForce  SteerMode = "force"  // there or not at all
)

// Fact is what the entry node knows about one node besides the View. The zero Fact is a node never
// talked to.
type Fact struct {
	RTT          time.Duration // smoothed round trip from the entry node
	Measured     bool          // RTT is a measurement; if false, distance is estimated
	InFlight     int           // requests this entry node has sent there that are not answered yet
	Load         perigee.Load  // what it last reported on a response
	LoadAt       time.Time     // when; a report older than LoadTTL gives way to the View's
	Penalty      time.Duration // it counts as at least this far away: recent failures
	EjectedUntil time.Time     // until then it is offered only after the others that have the bundle
}

// LoadTTL is the age up to which a load report on a response is believed over the View.
const LoadTTL = time.Second

// MaxCandidates is the number of candidates a Decision holds at most. A caller that has tried them
// all gets more by calling Route again with Tried.
const MaxCandidates = 16

// Candidate is a node that may serve the request.
type Candidate struct {
	Node   perigee.NodeID
	Region perigee.Region
	RTT    time.Duration // from the entry node: measured, or estimated from distance; 0 for itself
	Warm   bool          // the revision is loaded there; if not, it has a cold start
	Reason Reason        // why it serves, if it does; for the receipt
}

// Decision is what Route says. Exactly one of its fields is set.
type Decision struct {
	Candidates []Candidate // best first, none twice, all allowed; at most MaxCandidates
	Refusal    *Refusal    // nobody may or can serve
}

// maxFetchers bounds the nodes without the bundle that one request is offered, over all its tries:
// each would fetch and start it, which helps once and is a flood if every busy moment does it.
const maxFetchers = 2

// Route chooses the nodes that may serve the request, best first, or says why there is none. fact
// tells what the entry node knows of a node; nil means nothing. chance is a number drawn from
// [0, 1); with equal arguments the decision is equal. docs/placement.md states the rules; in short:
//
//  1. Out are nodes that a hard rule excludes, that are revoked, draining, left or dead, that were
//     tried, and, if the client forces a place, those elsewhere.
//  2. Nodes without the bundle come after those with it: two at most, and only if some node within
//     reach has it to give. Otherwise, nodes that failed lately (EjectedUntil) come last.
//  3. The place the client prefers comes first, then the entries of the policy's prefer in order. A
//     node whose slots are full loses this advantage.
//  4. Warm nodes come before cold ones.
//  5. The nearest comes first. Among those no farther than max(2 ms, 10 %) from it, load decides.
func Route(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, chance float64) Decision {
	var terms [8]perigee.Term
	r := newRequest(&d, v, fact, now, terms[:0])
	// The free and the busy are listed apart, so that no number of near but busy nodes hides one
	// that is free.
	free, busy, fetch := shortlist{limit: MaxCandidates}, shortlist{limit: MaxCandidates}, shortlist{limit: maxFetchers}
	allowed, excluded, fetchersTried, source := 0, 0, 0, false
	for _, p := range v.Observed.Nodes {
		standing := r.standing(p)
		fn := d.Rollout.On(d.Function, p)
		if fn == nil {
			fn = d.Function
			standing = min(standing, leaving)
		}
		warmth := p.Revisions[fn.Live.ID]
		source = source || warmth >= perigee.Held && standing >= leaving
		switch standing {
		case ruledOut:
			excluded++
		case tried:
			allowed++
			if warmth == perigee.Absent {
				fetchersTried++
			}
		case elsewhere:
			allowed++
		case eligible:
			allowed++
			o := r.option(p, warmth)
			switch {
			case warmth == perigee.Absent:
				fetch.add(o)
			case o.busy():
				busy.add(o)
			default:
				free.add(o)
			}
		}
	}
	if !source {
		fetch.n = 0
	}
	fetch.n = min(fetch.n, max(0, maxFetchers-fetchersTried))
	var room [2*MaxCandidates + maxFetchers]option
	options := append(append(append(room[:0], free.options()...), busy.options()...), fetch.options()...)
	if len(options) == 0 {
		return Decision{Refusal: r.refusal()}
	}
	rank(options, d.Entry, chance)
	options = options[:min(len(options), MaxCandidates)]
	out := make([]Candidate, len(options))
	for i := range options {
		o := &options[i]
		out[i] = Candidate{Node: o.peer.ID, Region: o.peer.Region, RTT: o.rtt, Warm: o.class&classCold == 0, Reason: ReasonNext}
	}
	if !r.retried() {
		out[0].Reason = r.reason(options, allowed == 1 && excluded > 0)
	}
	return Decision{Candidates: out}
}
