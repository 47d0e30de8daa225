package placement

import (
	"maps"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
)

// Rollout says which nodes run the live revision of a function while it is new: first one, then the
// holders of that one's region, then all. It is computed from the plan and from what the nodes say in
// their rows, so every node that sees the same comes to the same, and nobody leads. Where the live
// revision is not to run yet, the one that served before it does.
//
// A node that has a revision for the first time tries it (perigee.Trial), and says how that went. The
// live revision goes on to
//
//  1. one node, the canary: the first of those that try it or have it, else the first holder;
//  2. the region of nodes it passed on, while none of its holders there still has to try it;
//  3. everywhere, when it passed on all holders of a region, or in two regions.
//
// It stops when it failed on as many nodes as it passed on, at least one: then it runs nowhere, and the
// last revision that did not fail serves. A node that fell silent while it tried is waited for, and no
// other tries meanwhile.
type Rollout struct {
	Stage  Stage              `json:"stage"`
	Live   perigee.RevisionID `json:"live"`
	Before perigee.RevisionID `json:"before,omitempty"`  // serves where Live does not; "" = nothing does
	Canary perigee.NodeID     `json:"canary,omitempty"`  // in StageOne
	Region []perigee.Region   `json:"regions,omitempty"` // in StageRegion
	Passed []perigee.NodeID   `json:"passed,omitempty"`
	Failed []perigee.NodeID   `json:"failed,omitempty"`

	fallback *perigee.Function
}

// Stage is how far a rollout is.
type Stage string

// The stages.
const (
	StageOne     Stage = "one-node"
	StageRegion  Stage = "one-region"
	StageAll     Stage = "all"
	StageStopped Stage = "stopped"
)

// RolloutAll is the value of Function.Rollout that skips the stages.
const RolloutAll = "all"

// Rollouts tells how far the rollouts of one View are. It does not change and may be used from any
// goroutine.
type Rollouts struct {
	view *perigee.View
	said map[perigee.RevisionID][]*perigee.Peer // who says anything of a revision, by ID
}

// NewRollouts reads what the nodes of a View say.
func NewRollouts(v *perigee.View) *Rollouts {
	all := &Rollouts{view: v, said: map[perigee.RevisionID][]*perigee.Peer{}}
	for _, id := range slices.Sorted(maps.Keys(v.Observed.Nodes)) {
		p := v.Observed.Nodes[id]
		for rev := range p.Revisions {
			all.said[rev] = append(all.said[rev], p)
		}
		for rev := range p.Trials {
			if _, twice := p.Revisions[rev]; !twice {
				all.said[rev] = append(all.said[rev], p)
			}
		}
	}
	return all
}

// Of returns how far the live revision of a function is; nil when it runs everywhere and there is nothing
// to watch. What the node except says counts for nothing; "" = all count.
func (all *Rollouts) Of(fn *perigee.Function, plan Plan, except perigee.NodeID) *Rollout {
	if fn.Rollout == RolloutAll {
		return nil
	}
	r := &Rollout{Live: fn.Live.ID}
	trying := r.count(all, fn, except)
	pending := false
	for _, id := range plan.Holders {
		pending = pending || !slices.Contains(r.Passed, id)
	}
	if len(plan.Holders) > 0 && !pending && len(trying) == 0 {
		return nil
	}
	nodes := all.view.Observed.Nodes
	r.setBefore(all, fn, except)
	switch {
	case len(r.Failed) > 0 && len(r.Failed) >= len(r.Passed):
		r.Stage = StageStopped
	case len(r.Passed) == 0:
		r.Stage, r.Canary = StageOne, canary(fn.Live.ID, plan, nodes, trying)
	case r.complete(plan, nodes, trying):
		r.Stage = StageAll
	default:
		r.Stage = StageRegion
	}
	return r
}

// count sorts the nodes that the hard rules allow by what they say of the live revision, and returns
// those that try it, alive or not.
func (r *Rollout) count(all *Rollouts, fn *perigee.Function, except perigee.NodeID) (trying []*perigee.Peer) {
	said := all.said[r.Live]
	if len(said) == 0 {
		return nil
	}
	rules := compile(fn.Policy(), all.view.Desired.Regions, nil)
	for _, p := range said {
		if p.ID == except || all.view.Desired.Revoked[p.ID] || rules.excludes(p.NodeClaims) != nothing {
			continue
		}
		switch trial := p.Trials[r.Live]; {
		case trial == perigee.TrialFailed:
			r.Failed = append(r.Failed, p.ID)
		case trial == perigee.Trying && p.State != perigee.NodeLeft && !p.Draining: // one that leaves in good order is not waited for
			trying = append(trying, p)
		case trial == perigee.TrialNone && p.Revisions[r.Live] >= perigee.Held:
			r.Passed = append(r.Passed, p.ID)
			if !slices.Contains(r.Region, p.Region) {
				r.Region = append(r.Region, p.Region)
			}
		}
	}
	slices.Sort(r.Region)
	return trying
}

// complete reports whether the live revision has passed on all holders of a region, or in two.
func (r *Rollout) complete(plan Plan, nodes map[perigee.NodeID]*perigee.Peer, trying []*perigee.Peer) bool {
	if len(r.Region) > 1 {
		return true
	}
	for _, id := range plan.Holders {
		if p := nodes[id]; p != nil && p.Region == r.Region[0] && !slices.Contains(r.Passed, id) {
			return false
		}
	}
	return !slices.ContainsFunc(trying, func(p *perigee.Peer) bool { return p.Region == r.Region[0] })
}

func canary(live perigee.RevisionID, plan Plan, nodes map[perigee.NodeID]*perigee.Peer, trying []*perigee.Peer) perigee.NodeID {
	if len(trying) > 0 {
		return trying[0].ID // they are sorted
	}
	for _, id := range plan.Holders {
		if p := nodes[id]; p != nil && p.Revisions[live] >= perigee.Held {
			return id
		}
	}
	if len(plan.Holders) > 0 {
		return plan.Holders[0]
	}
	return ""
}

// setBefore finds the revision that serves where the live one does not: the last that did not fail.
func (r *Rollout) setBefore(all *Rollouts, fn *perigee.Function, except perigee.NodeID) {
	for _, rev := range fn.Kept {
		older := Rollout{Live: rev.ID}
		if older.count(all, fn, except); len(older.Failed) == 0 || len(older.Failed) < len(older.Passed) {
			r.Before = rev.ID
			f := *fn
			f.Placement = fn.Policy() // the rules of now hold for what served before, too
			f.Live, f.Kept = rev, slices.DeleteFunc(slices.Clone(fn.Kept), func(k *perigee.Revision) bool { return k == rev })
			r.fallback = &f
			return
		}
	}
}

// On returns the function as a node is to run it: fn itself, or with the revision before in the place
// of the live one; nil = not at all. A nil Rollout runs fn everywhere.
func (r *Rollout) On(fn *perigee.Function, p *perigee.Peer) *perigee.Function {
	if r == nil {
		return fn
	}
	live := r.Stage == StageAll ||
		r.Stage == StageRegion && slices.Contains(r.Region, p.Region) ||
		r.Stage == StageOne && r.Canary == p.ID
	if live && p.Trials[r.Live] != perigee.TrialFailed {
		return fn
	}
	return r.fallback
}

// Function returns the function as it serves: with the revision before the live one, where that has
// stopped and there is one.
func (r *Rollout) Function(fn *perigee.Function) *perigee.Function {
	if r != nil && r.Stage == StageStopped && r.fallback != nil {
		return r.fallback
	}
	return fn
}

// Text says how far it is, for people.
func (r *Rollout) Text() string {
	if r == nil {
		return "everywhere"
	}
	ids := func(list []perigee.NodeID) string {
		s := make([]string, len(list))
		for i, id := range list {
			s[i] = string(id)
		}
		return strings.Join(s, ", ")
	}
	switch r.Stage {
	case StageOne:
		return "tried on " + string(r.Canary) + " first"
	case StageRegion:
		return "passed on " + ids(r.Passed) + ", now in that region"
	case StageStopped:
		text := "stopped: it failed on " + ids(r.Failed)
		if r.Before != "" {
			return text + "; revision " + string(r.Before) + " serves"
		}
		return text + ", and no other revision is there to serve"
	}
	return "passed on " + ids(r.Passed) + ", now everywhere"
}
