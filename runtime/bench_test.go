package runtime_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
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
