package runtime_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// BenchmarkAdmit is a child process that checks and compiles examples/hello.
func BenchmarkAdmit(b *testing.B) {
	wasm := hello(b)
	for b.Loop() {
		r := open(b, runtime.Config{Dir: b.TempDir()})
		if _, err := r.Admit(b.Context(), perigee.Digest{1}, wasm); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad maps the compiled code of examples/hello from the cache.
func BenchmarkLoad(b *testing.B) {
	wasm := hello(b)
	r := open(b, runtime.Config{})
	if _, err := r.Admit(b.Context(), perigee.Digest{1}, wasm); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		load(b, r, "hello", wasm, perigee.Limits{})
		r.Unload("hello")
	}
}

// BenchmarkInvoke is a request to examples/hello.
func BenchmarkInvoke(b *testing.B) { benchmarkInvoke(b, hello(b)) }

// BenchmarkInvokeSmall is a request to a guest of a few instructions.
func BenchmarkInvokeSmall(b *testing.B) { benchmarkInvoke(b, Answer("hello")) }

func benchmarkInvoke(b *testing.B, wasm []byte) {
	r := open(b, runtime.Config{})
	load(b, r, "f", wasm, perigee.Limits{Timeout: perigee.DefaultTimeout})
	req := get("http://hello.test/path")
	req.Header.Set("User-Agent", "bench")
	var took []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		start := time.Now()
		if _, err := r.Invoke(req.Context(), "f", w, req, nil); err != nil || w.Code != http.StatusOK {
			b.Fatal(err, w.Code)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

// BenchmarkIsolation compares ways to give a request to examples/hello an instance that no other has
// touched: the engine as it comes (stock), an image without reuse, and a restored instance. They take
// turns, so that what else the machine does hits all.
func BenchmarkIsolation(b *testing.B) {
	stock := newStock(b, hello(b))
	image, reset := open(b, runtime.Config{DisableReuse: true}), open(b, runtime.Config{})
	for _, r := range []*runtime.Runtime{image, reset} {
		load(b, r, "f", hello(b), perigee.Limits{Timeout: perigee.DefaultTimeout})
	}
	req := get("http://hello.test/path")
	serve := func(r *runtime.Runtime) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			if _, err := r.Invoke(req.Context(), "f", w, req, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
	ways := []struct {
		name  string
		serve func(http.ResponseWriter)
		took  []time.Duration
	}{
		{name: "stock", serve: func(w http.ResponseWriter) { stock.serve(b, w, req) }},
		{name: "image", serve: serve(image)},
		{name: "reset", serve: serve(reset)},
	}
	for b.Loop() {
		for i := range ways {
			w := httptest.NewRecorder()
			start := time.Now()
			ways[i].serve(w)
			ways[i].took = append(ways[i].took, time.Since(start))
			if w.Code != http.StatusOK || w.Body.Len() == 0 {
				b.Fatal(ways[i].name, w.Code, w.Body)
			}
		}
	}
	for _, way := range ways {
		slices.Sort(way.took)
		b.ReportMetric(float64(way.took[len(way.took)/2].Nanoseconds())/1e3, way.name+"-p50-us")
	}
}

// stock is a guest on the engine as it comes, with its own way to keep deadlines.
type stock struct {
	engine wazero.Runtime
	code   wazero.CompiledModule
}

func newStock(b *testing.B, wasm []byte) *stock {
	ctx := b.Context()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(true))
	b.Cleanup(func() { _ = r.Close(context.Background()) })
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	if err := httpwasm.Instantiate(ctx, r); err != nil {
		b.Fatal(err)
	}
	code, err := r.CompileModule(ctx, wasm)
	if err != nil {
		b.Fatal(err)
	}
	return &stock{r, code}
}

func (s *stock) serve(b *testing.B, w http.ResponseWriter, req *http.Request) {
	limits := abi.Limits{Response: 1 << 20, Buffer: 1 << 20, Headers: 100, HeaderBytes: 10_000}
	var dropped atomic.Int64
	x := &abi.Exchange{Request: req, Answer: abi.NewAnswer(w, req.Method, limits), Log: abi.NewLog(slog.Default(), abi.NewLogRate(), &dropped), Limits: limits, Await: func(f func()) { f() }}
	call := httpwasm.NewCall(x)
	ctx, cancel := context.WithTimeout(call.Context(req.Context()), 30*time.Second)
	defer cancel()
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithSysWalltime().WithSysNanotime().WithRandSource(rand.Reader)
	mod, err := s.engine.InstantiateModule(ctx, s.code, config)
	if err != nil {
		b.Fatal(err)
	}
	defer mod.Close(ctx)
	if err := call.Serve(ctx, mod.ExportedFunction, nil); err != nil {
		b.Fatal(err)
	}
	if err := x.Answer.Finish(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFuel compares loops as they are and rewritten, in turns.
func BenchmarkFuel(b *testing.B) {
	fib := Cat(0x20, 0, Const(2), 0x48, 0x04, 0x7f, 0x20, 0, 0x05, 0x20, 0, Const(1), 0x6b, Call(0), 0x20, 0, Const(2), 0x6b, Call(0), 0x6a, 0x0b)
	empty := Cat(Loop(0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0), Const(0))
	work := Cat(Loop(
		0x20, 0, Const(0xfffc), 0x71, 0x20, 0, Const(0xfffc), 0x71, 0x28, 2, 0, Const(1664525), 0x6c, Const(1013904223), 0x6a, 0x36, 2, 0,
		0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0), Const(0))
	for _, tc := range []struct {
		name string
		body []byte
		n    uint64
	}{{"fib", fib, 24}, {"empty-loop", empty, 1 << 20}, {"load-mul-store", work, 1 << 18}} {
		b.Run(tc.name, func(b *testing.B) {
			var m Module
			m.Memory(1, 0)
			m.Export("f", 0, m.Func("i:i", 0, tc.body))
			r := metering(b)
			var took [2]time.Duration
			var call [2]api.Function
			for i, wasm := range [][]byte{m.Bytes(), rewrite(b, m.Bytes()).Wasm} {
				mod, err := r.InstantiateWithConfig(b.Context(), wasm, wazero.NewModuleConfig().WithName(""))
				if err != nil {
					b.Fatal(err)
				}
				call[i], took[i] = mod.ExportedFunction("f"), time.Hour
			}
			for b.Loop() {
				for i := range call {
					start := time.Now()
					if _, err := call[i].Call(b.Context(), tc.n); err != nil {
						b.Fatal(err)
					}
					took[i] = min(took[i], time.Since(start))
				}
			}
			b.ReportMetric(float64(took[1])/float64(took[0]), "metered/plain")
		})
	}
}

// BenchmarkCheck reads examples/hello.
func BenchmarkCheck(b *testing.B) {
	wasm := hello(b)
	b.SetBytes(int64(len(wasm)))
	for b.Loop() {
		if _, err := runtime.Check(wasm); err != nil {
			b.Fatal(err)
		}
	}
}
