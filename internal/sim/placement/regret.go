package placement

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// holderCost is what a holder counts, in the waiting of a second: the gain from which on one is added.
const holderCost = time.Duration(placement.EnterGain) * time.Millisecond

// Regret makes a small world, lets demand settle there for ten minutes, and returns by which part what callers
// wait and holders cost, together, are more than with the best holders that the policy allows. Those are found
// by trying all.
func Regret(r *rand.Rand) (float64, error) {
	v, fn := small(r)
	c := NewClock(v)
	for range 600 {
		c.Tick()
	}
	calls := placement.CallsOf(c.View, nil)[fn.Name]
	cost := func(holders []perigee.NodeID) float64 {
		return float64(calls.Waiting(fn, holders, c.View) + time.Duration(len(holders))*holderCost)
	}
	got := c.Fleet.Plan(fn)
	best := math.Inf(1)
	ids := slices.Sorted(maps.Keys(v.Observed.Nodes))
	for set := range uint(1) << len(ids) {
		var holders []perigee.NodeID
		for i, id := range ids {
			if set&(1<<i) != 0 {
				holders = append(holders, id)
			}
		}
		if len(holders) == bits.OnesCount(set) && fits(fn.Policy(), holders, v) {
			best = min(best, cost(holders))
		}
	}
	if !fits(fn.Policy(), got.Holders, v) || math.IsInf(best, 1) {
		return 0, fmt.Errorf("%v do not fit %+v", got.Holders, *fn.Policy())
	}
	return cost(got.Holders)/best - 1, nil
}

// small is a world of eight nodes with one function that some regions call.
func small(r *rand.Rand) (*perigee.View, *perigee.Function) {
	catalogue := perigee.BuiltinRegions()
	all := catalogue.All()
	r.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	places := all[:3+r.IntN(5)]
	v := &perigee.View{Desired: &perigee.Desired{Regions: catalogue}, Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}}}
	var ids []perigee.NodeID
	for i := range 8 {
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.Region, p.Zone = places[i%len(places)].Code, string(rune('a'+i/len(places)))
		p.ID = perigee.NodeID(fmt.Sprintf("%s-%d", p.Region, i/len(places)+1))
		p.Node = p.ID
		v.Observed.Nodes[p.ID] = p
		ids = append(ids, p.ID)
	}
	slots := uint32(r.IntN(2) * 8)
	for range 1 + r.IntN(6) {
		asked := math.Pow(10, 1+3*r.Float64()) // hundredths of a request: 0.1 to 100 a second
		p := v.Observed.Nodes[ids[r.IntN(len(ids))]]
		p.Traffic = map[string]perigee.Traffic{"hello": {Asked: uint32(asked), Busy: uint32(asked * 0.2 * r.Float64()), Slots: slots}}
	}
	var p perigee.Policy
	somewhere := func() string { return string(places[r.IntN(len(places))].Code) }
	switch r.IntN(8) {
	case 0:
		p.Pin = []string{somewhere(), somewhere()}
	case 1:
		p.Max = 2 + r.IntN(2)
	case 2:
		p.Survive = perigee.SurviveRegion
	case 3:
		p.Warm = map[string]int{somewhere(): 1}
	case 4:
		p.Forbid = []string{somewhere()}
	case 5:
		p.Max, p.Survive = 3, perigee.SurviveRegion
	}
	if len(p.Pin) == 2 && p.Pin[0] == p.Pin[1] {
		p.Pin = p.Pin[:1]
	}
	fn := Function("hello", p)
	v.Desired.Functions = map[string]*perigee.Function{fn.Name: fn}
	return v, fn
}

// fits reports whether these holders are what the policy asks for, all nodes being in service.
func fits(p *perigee.Policy, holders []perigee.NodeID, v *perigee.View) bool {
	allowed, in := 0, map[perigee.Region]int{}
	for id, n := range v.Observed.Nodes {
		_, ok := placement.Allowed(p, n.NodeClaims, v.Desired.Regions)
		if ok {
			allowed++
		}
		if slices.Contains(holders, id) {
			if !ok {
				return false
			}
			in[n.Region]++
		}
	}
	for _, place := range p.Pin {
		if in[perigee.Region(place)] == 0 {
			return false
		}
	}
	for place, n := range p.Warm {
		if in[perigee.Region(place)] < n {
			return false
		}
	}
	return len(holders) >= min(placement.BaseHolders, allowed) && (p.Max == 0 || len(holders) <= p.Max) &&
		(p.Survive != perigee.SurviveRegion || len(in) >= 2)
}
