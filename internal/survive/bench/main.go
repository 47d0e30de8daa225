// Bench runs the campaigns of package survive in full and prints "name value" lines; docs/bench.md says what
// each means. SEED repeats a run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"

	"github.com/perigee-edge/perigee/internal/survive"
)

const cuts = 10_000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			return fmt.Errorf("SEED: %w", err)
		}
	}
	fmt.Fprintln(os.Stderr, "SEED", seed)
	return powerCuts(ctx, seed)
}

// powerCuts shares the cuts among the processors.
func powerCuts(ctx context.Context, seed uint64) error {
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	all, errs := make([]survive.Cuts, workers), make([]error, workers)
	for i := range workers {
		wg.Go(func() {
			w, err := survive.NewWorld(io.Discard)
			if err == nil {
				all[i], err = w.PowerCuts(ctx, seed+uint64(i), (cuts+workers-1)/workers)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	var sum survive.Cuts
	for _, c := range all {
		sum.Cuts, sum.Acked, sum.Lost, sum.Why = sum.Cuts+c.Cuts, sum.Acked+c.Acked, sum.Lost+c.Lost, append(sum.Why, c.Why...)
	}
	for _, why := range sum.Why {
		fmt.Fprintln(os.Stderr, why)
	}
	fmt.Printf("powercut_lost %d\npowercut_lost_trials %d\npowercut_acked %d\n", sum.Lost, sum.Cuts, sum.Acked)
	return errors.Join(errs...)
}
