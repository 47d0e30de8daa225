// Bench prints the figures of the simulated cluster as "name value" lines; docs/bench.md says what
// each means. SEED chooses the runs; it is printed to the standard error.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/internal/sim/cluster"
)

const (
	trials  = 1000
	deploys = 20 // in the cluster of a thousand
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64() >> 32
	}
	fmt.Fprintf(os.Stderr, "SEED=%d\n", seed)
	if err := lost(seed); err != nil {
		return err
	}
	s, err := cluster.Converge(cluster.Config{Seed: seed, Nodes: 1000, Loss: 0.05}, 0.1, deploys)
	if err != nil {
		return err
	}
	fmt.Printf("sim1000_converge_p50_ms %.0f\n", ms(s.Percentile(0.5)))
	fmt.Printf("sim1000_converge_p99_ms %.0f\n", ms(s.Percentile(0.99)))
	fmt.Printf("sim1000_converge_max_ms %.0f\n", ms(s.Percentile(1)))
	fmt.Printf("sim1000_missed %d\nsim1000_missed_trials %d\n", s.Missed, s.Missed+len(s.Times))
	tried, accepted, err := cluster.Byzantine(time.Now())
	if err != nil {
		return err
	}
	for _, name := range accepted {
		fmt.Fprintf(os.Stderr, "accepted: %s\n", name)
	}
	fmt.Printf("byzantine_accepted %d\nbyzantine_accepted_trials %d\n", len(accepted), len(tried))
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// lost runs the trials, one on each processor at a time. A trial counts as bad when one of the
// invariants is broken.
func lost(seed uint64) error {
	var mu sync.Mutex // guards the fields below
	next, acked, missing, unequal, winners, risen, gone := seed, 0, 0, 0, 0, 0, 0
	var failed error
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				mine := next
				next++
				stop := mine >= seed+trials || failed != nil
				mu.Unlock()
				if stop {
					return
				}
				v, err := cluster.Trial(mine)
				mu.Lock()
				if err != nil {
					failed = fmt.Errorf("SEED=%d: %w", mine, err)
				}
				if len(v.Lost)+len(v.Unequal)+len(v.Winners)+len(v.Risen) > 0 {
					fmt.Fprintf(os.Stderr, "SEED=%d: lost %v, unequal %v, other winners %v, risen %v\n", mine, v.Lost, v.Unequal, v.Winners, v.Risen)
				}
				acked += v.Acked
				missing += len(v.Lost)
				unequal += len(v.Unequal)
				winners += len(v.Winners)
				risen += len(v.Risen)
				gone += v.Gone
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Printf("sim_lost_acked %d\nsim_lost_acked_trials %d\nsim_acked %d\n", missing, trials, acked)
	fmt.Printf("sim_risen %d\nsim_risen_trials %d\nsim_collected %d\n", risen, trials, gone)
	fmt.Printf("sim_unequal %d\nsim_unequal_trials %d\nsim_other_winners %d\nsim_other_winners_trials %d\n", unequal, trials, winners, trials)
	return failed
}
