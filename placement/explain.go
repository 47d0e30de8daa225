package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// RouteReport is the choice of nodes for one request, with all that led to it.
type RouteReport struct {
	Function   string         `json:"function"`
	Entry      perigee.NodeID `json:"entry"`
	Region     perigee.Region `json:"region"` // of the entry
	Caller     perigee.Region `json:"caller"` // where the client counts as being
	Candidates []Ranked       `json:"candidates"`
	Others     []Verdict      `json:"others"`            // the nodes that are no candidates, and why
	Refusal    *Refusal       `json:"refusal,omitempty"` // nobody serves it
	Hedge      *Hedge         `json:"hedge,omitempty"`   // a second node that may be asked; nil = none is
	Changes    []string       `json:"changes"`           // what to change for another answer
}

// Ranked is a candidate, best first.
type Ranked struct {
	Node   perigee.NodeID `json:"node"`
	Region perigee.Region `json:"region"`
	Warm   bool           `json:"warm"`
	Reason Reason         `json:"reason"` // with which the receipt would say that it served; of the first, and of those that may be drawn
	Score  Score          `json:"score"`
}

// Hedge says that a request which may run twice goes to a second node, too, when the best one has not
// answered in time; whichever answers first serves. ExplainRoute does not know of it, the entry does.
type Hedge struct {
	Node   perigee.NodeID   `json:"node"`
	Region perigee.Region   `json:"region"`
	After  perigee.Duration `json:"after"`
}

// ExplainRoute says how Route decides about a request, and why. The first candidate is the best; another
// serves if it is drawn (its Score has the chance).
func ExplainRoute(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time) RouteReport {
	r := newRequest(&d, v, nil)
	report := RouteReport{Function: d.Function.Name, Entry: d.Entry, Region: r.origin, Caller: d.Caller, Candidates: []Ranked{}, Others: []Verdict{}, Changes: []string{}}
	if report.Caller == "" {
		report.Caller = r.origin
	}
	got := Route(d, v, fact, now, 0)
	listed := map[perigee.NodeID]bool{}
	chance := 0.0
	for i, c := range got.Candidates {
		one := Ranked(c)
		if i > 0 && c.Score.Chance > 0 { // what it would be, if it were drawn
			if drawn := Route(d, v, fact, now, chance+c.Score.Chance/2).Candidates[0]; drawn.Node == c.Node {
				one.Reason = drawn.Reason
			}
		}
		chance += c.Score.Chance
		listed[c.Node] = true
		report.Candidates = append(report.Candidates, one)
	}
	report.Refusal = got.Refusal
	for id, p := range v.Observed.Nodes {
		if !listed[id] {
			report.Others = append(report.Others, r.other(p))
		}
	}
	slices.SortFunc(report.Others, func(a, b Verdict) int { return strings.Compare(string(a.Node), string(b.Node)) })
	report.Changes = r.changes(&report, fact)
	return report
}

// other says why a node is no candidate.
func (r *request) other(p *perigee.Peer) Verdict {
	out := Verdict{Node: p.ID, Region: p.Region, Zone: p.Zone, State: p.State}
	switch r.standing(p) {
	case gone:
		if out.Reason = ReasonDown; r.view.Desired.Revoked[p.ID] {
			out.Reason = ReasonRevoked
		}
	case ruledOut:
		out.Reason, out.Rule = ReasonNotAllowed, r.rules.text(r.rules.excludes(p.NodeClaims))
	case leaving:
		out.Reason = ReasonDraining
	case elsewhere:
		out.Reason, out.Rule = ReasonNotAllowed, fmt.Sprintf("force = %q", r.Steer.Place)
	default:
		out.Reason = ReasonNoCopy
	}
	return out
}

// changes says what would lead to another answer: what keeps a nearer node from serving.
func (r *request) changes(report *RouteReport, fact func(perigee.NodeID) Fact) []string {
	out := []string{}
	if len(report.Candidates) == 0 {
		if n := report.Refusal.Nearest; n != nil {
			out = append(out, fmt.Sprintf("to let %s serve it, change %s so that it allows %s", n.Node, report.Refusal.Rule, n.Region))
		}
		return out
	}
	best := report.Candidates[0]
	if fact == nil {
		fact = func(perigee.NodeID) Fact { return Fact{} }
	}
	type nearer struct {
		Verdict
		way time.Duration
	}
	var excluded []nearer
	for _, o := range report.Others {
		p := r.view.Observed.Nodes[o.Node]
		f := fact(o.Node)
		if way := r.distance(p, &f); way < best.Score.Way && p.Routable() {
			excluded = append(excluded, nearer{o, way})
		}
	}
	slices.SortFunc(excluded, func(a, b nearer) int {
		return cmp.Or(cmp.Compare(a.way, b.way), strings.Compare(string(a.Node), string(b.Node)))
	})
	said := map[string]bool{}
	for _, e := range excluded {
		saves := milliseconds(best.Score.Way - e.way)
		switch {
		case e.Reason == ReasonNotAllowed && !said[e.Rule]:
			said[e.Rule] = true
			out = append(out, fmt.Sprintf("%s excludes %s in %s, which is %s nearer: change the rule to allow it", e.Rule, e.Node, e.Region, saves))
		case e.Reason == ReasonNoCopy && !said["copy"]:
			said["copy"] = true
			out = append(out, fmt.Sprintf("%s in %s is %s nearer and has no copy: hold one there with warm = { %s = 1 }", e.Node, e.Region, saves, e.Region))
		}
	}
	for _, c := range report.Candidates[1:] {
		switch {
		case c.Score.Way >= best.Score.Way:
		case r.view.Observed.Nodes[c.Node].Revisions[r.Function.Live.ID] == perigee.Absent:
			if !said["copy"] {
				said["copy"] = true
				out = append(out, fmt.Sprintf("%s in %s is %s nearer and has no copy: hold one there with warm = { %s = 1 }", c.Node, c.Region, milliseconds(best.Score.Way-c.Score.Way), c.Region))
			}
		case c.Score.Start > 0 && !said["cold"]:
			said["cold"] = true
			out = append(out, fmt.Sprintf("%s in %s is %s nearer and cold: keep it warm with warm = { %s = 1 }", c.Node, c.Region, milliseconds(best.Score.Way-c.Score.Way), c.Region))
		case c.Score.Wait > 0 && !said["busy"]:
			said["busy"] = true
			out = append(out, fmt.Sprintf("%s in %s is nearer and busy, a request waits %s there: add a node in %s", c.Node, c.Region, milliseconds(c.Score.Wait), c.Region))
		case best.Reason == ReasonPreferred && !said["prefer"]:
			said["prefer"] = true
			out = append(out, fmt.Sprintf("%s puts %s before %s in %s, which is %s nearer: change the order", spell("prefer", r.Function.Policy().Prefer), best.Region, c.Node, c.Region, milliseconds(best.Score.Way-c.Score.Way)))
		}
	}
	return out
}
