package placement

import (
	"time"

	"github.com/perigee-edge/perigee"
)

// target is what the policy's near names, as far as nodes know where that is.
type target struct {
	host    string           // nodes measure the way to it themselves
	regions []perigee.Region // the holders of a function are here
	rtt     []time.Duration  // to the nearest of them, by number of region
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
		return &target{host: t.Host}
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
	d := newDraft(&alone, fn, nil, &room{})
	d.seatDemands()
	d.seatBase()
	for _, s := range d.holders {
		regions = append(regions, s.Region)
	}
	return regions
}

func (pl *Planner) targetOf(regions []perigee.Region) *target {
	t := &target{regions: regions}
	for _, from := range pl.regions {
		nearest := farthestRTT
		for _, to := range regions {
			nearest = min(nearest, estimateRTT(pl.catalogue, from, to))
		}
		t.rtt = append(t.rtt, nearest)
	}
	return t
}

// from returns the round trip from a node to the target, and false if nobody knows.
func (t *target) from(m *member) (time.Duration, bool) {
	if t.host != "" {
		us, ok := m.Near[t.host]
		return time.Duration(us) * time.Microsecond, ok
	}
	return t.rtt[m.region], true
}

func (t *target) bucket(m *member) int {
	if t == nil {
		return 0
	}
	d, ok := t.from(m)
	if !ok {
		d = farthestRTT
	}
	return bucket(d)
}
