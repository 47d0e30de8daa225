package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Refusal says why no node serves a request. Its texts are for the client and name no address.
type Refusal struct {
	Status  int      `json:"status"`            // 503: allowed, but nobody can now; 403: a forced place is not allowed
	Cause   Cause    `json:"cause"`             // which of the cases of docs/placement.md it is
	Rule    string   `json:"rule,omitempty"`    // the rule as the manifest spells it, like `pin = ["fra"]`; "" if no rule excludes a node
	Nearest *Nearest `json:"nearest,omitempty"` // the nearest node that Rule excludes; nil if it excludes none in service
	Detail  string   `json:"detail"`            // one sentence with all of it
}

// Nearest is the nearest node that a rule excludes.
type Nearest struct {
	Node   perigee.NodeID `json:"node"`
	Region perigee.Region `json:"region"`
	RTT    time.Duration  `json:"rtt"` // from the entry node: measured, or estimated from distance
}

// Cause tells refusals apart.
type Cause string

// The causes.
const (
	CauseNoneAllowed  Cause = "none-allowed"   // 503: no node of the cluster satisfies the hard rules
	CauseAllowedDown  Cause = "allowed-down"   // 503: the allowed nodes are down or draining
	CauseAllTried     Cause = "all-tried"      // 503: the allowed nodes in service refused this request or did not answer
	CauseNoCopy       Cause = "no-copy"        // 503: no node within reach has the bundle yet
	CauseForceDenied  Cause = "force-denied"   // 403: the hard rules exclude every node of the place the client forced
	CauseForceUnknown Cause = "force-unknown"  // 403: the place the client forced is none of this cluster's
	CauseForceEmpty   Cause = "force-no-nodes" // 503: the place the client forced is allowed and has no node
)

// refusal explains why no node is left. It runs only when there is none, so it looks at all nodes
// anew and takes its time.
func (r *request) refusal(facts func(perigee.NodeID) Fact) *Refusal {
	c := r.census(facts)
	if r.Steer.Mode == SteerForce {
		return r.forceRefusal(c)
	}
	rule := strings.Join(c.rules, " and ")
	switch {
	case c.members == 0:
		return c.refuse(503, CauseNoneAllowed, "", "this cluster has no node")
	case len(c.allowed) == 0:
		return c.refuse(503, CauseNoneAllowed, rule, fmt.Sprintf("%s %s no node of this cluster", rule, c.verb()))
	case rule == "":
		return c.refuse(503, c.cause(), "", "no rule excludes a node, but none can serve: "+enumerate(c.allowed))
	}
	return c.refuse(503, c.cause(), rule, fmt.Sprintf("%s %s only %s", rule, c.verb(), enumerate(c.allowed)))
}

// forceRefusal does so when the client forced a place: the census counts only the nodes there.
func (r *request) forceRefusal(c *census) *Refusal {
	place := r.Steer.Place
	force := fmt.Sprintf("force = %.80q", place)
	switch {
	case c.members == 0 && !r.rules.regions.Known(place):
		return c.refuse(403, CauseForceUnknown, force, fmt.Sprintf("the client forced %.80q, which is no region or group of this cluster", place))
	case c.members == 0 && r.rules.anyRegion(r.place, r.rules.mayRun):
		c.nearest = c.besides
		return c.refuse(503, CauseForceEmpty, force, fmt.Sprintf("the client forced %s, where this cluster has no node", place))
	case c.members == 0:
		c.rules = r.rules.active()
		fallthrough
	case len(c.allowed) == 0:
		rule := strings.Join(c.rules, " and ")
		return c.refuse(403, CauseForceDenied, rule, fmt.Sprintf("the client forced %s, where %s %s no node", place, rule, c.verb()))
	}
	c.rules, c.nearest = nil, c.besides
	return c.refuse(503, c.cause(), force, fmt.Sprintf("the client forced %s, where only %s may run it", place, enumerate(c.allowed)))
}

// census is how all nodes stand to a request that none serves.
type census struct {
	members   int      // nodes in question: not revoked, and in the place the client forced
	allowed   []string // those the hard rules allow, nearest first, each with what is wrong with it
	tried     bool     // one of them was tried
	idle      bool     // one of them is in service and was not tried: it lacks the bundle
	rules     []string // the hard rules that exclude the others
	nearest   *Nearest // of those in service, the nearest the rules exclude
	besides   *Nearest // the nearest in service that the rules allow and the client's force excludes
	estimates map[perigee.NodeID]bool
	entry     perigee.NodeID
}

func (r *request) census(facts func(perigee.NodeID) Fact) *census {
	type neighbour struct {
		*perigee.Peer
		Nearest
	}
	c := &census{estimates: map[perigee.NodeID]bool{}, entry: r.Entry}
	var all []neighbour
	for id, p := range r.view.Observed.Nodes {
		f := facts(id)
		c.estimates[id] = !f.Measured
		all = append(all, neighbour{p, Nearest{id, p.Region, r.distance(p, &f)}})
	}
	slices.SortFunc(all, func(a, b neighbour) int {
		return cmp.Or(cmp.Compare(a.RTT, b.RTT), strings.Compare(string(a.Node), string(b.Node)))
	})
	var excluding [exclusions]bool
	for _, n := range all {
		ex := r.rules.excludes(n.NodeClaims)
		switch {
		case r.view.Desired.Revoked[n.ID]:
			continue
		case r.Steer.Mode == SteerForce && !r.inPlace(n.NodeClaims):
			if c.besides == nil && ex == nothing && n.Routable() {
				c.besides = &n.Nearest
			}
			continue
		}
		c.members++
		if ex != nothing {
			excluding[ex] = true
			if c.nearest == nil && n.Routable() {
				c.nearest = &n.Nearest
			}
			continue
		}
		c.allowed = append(c.allowed, fmt.Sprintf("%s (%s)", n.ID, c.trouble(r, n.Peer)))
	}
	for ex, does := range excluding {
		if does {
			c.rules = append(c.rules, r.rules.text(exclusion(ex)))
		}
	}
	return c
}

// trouble says why an allowed node does not serve, and counts it.
func (c *census) trouble(r *request, p *perigee.Peer) string {
	switch {
	case p.State == perigee.NodeLeft:
		return "left"
	case p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect:
		return "down"
	case p.Draining:
		return "draining"
	case r.Tried[p.ID]:
		c.tried = true
		return "refused or silent"
	case r.Rollout.On(r.Function, p) == nil:
		c.idle = true
		return "its rollout is " + r.Rollout.Text()
	}
	c.idle = true
	return "no copy of the bundle"
}

func (c *census) cause() Cause {
	switch {
	case c.tried:
		return CauseAllTried
	case c.idle:
		return CauseNoCopy
	}
	return CauseAllowedDown
}

// verb agrees with the number of rules.
func (c *census) verb() string {
	if len(c.rules) > 1 {
		return "allow"
	}
	return "allows"
}

// refuse completes the sentence with the nearest excluded node.
func (c *census) refuse(status int, cause Cause, rule, detail string) *Refusal {
	if n := c.nearest; n != nil {
		pronoun, away := "it excludes", ""
		if len(c.rules) > 1 {
			pronoun = "they exclude"
		}
		switch {
		case n.Node == c.entry:
			away = "which took the request"
		case c.estimates[n.Node]:
			away = "about " + milliseconds(n.RTT) + " away"
		default:
			away = milliseconds(n.RTT) + " away"
		}
		detail += fmt.Sprintf("; the nearest node %s is %s in %s, %s", pronoun, n.Node, n.Region, away)
	}
	return &Refusal{Status: status, Cause: cause, Rule: rule, Nearest: c.nearest, Detail: detail}
}
