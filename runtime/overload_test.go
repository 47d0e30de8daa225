package runtime_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

const (
	offerMean = 5 * time.Millisecond // a request computes
	offerFor  = 2 * time.Second
	inTime    = time.Second // later answers are of no use
)

// kinds are those of package internal/sim/routing: how long a request computes, in means, and waits before.
var kinds = []struct {
	name string
	draw func(*rand.Rand) float64
	wait time.Duration
}{
	{"fixed", func(*rand.Rand) float64 { return 1 }, 0},
	{"exponential", func(r *rand.Rand) float64 { return r.ExpFloat64() }, 0},
	{"heavy", func(r *rand.Rand) float64 { return 1.2 / 2.2 * math.Pow(1-r.Float64(), -1/2.2) }, 0},
	{"waiting", func(r *rand.Rand) float64 { return r.ExpFloat64() }, 100 * time.Millisecond},
}

// TestOverload measures what becomes of three times as many requests as a node can bear, with its limit and
// without. They come as they come (an open loop). It prints figures where PERIGEE_FIGURES is set:
// overload_KIND_goodput is the rate of answers within a second over the highest rate seen.
func TestOverload(t *testing.T) {
	if os.Getenv("PERIGEE_FIGURES") == "" {
		t.Skip("takes a minute: set PERIGEE_FIGURES=1")
	}
	wasm := worker()
	unit := unitOf(t, wasm)
	capacity := float64(goruntime.GOMAXPROCS(0)) / offerMean.Seconds()
	for _, k := range kinds {
		good, p99 := map[string]float64{}, map[string]time.Duration{}
		best := 0.0
		for _, off := range []bool{false, true} {
			for _, times := range []float64{0.5, 1, 3} {
				if off && times < 3 { // it takes long to end
					continue
				}
				r := open(t, runtime.Config{DisableLimit: off})
				load(t, r, "f", wasm, perigee.Limits{})
				took, refused := offer(t, r, times*capacity, func(rng *rand.Rand) *work {
					return &work{units: uint32(max(1, k.draw(rng)*float64(offerMean)/float64(unit))), wait: k.wait}
				})
				in, _ := slices.BinarySearch(took, inTime)
				name := fmt.Sprintf("%gx %v", times, off)
				good[name], p99[name] = float64(in)/offerFor.Seconds(), quantile(took, 0.99)
				best = max(best, good[name])
				fmt.Printf("# %s at %g of capacity, limit off %v: %.0f good of %.0f a second, %d refused, p50 %v, p99 %v\n", k.name, times, off,
					good[name], times*capacity, refused, quantile(took, 0.5).Round(time.Millisecond), p99[name].Round(time.Millisecond))
			}
		}
		for suffix, name := range map[string]string{"": "3x false", "_off": "3x true"} {
			fmt.Printf("FIGURE overload_%s_goodput%s %.2f\nFIGURE overload_%s_p99_ms%s %d\n", k.name, suffix, good[name]/best, k.name, suffix, p99[name].Milliseconds())
		}
	}
}

// worker returns a guest that reads four bytes and computes for as many units.
func worker() []byte {
	var m Module
	read := m.Import("http_handler", "read_body", "iii:I")
	m.Memory(1, 0)
	local := func(op byte, n int) []byte { return Cat([]byte{op, byte(n)}) }
	const get, set, tee = 0x20, 0x21, 0x22
	countdown := func(n int) []byte { return Cat(local(get, n), Const(1), 0x6b, local(tee, n), 0x0d, 0) }
	m.Export("handle_request", 0, m.Func(":I", 2,
		Const(0), Const(16), Const(4), Call(read), drop,
		Const(16), 0x28, 2, 0, local(set, 0),
		Loop(Const(10_000), local(set, 1), Loop(countdown(1)), countdown(0)),
		Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// work is a request's body, which takes its time.
type work struct {
	units uint32
	wait  time.Duration
}

func (w *work) Read(p []byte) (int, error) {
	if w.units == 0 {
		return 0, io.EOF
	}
	time.Sleep(w.wait)
	binary.LittleEndian.PutUint32(p, w.units)
	w.units = 0
	return 4, nil
}

// unitOf measures how long a unit of the worker takes.
func unitOf(t *testing.T, wasm []byte) time.Duration {
	r := open(t, runtime.Config{})
	load(t, r, "f", wasm, perigee.Limits{})
	const units = 5000
	best := time.Hour
	for range 5 {
		start := time.Now()
		if _, _, err := invoke(t, r, "f", httptest.NewRequest("POST", "/", &work{units: units})); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	return best / units
}

// offer sends requests at a rate, and returns how long those took that were answered, sorted, and how many
// were refused.
func offer(t *testing.T, r *runtime.Runtime, rate float64, next func(*rand.Rand) *work) (took []time.Duration, refused int) {
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for at := time.Duration(0); at < offerFor; at += time.Duration(rng.ExpFloat64() / rate * float64(time.Second)) {
		w := next(rng)
		time.Sleep(time.Until(start.Add(at)))
		wg.Go(func() {
			_, _, err := invoke(t, r, "f", httptest.NewRequest("POST", "/", w))
			d := time.Since(start.Add(at))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				took = append(took, d)
			case errors.Is(err, runtime.ErrOverloaded):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, refused
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
