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
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"github.com/perigee-edge/perigee/internal/survive"
)

const (
	cuts  = 10_000
	kills = 1000

	rotsPerFile = 6 // of a whole node: each takes a second
)

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
	if err := rot(ctx); err != nil {
		return err
	}
	if err := powerCuts(ctx, seed); err != nil {
		return err
	}
	return killNode(ctx, seed)
}

// rot spoils the state and the bundles at every 64th byte, and all files of a whole node at some of those.
func rot(ctx context.Context) error {
	w, err := survive.NewWorld(io.Discard)
	if err != nil {
		return err
	}
	r, err := w.Rot(ctx)
	for _, why := range r.Why {
		fmt.Fprintln(os.Stderr, why)
	}
	if err != nil {
		return err
	}
	program, err := filepath.Abs("bin/perigee")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "perigee-rot-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n, err := survive.RotNode(ctx, program, dir, rotsPerFile, io.Discard)
	for _, why := range n.Why {
		fmt.Fprintln(os.Stderr, why)
	}
	flips := r.Flips + n.Flips
	fmt.Printf("bitrot_served %d\nbitrot_served_trials %d\nbitrot_crashes %d\nbitrot_crashes_trials %d\nbitrot_missed %d\nbitrot_missed_trials %d\n", r.Served+n.Served, flips, r.Crashes+n.Crashes, flips, r.Missed, r.Flips)
	fmt.Printf("bitrot_files %d\nbitrot_unserved %d\nbitrot_unserved_trials %d\n", n.Files, n.Unserved, n.Flips)
	return err
}

// killNode needs bin/perigee.
func killNode(ctx context.Context, seed uint64) error {
	program, err := filepath.Abs("bin/perigee")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "perigee-kill-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	k, err := survive.KillNode(ctx, program, dir, seed, kills, io.Discard)
	for _, why := range k.Why {
		fmt.Fprintln(os.Stderr, why)
	}
	fmt.Printf("kill9_lost %d\nkill9_lost_trials %d\nkill9_acked %d\n", k.Lost, k.Kills, k.Acked)
	if n := len(k.Starts); n > 0 {
		fmt.Printf("start_p50_ms %d\nstart_max_ms %d\n", k.Starts[n/2].Milliseconds(), k.Starts[n-1].Milliseconds())
	}
	return err
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
