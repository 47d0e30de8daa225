// Bench tries 10,000 random steps to get something out of its residency, and prints how often that happened;
// docs/bench.md explains it. SEED chooses the steps.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"

	"github.com/perigee-edge/perigee/internal/sim/residency"
)

const steps = 10_000

func main() {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64() >> 32
	}
	fmt.Printf("# SEED=%d\n", seed)
	w, err := residency.New(seed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	for range steps {
		w.Step()
	}
	if err := w.Read(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	c := w.Count
	fmt.Printf("# ran %d, hops %d, refused %d, holders %d, seals %d, keys %d, kept %d, lines %d, series %d\n", c.Ran, c.Hopped, c.Refused, c.Held, c.Sealed, c.Terminated, c.Kept, c.Lines, c.Series)
	fmt.Printf("# violations: runs %d, hops %d, plaintext %d, bytes %d, secrets %d, keys %d, logs %d, labels %d\n", c.Runs, c.Hops, c.Plaintext, c.Bytes, c.Secrets, c.Keys, c.Logs, c.Labels)
	fmt.Printf("residency_violations %d\n", c.Violations())
	fmt.Printf("residency_violations_trials %d\n", c.Steps)
}
