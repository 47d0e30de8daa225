// Bench prints the planner's figures as "name value" lines; docs/bench.md says what each means. SEED
// chooses the worlds; it is printed to the standard error.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee/internal/sim/placement"
)

func main() {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64() >> 32
	}
	fmt.Fprintf(os.Stderr, "SEED=%d\n", seed)
	r := rand.New(rand.NewPCG(seed, 0))

	v := placement.World(r, 1000, 10_000)
	fleet, full := placement.Full(v)
	for range 4 { // the slowest counts
		_, again := placement.Full(v)
		full = max(full, again)
	}
	leave, join, function := placement.Deltas(r, v, fleet, 40)
	fmt.Fprintf(os.Stderr, "a node leaves %v, joins %v, a function changes %v\n", leave, join, function)
	fmt.Printf("plan_full_ms %.0f\nplan_delta_ms %.1f\n", ms(full), ms(max(leave, join, function)))
	fmt.Printf("plan_moves_pct %.2f\n", 100*placement.Moves(placement.World(r, 100, 1000)))
	fmt.Printf("plan_regret_pct %.2f\n", regret(r, 200))
	share, requests := placement.WarmShare(r)
	fmt.Printf("warm_share_pct %.3f\nwarm_share_trials %d\n", 100*share, requests)
}

// regret returns the mean of some worlds, in percent.
func regret(r *rand.Rand, worlds int) float64 {
	sum, worst := 0.0, 0.0
	for range worlds {
		one, err := placement.Regret(r)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		sum, worst = sum+one, max(worst, one)
	}
	fmt.Fprintf(os.Stderr, "regret in the worst of %d worlds %.1f %%\n", worlds, 100*worst)
	return 100 * sum / float64(worlds)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
