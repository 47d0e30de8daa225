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

// BenchmarkPick is the choice with prepared nodes: 10,000 functions on 1000 nodes, 20 of which have each.
func BenchmarkPick(b *testing.B) {
	const functions = 10_000
	v, _ := benchWorld(1000, 50)
	all := make([]*Choices, functions)
	facts := make([][]Fact, functions)
	for i := range all {
		fn := function(perigee.Policy{Prefer: []string{"fra", "eu"}})
		fn.Name = fmt.Sprintf("fn-%d", i)
		all[i] = NewChoices(fn, "ams-0", "", v, func(perigee.NodeID) Fact { return Fact{} }, noon)
		for k := range all[i].Len() {
			facts[i] = append(facts[i], Fact{RTT: time.Duration(10+k) * time.Millisecond, Measured: true, InFlight: k})
		}
	}
	var out [4]Candidate
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i = (i + 7919) % functions
		if all[i].Pick(facts[i], noon, 0.5, out[:]) == 0 {
			b.Fatal("no choice")
		}
	}
}

// The choice allocates nothing.
func TestPickAllocatesNothing(t *testing.T) {
	v, _ := benchWorld(100, 5)
	c := NewChoices(function(perigee.Policy{Residency: []string{"eu"}, Prefer: []string{"fra"}, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}}}), "ams-0", "", v, func(perigee.NodeID) Fact { return Fact{} }, noon)
	facts := make([]Fact, c.Len())
	var out [MaxCandidates]Candidate
	if n := testing.AllocsPerRun(100, func() { c.Pick(facts, noon, 0.5, out[:]) }); n != 0 || c.Len() == 0 {
		t.Errorf("%v allocations for %d choices", n, c.Len())
	}
}
