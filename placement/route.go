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
	Unreported   int           // of requests sent there, those that Load does not count
	Load         perigee.Load  // what it last reported on a response
	LoadAt       time.Time     // when; a report older than LoadTTL gives way to the View's
	Penalty      time.Duration // it counts as at least this far away: recent failures
	Start        time.Duration // what a cold start of the function took lately, here or anywhere; 0 = not known
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
	Warm   bool   // the revision is loaded there; if not, it has a cold start
	Reason Reason // why it serves, if it does; for the receipt
	Score  Score
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
//  4. The one where the answer is expected soonest comes first (Score). Among those nearly as good one
//     is drawn.
//
// It looks at all nodes; Choices are prepared once and looked at many times.
func Route(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, chance float64) Decision {
	var terms [8]perigee.Term
	r := newRequest(&d, v, terms[:0])
	facts := func(id perigee.NodeID) Fact { return Fact{} }
	if fact != nil {
		facts = fact
	}
	list, fetch := shortlist{limit: MaxCandidates}, shortlist{limit: maxFetchers}
	var c counts
	for _, p := range v.Observed.Nodes {
		standing := r.standing(p)
		fn := d.Rollout.On(d.Function, p)
		if fn == nil {
			fn = d.Function
			standing = min(standing, leaving)
		}
		warmth := p.Revisions[fn.Live.ID]
		if c.count(standing, warmth) != eligible {
			continue
		}
		f := facts(p.ID)
		one := r.choice(p, warmth)
		var o option
		one.rate(&f, now, &o)
		if warmth == perigee.Absent {
			fetch.add(&o)
		} else {
			list.add(&o)
		}
	}
	fetch.n = min(fetch.n, c.fetchers())
	var room [MaxCandidates + maxFetchers]option
	options := append(append(room[:0], list.options()...), fetch.options()...)
	if len(options) == 0 {
		return Decision{Refusal: r.refusal(facts)}
	}
	out := make([]Candidate, min(len(options), MaxCandidates))
	r.decide(options, c.only(), chance, out)
	return Decision{Candidates: out}
}

// decide ranks options, at least one and already sorted, and writes them down.
func (r *request) decide(options []option, only bool, chance float64, out []Candidate) {
	draw(options, r.Entry, chance)
	for i := range out {
		o := &options[i]
		out[i] = Candidate{Node: o.peer.ID, Region: o.peer.Region, Warm: o.score.Start == 0, Reason: ReasonNext, Score: o.score}
	}
	if !r.retried() {
		out[0].Reason = r.reason(options, only)
	}
}

// counts is how the nodes stand to a request.
type counts struct {
	allowed, excluded int
	fetchersTried     int
	source            bool // somebody within reach has the bundle
}

func (c *counts) count(s standing, w perigee.Warmth) standing {
	c.source = c.source || w >= perigee.Held && s >= leaving
	switch s {
	case ruledOut:
		c.excluded++
	case tried:
		c.allowed++
		if w == perigee.Absent {
			c.fetchersTried++
		}
	case elsewhere, eligible:
		c.allowed++
	}
	return s
}

// fetchers returns how many nodes without the bundle may be offered.
func (c *counts) fetchers() int {
	if !c.source {
		return 0
	}
	return max(0, maxFetchers-c.fetchersTried)
}

// only reports that the hard rules left no other node.
func (c *counts) only() bool { return c.allowed == 1 && c.excluded > 0 }
