package routing

import (
	"slices"
	"testing"
	"time"
)

// The production choice stays near the best possible and far from what gossip alone gives, and a run
// depends on nothing but its Config.
func TestProductionIsNearTheOracle(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			run := func(p Policy) []time.Duration {
				r := Run(Config{Seed: 7, Kind: kind, Policy: p, Load: 0.5, Length: 20 * time.Second})
				if r.Failed > 0 {
					t.Errorf("%s: %d requests failed", p, r.Failed)
				}
				return r.Took
			}
			ours := run(Production)
			if !slices.Equal(ours, run(Production)) {
				t.Fatal("two runs with one seed differ")
			}
			p := func(took []time.Duration) float64 { return Quantile(took, 0.99).Seconds() * 1000 }
			our, oracle, gossip := p(ours), p(run(Oracle)), p(run(LeastLoaded))
			t.Logf("p99 %.0f ms, oracle %.0f ms, least loaded by gossip %.0f ms, of %d requests", our, oracle, gossip, len(ours))
			if our > 1.4*oracle || our > 0.3*gossip {
				t.Errorf("p99 %.0f ms; the oracle has %.0f ms, gossip %.0f ms", our, oracle, gossip)
			}
		})
	}
}

// When all workers of the busy region die, requests are answered elsewhere, and come back after.
func TestLossOfARegion(t *testing.T) {
	r := Run(Config{Seed: 3, Kind: Exponential, Policy: Production, Load: 0.4, Length: 40 * time.Second, LossAt: 15 * time.Second, LossFor: 10 * time.Second})
	if r.Failed > 0 {
		t.Errorf("%d requests were never answered", r.Failed)
	}
	if n := r.Served[20][0]; n != 0 {
		t.Errorf("%d requests ran in a region without nodes", n)
	}
	if before, after := r.Served[12][0], r.Served[38][0]; after < before/2 {
		t.Errorf("%d requests a second ran there before, %d long after", before, after)
	}
	if worst := Quantile(r.Slices[20], 0.99); worst > 2*time.Second {
		t.Errorf("p99 %v while the region is gone", worst)
	}
}
