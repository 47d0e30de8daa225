package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/perigee-edge/perigee"
)

// Whatever happens to a cluster, plans that are carried on are what they would be if they were made anew.
func TestFleetNextIsNewFleet(t *testing.T) {
	s := seed(t)
	for i := range 300 {
		r := rand.New(rand.NewPCG(s, uint64(i)))
		w := randomWorld(r)
		v := &perigee.View{Desired: &perigee.Desired{Regions: w.view.Desired.Regions, Revoked: w.view.Desired.Revoked, Functions: map[string]*perigee.Function{}}, Observed: w.view.Observed}
		for k := range 12 {
			fn := randomWorld(r).demand.Function // another policy; its places are the same words
			fn.Name = fmt.Sprintf("f%d", k)
			fn.Live = released(fn, fn.Name)
			v.Desired.Functions[fn.Name] = fn
		}
		fleet := NewFleet(v)
		for step := range 8 {
			v = turn(r, v)
			fleet = fleet.Next(v)
			fresh := NewFleet(v)
			for name := range v.Desired.Functions {
				if got, want := fleet.Plan(v.Desired.Functions[name]), fresh.Plan(v.Desired.Functions[name]); !reflect.DeepEqual(got, want) {
					t.Fatalf("world %d, step %d, %+v:\n%+v\nanew\n%+v", i, step, *v.Desired.Functions[name].Policy(), got, want)
				}
				if full := fresh.Explain(v.Desired.Functions[name]); !slices.Equal(full.Holders, fresh.Plan(v.Desired.Functions[name]).Holders) {
					t.Fatalf("explained %v, planned %v", full.Holders, fresh.Plan(v.Desired.Functions[name]).Holders)
				}
			}
		}
	}
}

// turn changes one thing.
func turn(r *rand.Rand, v *perigee.View) *perigee.View {
	nodes := maps.Clone(v.Observed.Nodes)
	id := pick(r, slices.Sorted(maps.Keys(nodes))...)
	p := *nodes[id]
	desired := *v.Desired
	switch r.IntN(11) {
	case 0:
		delete(nodes, id)
		if len(nodes) == 0 {
			nodes[id] = &p
		}
	case 1:
		p.ID = perigee.NodeID(fmt.Sprintf("%s-x%d", p.Region, r.IntN(100)))
		p.State = perigee.NodeAlive
		nodes[p.ID] = &p
	case 2:
		p.Draining = !p.Draining
		nodes[id] = &p
	case 3:
		p.Memory = perigee.Bytes(r.IntN(20)) * perigee.GiB
		nodes[id] = &p
	case 4:
		p.Load.InFlight++ // nothing that plans see
		nodes[id] = &p
	case 5:
		desired.Functions = maps.Clone(desired.Functions)
		fn := *desired.Functions["f3"]
		fn.Placement = &perigee.Policy{Pin: []string{string(p.Region)}}
		desired.Functions["f3"] = &fn
	case 6:
		p.Full = !p.Full
		p.Revisions = map[perigee.RevisionID]perigee.Warmth{"f1": perigee.Held, "new": perigee.Warm, "f7": perigee.Warm}
		for range r.IntN(3) {
			p.Revisions[perigee.RevisionID(fmt.Sprintf("f%d", r.IntN(12)))] = perigee.Warm
		}
		nodes[id] = &p
	case 7:
		desired.Functions = maps.Clone(desired.Functions)
		name := fmt.Sprintf("f%d", r.IntN(12))
		fn := *desired.Functions[name]
		fn.Live = released(&fn, pick(r, "new", perigee.RevisionID(name)))
		desired.Functions[name] = &fn
	case 8, 9:
		p.Optional = claimed(r, nodes, fmt.Sprintf("f%d", r.IntN(12)), fmt.Sprintf("f%d", r.IntN(12)))
		nodes[id] = &p
	default:
		p.State = pick(r, perigee.NodeAlive, perigee.NodeDead, perigee.NodeSuspect)
		nodes[id] = &p
	}
	return &perigee.View{Desired: &desired, Observed: &perigee.Observed{Self: v.Observed.Self, Nodes: nodes, At: noon}}
}

// released returns the live revision of a function under another name.
func released[ID ~string](fn *perigee.Function, id ID) *perigee.Revision {
	rev := *fn.Live
	rev.ID = perigee.RevisionID(id)
	return &rev
}

// claimed draws what a node's row says about optional holders.
func claimed(r *rand.Rand, nodes map[perigee.NodeID]*perigee.Peer, functions ...string) map[string][]perigee.Optional {
	out := map[string][]perigee.Optional{}
	ids := slices.Sorted(maps.Keys(nodes))
	for _, name := range functions {
		out[name] = nil
		for range r.IntN(4) {
			out[name] = append(out[name], perigee.Optional{Node: pick(r, ids...), Gain: r.Uint32N(3)})
		}
	}
	return out
}
