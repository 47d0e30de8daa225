// Bench prints the figures of the router, "name value" one a line; docs/bench.md explains them. Lines that
// begin with # are for people. SEED chooses the worlds. With -svg DIR it draws a picture of each run instead.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/sim/routing"
	"github.com/perigee-edge/perigee/placement"
)

const (
	nodes     = 1000
	functions = 10_000
	load      = 0.5
	length    = time.Minute
)

func main() {
	dir := flag.String("svg", "", "draw pictures into this folder")
	flag.Parse()
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64() >> 32
	}
	fmt.Printf("# SEED=%d\n", seed)
	if *dir == "" {
		route()
		simulate(seed)
		return
	}
	for _, s := range routing.Scenes(seed) {
		if err := os.WriteFile(filepath.Join(*dir, "routing-"+s.Name+".svg"), routing.Draw(s), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
}

// route measures the choice for a request with prepared nodes.
func route() {
	const rev = perigee.RevisionID("a1b2c3d4e5f6")
	regions := perigee.BuiltinRegions().All()
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: perigee.BuiltinRegions()},
		Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}},
	}
	for i := range nodes {
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.Region = regions[i%len(regions)].Code
		p.ID = perigee.NodeID(fmt.Sprintf("%s-%d", p.Region, i))
		p.Load.Slots = 8
		if i%50 == 0 {
			p.Revisions = map[perigee.RevisionID]perigee.Warmth{rev: perigee.Warm}
		}
		v.Observed.Nodes[p.ID] = p
	}
	policies := []perigee.Policy{{}, {Prefer: []string{"as", "na"}}, {Residency: []string{"eu", "na"}}}
	type one struct {
		choices *placement.Choices
		facts   []placement.Fact
	}
	now := time.Unix(1e9, 0)
	var all []one
	for i := range functions {
		fn := &perigee.Function{Name: fmt.Sprintf("fn-%d", i), Live: &perigee.Revision{ID: rev}}
		fn.Live.Manifest.Placement = policies[i%len(policies)]
		o := one{choices: placement.NewChoices(fn, "ams-0", "ams", v, func(perigee.NodeID) placement.Fact { return placement.Fact{} }, now)}
		for k := range o.choices.Len() {
			o.facts = append(o.facts, placement.Fact{RTT: time.Duration(10+k) * time.Millisecond, Measured: true, InFlight: k})
		}
		all = append(all, o)
	}
	var out [4]placement.Candidate
	i := 0
	r := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			i = (i + 7919) % len(all)
			if all[i].choices.Pick(all[i].facts, now, 0.5, out[:]) == 0 {
				b.Fatal("no choice")
			}
		}
	})
	fmt.Printf("route_ns %d\nroute_allocs %d\n", r.NsPerOp(), r.AllocsPerOp())
}

// simulate compares the choice with others, at half of what all nodes together can bear.
func simulate(seed uint64) {
	var oracle, gossip, bound float64
	for _, kind := range routing.Kinds() {
		p99 := map[routing.Policy]float64{}
		for _, policy := range routing.Policies() {
			r := routing.Run(routing.Config{Seed: seed, Kind: kind, Policy: policy, Load: load, Length: length})
			ms := func(q float64) float64 { return routing.Quantile(r.Took, q).Seconds() * 1000 }
			p99[policy] = ms(0.99)
			fmt.Printf("# %-12s %-12s p50 %6.0f ms  p99 %6.0f ms  p99.9 %6.0f ms  %d requests, %d unanswered\n", kind, policy, ms(0.5), ms(0.99), ms(0.999), len(r.Took), r.Failed)
		}
		fmt.Printf("sim_p99_vs_oracle_%s %.2f\nsim_p99_vs_leastloaded_%s %.2f\n", name(kind), p99[routing.Production]/p99[routing.Oracle], name(kind), p99[routing.Production]/p99[routing.LeastLoaded])
		oracle = max(oracle, p99[routing.Production]/p99[routing.Oracle])
		gossip = max(gossip, p99[routing.Production]/p99[routing.LeastLoaded])
		bound = max(bound, p99[routing.Oracle]/p99[routing.LeastLoaded])
	}
	fmt.Printf("sim_p99_vs_oracle %.2f\nsim_p99_vs_leastloaded %.2f\nsim_oracle_p99_vs_leastloaded %.2f\n", oracle, gossip, bound)
}

// name is a kind as part of a figure's name.
func name(k routing.Kind) string {
	if k == routing.HeavyTailed {
		return "heavy"
	}
	return string(k)
}
