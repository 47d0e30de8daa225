package placement

import (
	"fmt"
	"math/rand/v2"

	"github.com/perigee-edge/perigee"
)

// World makes a cluster: nodes of various sizes in three zones of every built-in region, and functions
// with the policies that people write.
func World(r *rand.Rand, nodes, functions int) *perigee.View {
	catalogue := perigee.BuiltinRegions()
	regions := catalogue.All()
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: catalogue, Functions: make(map[string]*perigee.Function, functions)},
		Observed: &perigee.Observed{Nodes: make(map[perigee.NodeID]*perigee.Peer, nodes)},
	}
	for i := range nodes {
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.Region = regions[i%len(regions)].Code
		p.Zone = string(rune('a' + i/len(regions)%3))
		p.ID = perigee.NodeID(fmt.Sprintf("%s-%d", p.Region, i/len(regions)+1))
		p.Node, p.Load.Slots, p.Memory = p.ID, 8, perigee.Bytes(4<<r.IntN(4))*perigee.GiB
		if i%10 == 0 {
			p.Labels = map[string]string{"disk": "nvme"}
		}
		v.Observed.Nodes[p.ID] = p
	}
	for i := range functions {
		fn := Function(fmt.Sprintf("fn-%d", i), policies(r))
		v.Desired.Functions[fn.Name] = fn
	}
	return v
}

// Function makes a function with a policy.
func Function(name string, p perigee.Policy) *perigee.Function {
	return &perigee.Function{Name: name, Live: &perigee.Revision{
		ID: perigee.RevisionID(name), Size: perigee.MiB, Manifest: perigee.Manifest{Name: name, Placement: p},
	}}
}

// policies draws one: most functions have no rule.
func policies(r *rand.Rand) perigee.Policy {
	switch r.IntN(20) {
	case 0:
		return perigee.Policy{Residency: []string{"eu"}}
	case 1:
		return perigee.Policy{Pin: []string{"fra", "iad"}}
	case 2:
		return perigee.Policy{Prefer: []string{"as", "na"}, Survive: perigee.SurviveRegion}
	case 3:
		return perigee.Policy{Warm: map[string]int{"eu": 2, "na": 1}}
	case 4:
		return perigee.Policy{Forbid: []string{"as"}, Survive: perigee.SurviveZone}
	case 5:
		return perigee.Policy{Residency: []string{"na"}, Prefer: []string{"label:disk=nvme"}}
	case 6:
		return perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}}}
	}
	return perigee.Policy{}
}
