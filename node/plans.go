package node

import (
	"slices"
	"sync"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// plans keeps the plans of all functions and carries them on from View to View. The View changes many
// times a second, mostly by load, of which plans know nothing.
type plans struct {
	mu    sync.Mutex // guards what follows
	view  *perigee.View
	fleet *placement.Fleet
}

// at returns the plans for a View.
func (p *plans) at(v *perigee.View) *placement.Fleet {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.view == nil:
		p.fleet = placement.NewFleet(v)
	case p.view.Desired != v.Desired || p.view.Observed != v.Observed:
		p.fleet = p.fleet.Next(v)
	}
	p.view = v
	return p.fleet
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
