package node

import (
	"maps"
	"slices"
	"sync"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// plans keeps the plans of all functions until something changes that a plan depends on. The View
// changes many times a second, mostly by load, of which plans know nothing.
type plans struct {
	mu   sync.Mutex // guards last
	last *planSet
}

// planSet is the plans that belong to one state of the cluster.
type planSet struct {
	view    *perigee.View
	planner *placement.Planner

	mu     sync.Mutex // guards byName
	byName map[string]placement.Plan
}

// at returns the plans for a View.
func (p *plans) at(v *perigee.View) *planSet {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil || !samePlans(p.last.view, v) {
		p.last = &planSet{view: v, planner: placement.NewPlanner(v), byName: map[string]placement.Plan{}}
	}
	return p.last
}

// of returns the plan of a function of the View. It is shared and must not be changed.
func (s *planSet) of(fn *perigee.Function) placement.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	plan, ok := s.byName[fn.Name]
	if !ok {
		plan = s.planner.Plan(fn)
		s.byName[fn.Name] = plan
	}
	return plan
}

// samePlans reports whether two Views lead to the same plans.
func samePlans(a, b *perigee.View) bool {
	if a.Desired != b.Desired {
		return false
	}
	return a.Observed == b.Observed || maps.EqualFunc(a.Observed.Nodes, b.Observed.Nodes, func(p, q *perigee.Peer) bool {
		return p == q || p.State == q.State && p.Draining == q.Draining && p.Full == q.Full && (!p.Full || maps.Equal(p.Revisions, q.Revisions)) && p.Region == q.Region && p.Zone == q.Zone && maps.Equal(p.Labels, q.Labels)
	})
}

// wanted returns what the plan wants of a node: Warm, Held, or Absent for one that is no holder.
func wanted(plan placement.Plan, id perigee.NodeID) perigee.Warmth {
	switch {
	case plan.Warm[id]:
		return perigee.Warm
	case slices.Contains(plan.Holders, id):
		return perigee.Held
	}
	return perigee.Absent
}
