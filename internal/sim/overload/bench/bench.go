// Bench compares ways to limit what a worker works on, as a table, and prints the figures of the one that
// runtime/overload uses, "name value" one a line; docs/bench.md explains them. SEED chooses the requests.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/perigee-edge/perigee/internal/sim/overload"
)

func main() {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64() >> 32
	}
	fmt.Printf("# SEED=%d\n", seed)
	least, longest := 1.0, time.Duration(0)
	for _, load := range []float64{0.8, 3} {
		fmt.Printf("# at %g times what the processors can do: answers within a second / p99 / refused\n# | limit |", load)
		for _, k := range overload.Kinds() {
			fmt.Printf(" %s |", k)
		}
		fmt.Println("\n# |---|---|---|---|---|")
		for _, l := range overload.Limits() {
			fmt.Printf("# | %s |", l)
			for _, k := range overload.Kinds() {
				r := overload.Run(overload.Config{Seed: seed, Kind: k, Limit: l, Load: load})
				fmt.Printf(" %.0f %% / %d ms / %.0f %% |", 100*r.Goodput, r.P99.Milliseconds(), 100*r.Refused)
				if l == overload.Ours {
					least, longest = min(least, r.Goodput), max(longest, r.P99)
				}
			}
			fmt.Println()
		}
	}
	fmt.Printf("limit_goodput_least_pct %.1f\nlimit_p99_longest_ms %d\n", 100*least, longest.Milliseconds())
}
