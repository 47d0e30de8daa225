package placement

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// benchWorld spreads n nodes over the built-in regions; every holders-th is warm.
func benchWorld(n, holders int) (*perigee.View, func(perigee.NodeID) Fact) {
	regions := perigee.BuiltinRegions().All()
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: perigee.BuiltinRegions()},
		Observed: &perigee.Observed{Nodes: make(map[perigee.NodeID]*perigee.Peer, n), At: noon},
	}
	facts := make(map[perigee.NodeID]Fact, n)
	for i := range n {
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.Region = regions[i%len(regions)].Code
		p.ID = perigee.NodeID(fmt.Sprintf("%s-%d", p.Region, i))
		p.Load.Slots = 8
		if i%holders == 0 {
			p.Revisions = map[perigee.RevisionID]perigee.Warmth{rev: perigee.Warm}
		}
		v.Observed.Nodes[p.ID] = p
		if i%3 == 0 {
			facts[p.ID] = Fact{RTT: time.Duration(1+i%200) * time.Millisecond, Measured: true}
		}
	}
	return v, func(id perigee.NodeID) Fact { return facts[id] }
}

func BenchmarkRoute(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		for _, bm := range []struct {
			name    string
			policy  perigee.Policy
			holders int // one node in so many
		}{
			{"free", perigee.Policy{}, max(1, n/2)},
			{"everywhere", perigee.Policy{}, 1},
			{"ruled", perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"lon", "label:old=yes"}, Prefer: []string{"fra", "ams"}}, 2},
		} {
			b.Run(fmt.Sprintf("%s/nodes=%d", bm.name, n), func(b *testing.B) {
				v, fact := benchWorld(n, bm.holders)
				d := Demand{Function: function(bm.policy), Entry: "ams-0"}
				b.ReportAllocs()
				for b.Loop() {
					if Route(d, v, fact, noon, 0.5).Refusal != nil {
						b.Fatal("refused")
					}
				}
			})
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			v, _ := benchWorld(n, 2)
			pl := NewPlanner(v)
			fn := function(perigee.Policy{Residency: []string{"eu"}, Prefer: []string{"fra"}, Warm: map[string]int{"ams": 1}})
			b.ReportAllocs()
			for b.Loop() {
				if len(pl.Plan(fn).Holders) != 2 {
					b.Fatal("not two holders")
				}
			}
		})
	}
}
