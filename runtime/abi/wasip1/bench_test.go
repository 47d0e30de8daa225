package wasip1_test

import (
	"context"
	"crypto/rand"
	"io"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// hot are the calls that Go guests make all the time.
var hot = []struct {
	name string
	args []uint64
}{
	{"clock_time_get", []uint64{1, 0, 64}},
	{"random_get", []uint64{64, 8}},
	{"fd_write", []uint64{1, 512, 1, 64}},
}

// BenchmarkCall measures a call from a guest's loop, with this package and with the engine's own.
func BenchmarkCall(b *testing.B) {
	for _, call := range hot {
		b.Run(call.name+"/ours", func(b *testing.B) {
			g := newGuest(b, wasip1.Config{Stdout: io.Discard, Check: func() {}})
			g.iovec(20)
			repeat(b, g, call.name, call.args)
		})
		b.Run(call.name+"/engine", func(b *testing.B) {
			ctx := context.Background()
			r := wazero.NewRuntime(ctx)
			defer r.Close(ctx)
			wasi_snapshot_preview1.MustInstantiate(ctx, r)
			mod, err := r.InstantiateWithConfig(ctx, caller(true), wazero.NewModuleConfig().WithStdout(io.Discard).WithSysNanotime().WithSysWalltime().WithRandSource(rand.Reader))
			if err != nil {
				b.Fatal(err)
			}
			g := &guest{t: b, mod: mod, ctx: ctx}
			g.iovec(20)
			repeat(b, g, call.name, call.args)
		})
	}
}

func repeat(b *testing.B, g *guest, name string, args []uint64) {
	f := g.mod.ExportedFunction("loop_" + name)
	args = append(args[:len(args):len(args)], uint64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	if _, err := f.Call(g.ctx, args...); err != nil {
		b.Fatal(err)
	}
}

// TestHotCallsDoNotAllocate holds what the benchmark reports.
func TestHotCallsDoNotAllocate(t *testing.T) {
	g := newGuest(t, wasip1.Config{Stdout: io.Discard, Check: func() {}})
	g.iovec(20)
	const calls = 10_000
	for _, call := range hot {
		f := g.mod.ExportedFunction("loop_" + call.name)
		args := append(call.args[:len(call.args):len(call.args)], calls)
		n := testing.AllocsPerRun(3, func() {
			if _, err := f.Call(g.ctx, args...); err != nil {
				t.Fatal(err)
			}
		})
		if n > calls/100 {
			t.Errorf("%s allocates %v times in %d calls", call.name, n, calls)
		}
	}
}
