package sandbox

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	wt "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// sixteens are the 16 results of a call, as often as a function has room for them among its parameters.
const sixteens = 62

// diving are guests whose "dive" calls itself for ever, with frames as large as can be for what they weigh.
func diving() map[string]*wt.Module {
	out := map[string]*wt.Module{}
	add := func(name, sig string, build func(m *wt.Module, self int) []byte) {
		var m wt.Module
		m.Memory(1, 0)
		self := 0
		if name == "results" {
			m.Func(":"+string(wt.Repeat(16, "I")), 0, wt.Repeat(16, wt.Const64(7)))
			m.Func(string(wt.Repeat(16*sixteens, "I"))+"i:i", 0, 0x20, 0, 0xa7)
			self = 2
		}
		m.Export("dive", 0, m.Func(sig, 0, build(&m, self)))
		out[name] = &m
	}
	add("plain", ":i", func(_ *wt.Module, self int) []byte { return wt.Cat(wt.Call(self), wt.Const(1), 0x6a) })
	add("operands", ":i", func(_ *wt.Module, self int) []byte { // 20,000 values wait for the call
		var values []byte
		for i := range 20_000 {
			values = append(values, wt.Cat(wt.Const(i&0xfff), 0x28, 2, 0)...)
		}
		return wt.Cat(values, wt.Call(self), wt.Repeat(20_000, 0x6a))
	})
	add("results", ":i", func(_ *wt.Module, self int) []byte { // as do the 16 results of calls, and one call takes hundreds of them
		return wt.Cat(wt.Repeat(20*sixteens, wt.Call(0)), wt.Call(self), wt.Repeat(20, wt.Call(1)))
	})
	return out
}

// TestStacksAreCounted checks that deep calls take of the budget what their stacks take, that no stack becomes
// longer than the depth allows, and that all is given back.
func TestStacksAreCounted(t *testing.T) {
	for name, m := range diving() {
		var taken atomic.Int64
		for _, tt := range []struct {
			budget int64
			want   error
		}{{1 << 30, ErrTooDeep}, {4 << 20, ErrStack}} {
			if name == "plain" && tt.want == ErrStack {
				continue // 128 Ki small frames are nothing
			}
			e, err := New(t.Context(), Config{Memory: tt.budget, Taken: func(n int64) { taken.Add(n) }})
			if err != nil {
				t.Fatal(err)
			}
			w, err := wasmbin.Rewrite(m.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			mod, err := e.Load(t.Context(), w, Options{})
			if err != nil {
				t.Fatal(err)
			}
			before := taken.Load()
			i, err := mod.Get()
			if err != nil {
				t.Fatal(err)
			}
			ctx := i.Begin(t.Context(), 0)
			if err := i.Start(ctx); err != nil {
				t.Fatal(err)
			}
			_, err = i.Function("dive").Call(ctx)
			stack := stackBytes(i.Function("dive"))
			if !errors.Is(err, tt.want) || stack == 0 || stack > 2*wasmbin.MaxDepth<<10 || taken.Load() > tt.budget {
				t.Errorf("%s with %d MiB: %v, a stack of %d KiB, %d KiB taken", name, tt.budget>>20, err, stack>>10, taken.Load()>>10)
			}
			if name != "plain" && tt.want == ErrTooDeep && taken.Load()-before < stack {
				t.Errorf("%s: %d KiB are taken for a stack of %d KiB", name, (taken.Load()-before)>>10, stack>>10)
			}
			t.Logf("%s with %d MiB: a stack of %d KiB, %d KiB taken", name, tt.budget>>20, stack>>10, taken.Load()>>10)
			i.End(false)
			for start := time.Now(); taken.Load() > before; time.Sleep(10 * time.Millisecond) { // between two looks
				if time.Since(start) > 20*time.Second {
					t.Fatalf("%s: %d bytes were not given back", name, taken.Load()-before)
				}
			}
			mod.Close()
			if err := e.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
