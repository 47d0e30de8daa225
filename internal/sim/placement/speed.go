package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// Full times a plan of everything.
func Full(v *perigee.View) (*placement.Fleet, time.Duration) {
	began := time.Now()
	f := placement.NewFleet(v)
	return f, time.Since(began)
}

// Deltas times plans that follow one change each: a node that goes, one that comes back, and a function
// that gets another policy. It returns the median of some tries of each, which are drawn by r.
func Deltas(r *rand.Rand, v *perigee.View, f *placement.Fleet, tries int) (leave, join, function time.Duration) {
	var leaves, joins, functions []time.Duration
	ids, names := slices.Sorted(maps.Keys(v.Observed.Nodes)), slices.Sorted(maps.Keys(v.Desired.Functions))
	for i := range tries {
		id := ids[r.IntN(len(ids))]
		gone := withNode(v, id, func(p *perigee.Peer) { p.State = perigee.NodeDead })
		without, d := next(f, gone)
		leaves = append(leaves, d)
		_, d = next(without, v)
		joins = append(joins, d)

		name := names[r.IntN(len(names))]
		desired := *v.Desired
		desired.Functions = maps.Clone(desired.Functions)
		desired.Functions[name] = Function(name, perigee.Policy{Pin: []string{"fra"}, Max: 2 + i})
		_, d = next(f, &perigee.View{Desired: &desired, Observed: v.Observed})
		functions = append(functions, d)
	}
	return median(leaves), median(joins), median(functions)
}

func median(list []time.Duration) time.Duration {
	slices.Sort(list)
	return list[len(list)/2]
}

func next(f *placement.Fleet, v *perigee.View) (*placement.Fleet, time.Duration) {
	began := time.Now()
	f = f.Next(v)
	return f, time.Since(began)
}

// withNode returns a View in which one node is different.
func withNode(v *perigee.View, id perigee.NodeID, change func(*perigee.Peer)) *perigee.View {
	p := *v.Observed.Nodes[id]
	change(&p)
	nodes := maps.Clone(v.Observed.Nodes)
	nodes[id] = &p
	return &perigee.View{Desired: v.Desired, Observed: &perigee.Observed{Nodes: nodes, At: v.Observed.At}}
}

// Moves returns which part of all holders are others when one node is gone, as the mean over every node.
// What that node held must move, so 1/nodes is the least.
func Moves(v *perigee.View) float64 {
	before := placement.NewFleet(v)
	moved, held := 0, 0
	for _, id := range slices.Sorted(maps.Keys(v.Observed.Nodes)) {
		after := before.Next(withNode(v, id, func(p *perigee.Peer) { p.State = perigee.NodeDead }))
		for _, fn := range v.Desired.Functions {
			was := before.Plan(fn).Holders
			held += len(was)
			for _, h := range after.Plan(fn).Holders {
				if !slices.Contains(was, h) {
					moved++
				}
			}
		}
	}
	return float64(moved) / float64(held)
}

// Same reports the first function whose plan is not the one that is made anew; "" = none.
func Same(f *placement.Fleet, v *perigee.View) string {
	fresh := placement.NewFleet(v)
	for _, name := range slices.Sorted(maps.Keys(v.Desired.Functions)) {
		fn := v.Desired.Functions[name]
		if a, b := f.Plan(fn), fresh.Plan(fn); !slices.Equal(a.Holders, b.Holders) || !maps.Equal(a.Warm, b.Warm) {
			return fmt.Sprintf("%s: %v, anew %v", name, a.Holders, b.Holders)
		}
	}
	return ""
}
