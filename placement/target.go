package placement

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// target is what the policy's near names, as far as nodes know where that is.
type target struct {
	host      string           // nodes measure the way to it themselves
	regions   []perigee.Region // or: the holders of a function are here
	catalogue *perigee.Regions
	rtt       []time.Duration // for plans: to the nearest of them, by number of region
}

// target returns what the function should be near to, besides its callers; nil = nothing that is known.
func (pl *Planner) target(fn *perigee.Function) *target {
	near := fn.Policy().Near
	if near == "" || near == perigee.NearClient {
		return nil
	}
	t, err := perigee.ParseNear(near)
	if err != nil {
		return nil
	}
	if t.Host != "" {
		return &target{host: t.Host, catalogue: pl.catalogue}
	}
	other := pl.functions[t.Function]
	if other == nil || other.Name == fn.Name {
		return nil
	}
	return pl.targetOf(pl.regionsOf(other))
}

// regionsOf returns where a function's holders are planned, whatever that one would be near to: two
// functions may name each other.
func (pl *Planner) regionsOf(fn *perigee.Function) (regions []perigee.Region) {
	alone := *pl
	alone.functions = nil
	for _, s := range alone.draft(fn, &room{}).holders {
		regions = append(regions, s.Region)
	}
	return regions
}

func (pl *Planner) targetOf(regions []perigee.Region) *target {
	t := &target{regions: regions, catalogue: pl.catalogue}
	for _, from := range pl.regions {
		t.rtt = append(t.rtt, t.nearest(from))
	}
	return t
}

func (t *target) bucket(m *member) int {
	if t == nil {
		return 0
	}
	if t.host != "" {
		return bucket(t.way(m.Peer))
	}
	return bucket(t.rtt[m.region])
}

// targetIn is target for requests: where the holders of a function are now, not where they should be.
func targetIn(fn *perigee.Function, v *perigee.View) *target {
	near := fn.Policy().Near
	if near == "" || near == perigee.NearClient {
		return nil
	}
	named, err := perigee.ParseNear(near)
	if err != nil {
		return nil
	}
	t := &target{host: named.Host, catalogue: v.Desired.Regions}
	known := false
	other := v.Desired.Functions[named.Function]
	for _, p := range v.Observed.Nodes {
		switch {
		case named.Host != "":
			_, ok := p.Near[named.Host]
			known = known || ok
		case other != nil && other.Name != fn.Name && p.Routable() && p.Revisions[other.Live.ID] >= perigee.Held:
			known = true
			if !slices.Contains(t.regions, p.Region) {
				t.regions = append(t.regions, p.Region)
			}
		}
	}
	if !known {
		return nil
	}
	slices.Sort(t.regions)
	return t
}

// way returns the round trip from a node to the target. What nobody has measured is as far as can be.
func (t *target) way(p *perigee.Peer) time.Duration {
	switch {
	case t == nil:
		return 0
	case t.host != "":
		if us, ok := p.Near[t.host]; ok {
			return time.Duration(us) * time.Microsecond
		}
		return farthestRTT
	}
	return t.nearest(p.Region)
}

// nearest returns the round trip from a region to the nearest holder.
func (t *target) nearest(from perigee.Region) time.Duration {
	d := farthestRTT
	for _, to := range t.regions {
		d = min(d, estimateRTT(t.catalogue, from, to))
	}
	return d
}
