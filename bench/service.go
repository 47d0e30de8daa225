package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// cacheDir has the compiled code of all measurements; set by run.
var cacheDir string

func withRuntime(ctx context.Context, c runtime.Config, f func(*runtime.Runtime) error) error {
	c.Dir, c.Logger = cacheDir, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.Admit = []string{self, "admit"}
	r, err := runtime.New(c)
	if err != nil {
		return err
	}
	return errors.Join(f(r), r.Close(ctx))
}

func load(ctx context.Context, r *runtime.Runtime, id perigee.RevisionID, wasm []byte, timeout time.Duration) error {
	return r.Load(ctx, id, runtime.Spec{Function: string(id), Wasm: wasm, Limits: perigee.Limits{Timeout: perigee.Duration(timeout)}})
}

func ask(ctx context.Context, r *runtime.Runtime, id perigee.RevisionID) (time.Duration, error) {
	req := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://bench.test/", nil)
	start := time.Now()
	_, err := r.Invoke(ctx, id, httptest.NewRecorder(), req, nil)
	return time.Since(start), err
}

// looping returns a function that never answers.
func looping() []byte {
	var m wasmtest.Module
	m.Memory(1, 0)
	f := m.Func(":I", 0, wasmtest.Loop(wasmtest.Br(0)), wasmtest.Const64(0))
	m.Export("handle_request", 0, f)
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

const (
	spinners     = 16
	spinDeadline = 100 * time.Millisecond
	spinTime     = 5 * time.Second
)

// spin keeps sixteen endless loops running, each with a deadline, and measures how late they end, how a
// neighbour fares, and how long the collector waits to stop the world.
func spin(ctx context.Context, out io.Writer) error {
	hello, err := buildGo("../examples/hello")
	if err != nil {
		return err
	}
	return withRuntime(ctx, runtime.Config{}, func(r *runtime.Runtime) error { return spinIn(ctx, out, r, hello) })
}

func spinIn(ctx context.Context, out io.Writer, r *runtime.Runtime, hello []byte) error {
	if err := load(ctx, r, "loop", looping(), spinDeadline); err != nil {
		return err
	}
	if err := load(ctx, r, "hello", hello, 0); err != nil {
		return err
	}
	before := pauses()
	end := time.Now().Add(spinTime)
	var mu sync.Mutex
	var late, neighbour []time.Duration
	var wg sync.WaitGroup
	for range spinners {
		wg.Go(func() {
			for time.Now().Before(end) {
				took, _ := ask(ctx, r, "loop") // it ends by its deadline: that is what is measured
				mu.Lock()
				late = append(late, took-spinDeadline)
				mu.Unlock()
			}
		})
	}
	wg.Go(func() {
		for time.Now().Before(end) {
			took, err := ask(ctx, r, "hello")
			if err != nil {
				took = time.Hour
			}
			neighbour = append(neighbour, took)
			time.Sleep(2 * time.Millisecond)
		}
	})
	wg.Go(func() {
		for time.Now().Before(end) {
			goruntime.GC()
			time.Sleep(20 * time.Millisecond)
		}
	})
	wg.Wait()
	millis(out, "spin_stop_late_ms_p99", quantile(late, 0.99))
	millis(out, "spin_neighbour_p50_ms", quantile(neighbour, 0.5))
	millis(out, "spin_neighbour_p99_ms", quantile(neighbour, 0.99))
	fmt.Fprintf(out, "gc_stop_ms %.3f\n", maxSince(before, pauses())*1e3)
	return nil
}

func pauses() *metrics.Float64Histogram {
	s := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64Histogram()
}

// maxSince returns the upper bound of the highest bucket that has more than before.
func maxSince(before, after *metrics.Float64Histogram) float64 {
	for i := len(after.Counts) - 1; i >= 0; i-- {
		if i >= len(before.Counts) || after.Counts[i] > before.Counts[i] {
			if bound := after.Buckets[i+1]; !math.IsInf(bound, 1) {
				return bound
			}
			return after.Buckets[i]
		}
	}
	return 0
}

// reload measures the first request of a revision whose code was unmapped.
func reload(ctx context.Context, out io.Writer) error {
	hello, err := buildGo("../examples/hello")
	if err != nil {
		return err
	}
	return withRuntime(ctx, runtime.Config{CodeMemory: 1}, func(r *runtime.Runtime) error { // only one is awake
		for _, id := range []perigee.RevisionID{"a", "b"} {
			if err := load(ctx, r, id, hello, 0); err != nil {
				return err
			}
		}
		var took []time.Duration
		for range 10 {
			for _, id := range []perigee.RevisionID{"a", "b"} {
				d, err := ask(ctx, r, id)
				if err != nil {
					return err
				}
				took = append(took, d)
			}
		}
		millis(out, "reload_from_cache_ms", quantile(took, 0.5))
		return nil
	})
}

const idleRevisions = 50

// idle measures what a loaded revision takes that nobody asks: anonymous and shared memory of the process,
// without its machine code, which is counted apart.
func idle(ctx context.Context, out io.Writer) error {
	hello, err := buildGo("../examples/hello")
	if err != nil {
		return err
	}
	return withRuntime(ctx, runtime.Config{}, func(r *runtime.Runtime) error { return idleIn(ctx, out, r, hello) })
}

func idleIn(ctx context.Context, out io.Writer, r *runtime.Runtime, hello []byte) error {
	if err := load(ctx, r, "first", hello, 0); err != nil {
		return err
	}
	before, err := resident()
	if err != nil {
		return err
	}
	for n := range idleRevisions {
		if err := load(ctx, r, perigee.RevisionID("idle"+strconv.Itoa(n)), hello, 0); err != nil {
			return err
		}
	}
	after, err := resident()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "idle_revision_kib %d\n", (after.memory-before.memory)/idleRevisions)
	fmt.Fprintf(out, "idle_revision_code_kib %d\n", (after.code-before.code)/idleRevisions)
	return nil
}

type sizes struct{ memory, code int } // KiB

// resident reads the memory of this process, after a collection.
func resident() (s sizes, err error) {
	debug.FreeOSMemory() // what an idle node gives back in time
	if s.memory, err = shmem(); err != nil {
		return s, err
	}
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return s, err
	}
	code := false
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.Contains(fields[0], "-") && !strings.HasSuffix(fields[0], ":") {
			code = strings.Contains(fields[1], "x")
		}
		if len(fields) < 2 || fields[0] != "Anonymous:" {
			continue
		}
		n, err := strconv.Atoi(fields[1])
		if err != nil {
			return s, err
		}
		if code {
			s.code += n
		} else {
			s.memory += n
		}
	}
	return s, nil
}

// shmem returns how much of the machine is in memory files, as images are, in KiB.
func shmem() (int, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "Shmem:"); ok {
			return strconv.Atoi(strings.Fields(n)[0])
		}
	}
	return 0, errors.New("/proc/meminfo does not say Shmem")
}

// burst asks a function 200 times at once, of which no instance is there, several times.
func burst(ctx context.Context, out io.Writer) error {
	wait, err := buildGo("./guests/wait")
	if err != nil {
		return err
	}
	return withRuntime(ctx, runtime.Config{MemoryBudget: 4 * perigee.GiB}, func(r *runtime.Runtime) error { return burstIn(ctx, out, r, wait) })
}

func burstIn(ctx context.Context, out io.Writer, r *runtime.Runtime, wait []byte) error {
	const requests, rounds = 200, 5
	if err := load(ctx, r, "wait", wait, 0); err != nil {
		return err
	}
	var all []time.Duration
	for range rounds {
		r.Unload("wait") // with its instances
		if err := load(ctx, r, "wait", wait, 0); err != nil {
			return err
		}
		took := make([]time.Duration, requests)
		var wg sync.WaitGroup
		var failed error
		var mu sync.Mutex
		for i := range requests {
			wg.Go(func() {
				var err error
				if took[i], err = ask(ctx, r, "wait"); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if failed != nil {
			return failed
		}
		all = append(all, quantile(took, 0.99))
	}
	millis(out, "burst_p99_ms", quantile(all, 0.5))
	return nil
}

func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[min(len(all)-1, int(float64(len(all))*q))]
}

func millis(out io.Writer, name string, d time.Duration) {
	fmt.Fprintf(out, "%s %.3f\n", name, float64(d.Microseconds())/1e3)
}
