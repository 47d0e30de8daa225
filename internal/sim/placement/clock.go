package placement

import (
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// loadTime is how long a simulated holder takes to fetch and load what it is planned to hold.
const loadTime = 2 * time.Second

// Clock lets time pass in a cluster: each node decides what it is responsible for, all plan with that, and
// holders become warm. Rows reach everybody at once.
type Clock struct {
	View  *perigee.View
	Fleet *placement.Fleet
	Now   time.Time

	scalers map[perigee.NodeID]*placement.Scaler
	planned map[perigee.RevisionID]map[perigee.NodeID]time.Time
}

// NewClock begins with a View. Its nodes' rows are changed in place.
func NewClock(v *perigee.View) *Clock {
	c := &Clock{
		View: v, Fleet: placement.NewFleet(v), Now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
		scalers: map[perigee.NodeID]*placement.Scaler{}, planned: map[perigee.RevisionID]map[perigee.NodeID]time.Time{},
	}
	for id := range v.Observed.Nodes {
		c.scalers[id] = placement.NewScaler(id)
	}
	return c
}

// Set replaces a node's row.
func (c *Clock) Set(id perigee.NodeID, change func(*perigee.Peer)) {
	c.View = withNode(c.View, id, change)
}

// Tick lets one second pass.
func (c *Clock) Tick() {
	c.Now = c.Now.Add(time.Second)
	for _, id := range slices.Sorted(maps.Keys(c.scalers)) {
		out := c.scalers[id].Step(c.View, c.Fleet, c.Now)
		if !maps.EqualFunc(out, c.View.Observed.Nodes[id].Optional, slices.Equal) {
			c.Set(id, func(p *perigee.Peer) { p.Optional = out })
		}
	}
	c.Fleet = c.Fleet.Next(c.View)
	for _, fn := range c.View.Desired.Functions {
		c.load(fn)
	}
}

// load has the holders of a function load it, and the others let go of it.
func (c *Clock) load(fn *perigee.Function) {
	since := c.planned[fn.Live.ID]
	if since == nil {
		since = map[perigee.NodeID]time.Time{}
		c.planned[fn.Live.ID] = since
	}
	holders := c.Fleet.Plan(fn).Holders
	warmth := func(id perigee.NodeID, w perigee.Warmth) {
		if c.View.Observed.Nodes[id].Revisions[fn.Live.ID] == w {
			return
		}
		c.Set(id, func(p *perigee.Peer) {
			p.Revisions = maps.Clone(p.Revisions)
			if p.Revisions == nil {
				p.Revisions = map[perigee.RevisionID]perigee.Warmth{}
			}
			p.Revisions[fn.Live.ID] = w
		})
	}
	for _, id := range holders {
		if since[id].IsZero() {
			since[id] = c.Now
		}
		if c.Now.Sub(since[id]) >= loadTime {
			warmth(id, perigee.Warm)
		}
	}
	for id := range since {
		if !slices.Contains(holders, id) {
			delete(since, id)
			warmth(id, perigee.Absent)
		}
	}
}
