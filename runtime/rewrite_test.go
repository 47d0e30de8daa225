package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// metering returns an engine whose guests get as much fuel as they ask for.
func metering(t testing.TB) wazero.Runtime {
	ctx := t.Context()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2))
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	i64 := []api.ValueType{api.ValueTypeI64}
	b := r.NewHostModuleBuilder(wasmbin.HostModule)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, s []uint64) { s[0] += 250_000 }), i64, i64).Export(wasmbin.Refill)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, s []uint64) { s[0] += wasmbin.MaxDepth }), i64, i64).Export(wasmbin.Deeper)
	if _, err := b.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	return r
}

// image puts a module's first memory content in place, as the runtime does by other means.
func image(mod api.Module, r *wasmbin.Rewritten) {
	for _, c := range r.Image {
		mod.Memory().Write(c.Offset, c.Bytes)
	}
}

func rewrite(t testing.TB, wasm []byte) *wasmbin.Rewritten {
	t.Helper()
	out, err := wasmbin.Rewrite(wasm)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRewrittenCommands runs outside programs as they are and rewritten: what they print and how they
// end must be the same.
func TestRewrittenCommands(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(conformance(t), "wasip1", "*", "*.wasm"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d programs, %v", len(files), err)
	}
	r := metering(t)
	run := func(wasm []byte, image func(api.Module), start ...string) string {
		code, err := r.CompileModule(t.Context(), wasm)
		if err != nil {
			return err.Error()
		}
		defer code.Close(t.Context())
		var out, problems bytes.Buffer
		dir := t.TempDir()
		config := wazero.NewModuleConfig().WithName("").WithStdout(&out).WithStderr(&problems).WithArgs("a", "b 42").WithEnv("K", "v").
			WithFSConfig(wazero.NewFSConfig().WithDirMount(dir, "/")).WithStartFunctions()
		mod, err := r.InstantiateModule(t.Context(), code, config)
		if err != nil {
			return err.Error()
		}
		defer mod.Close(t.Context())
		image(mod)
		for _, name := range start {
			if f := mod.ExportedFunction(name); f != nil && err == nil {
				_, err = f.Call(t.Context())
			}
		}
		how := fmt.Sprint(err)
		if exit := (*sys.ExitError)(nil); errors.As(err, &exit) {
			how = fmt.Sprint("exit ", exit.ExitCode())
		}
		how, _, _ = strings.Cut(how, "\n")
		return fmt.Sprintf("%s\nout: %s\nerr: %s", how, &out, &problems)
	}
	for _, name := range files {
		wasm, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		want := run(wasm, func(api.Module) {}, "_start")
		meter := rewrite(t, wasm)
		got := run(meter.Wasm, func(m api.Module) { image(m, meter) }, wasmbin.StartExport, "_start")
		if got != want {
			t.Errorf("%s: rewritten: %.500s\nas it was: %.500s", filepath.Base(name), got, want)
		}
	}
}

// program makes a random function of four i32 locals and two parameters: nested control flow, calls of
// itself, memory, vectors and bulk operations without tables, loops with parameters, traps.
func program(rng *rand.Rand, left *int, blocks int, loops []bool) []byte {
	var out []byte
	value := func() []byte {
		switch rng.IntN(4) {
		case 0:
			return Const(int(int32(rng.Uint32())) >> rng.IntN(31))
		case 1:
			return Cat(0x20, rng.IntN(6), Const(0xffff), 0x71, 0x28, 2, rng.IntN(100))
		}
		return Cat(0x20, rng.IntN(6))
	}
	set := func() []byte {
		ops := []int{0x6a, 0x6b, 0x6c, 0x6d, 0x6f, 0x71, 0x72, 0x73, 0x74, 0x76, 0x77, 0x48, 0x4a}
		return Cat(value(), value(), ops[rng.IntN(len(ops))], 0x21, []int{0, 2, 3, 4}[rng.IntN(4)])
	}
	for range 1 + rng.IntN(6) {
		*left--
		if *left < 0 {
			break
		}
		switch rng.IntN(17) {
		case 0, 1:
			out = Cat(out, 0x02, 0x40, program(rng, left, blocks+1, append(loops, false)), 0x0b)
		case 2, 3: // a loop that ends: local 5 counts down over all loops
			out = Cat(out, 0x03, 0x40, 0x20, 5, Const(1), 0x6b, 0x22, 5, Const(0), 0x48, 0x04, 0x40, Const(7), 0x0f, 0x0b,
				program(rng, left, blocks+1, append(loops, true)), value(), 0x0d, 0, 0x0b)
		case 4:
			out = Cat(out, value(), 0x04, 0x40, program(rng, left, blocks+1, append(loops, false)), 0x05, program(rng, left, blocks+1, append(loops, false)), 0x0b)
		case 5:
			if blocks > 0 {
				if to := rng.IntN(blocks); !loops[blocks-1-to] {
					out = Cat(out, value(), 0x0d, to)
				}
			}
		case 6: // to the label of the function, with its result
			out = Cat(out, Const(9), value(), 0x0d, blocks, 0x1a)
		case 7:
			out = Cat(out, value(), Const(3), 0x71, 0x04, 0x40, value(), 0x0f, 0x0b)
		case 8: // call itself while the depth lasts
			out = Cat(out, 0x20, 1, Const(0), 0x4a, 0x04, 0x40, value(), 0x20, 1, Const(1), 0x6b, Call(0), 0x21, 2, 0x0b)
		case 9:
			n := []byte{0xfc, 11, 0}
			if rng.IntN(2) == 0 {
				n = []byte{0xfc, 10, 0, 0}
			}
			out = Cat(out, value(), Const(0x1ffff), 0x71, value(), value(), Const(0xff), 0x71, n)
		case 10:
			out = Cat(out, value(), Const(0xffff), 0x71, value(), 0x36, 2, 0)
		case 11:
			if blocks > 0 && !loops[0] && !loops[blocks-1] {
				out = Cat(out, 0x02, 0x40, value(), 0x0e, 2, 0, 1, blocks, 0x0b)
			}
		case 12: // vectors: two splats, an operation, a shuffle with what is in memory, a lane
			ops := [][]byte{U(0xae), U(0xb1), U(0xb5), U(0x51), U(0x4e)}
			lanes := make([]byte, 16)
			for i := range lanes {
				lanes[i] = byte(rng.IntN(32))
			}
			out = Cat(out, value(), 0xfd, 0x11, value(), 0xfd, 0x11, 0xfd, ops[rng.IntN(len(ops))],
				value(), Const(0xffff), 0x71, 0xfd, 0, 4, 8, 0xfd, 0x0d, lanes, 0xfd, 0x1b, rng.IntN(4), 0x21, 3)
		case 13:
			out = Cat(out, value(), Const(0xffff), 0x71, value(), 0xfd, 0x11, 0xfd, 0x0b, 4, 3)
		case 14: // a loop with two parameters, of the function's type
			out = Cat(out, value(), value(), 0x03, 0, 0x6a, value(), value(), 0x20, 5, Const(1), 0x6b, 0x22, 5, Const(0), 0x4a, 0x0d, 0, 0x1a, 0x1a, 0x0b, 0x21, 4)
		default:
			out = Cat(out, set())
		}
	}
	return out
}

// TestRewrittenPrograms runs random programs as they are and rewritten: results, traps and memory must
// be the same, and the depth counter must balance.
func TestRewrittenPrograms(t *testing.T) {
	const seed = 3
	rng := rand.New(rand.NewPCG(seed, seed))
	r := metering(t)
	ran, trapped := 0, 0
	for i := range 300 {
		var m Module
		m.Memory(2, 2)
		m.Data(100, "some text\x01\x02\x03\xff")
		left := 40
		body := program(rng, &left, 0, nil)
		f := m.Func("ii:i", 4, Const(25), 0x21, 5, body, 0x20, 2)
		m.Export("f", 0, f)
		wasm := m.Bytes()
		code, err := r.CompileModule(t.Context(), wasm)
		if err != nil {
			continue // br_table with labels of different types
		}
		meter := rewrite(t, wasm)
		metered, err := r.CompileModule(t.Context(), meter.Wasm)
		if err != nil {
			t.Fatalf("program %d: rewritten: %v\n% x", i, err, wasm)
		}
		for range 4 {
			args := []uint64{uint64(rng.Uint32()) >> rng.IntN(32), uint64(rng.IntN(3))}
			var results [2]string
			for j, c := range []wazero.CompiledModule{code, metered} {
				mod, err := r.InstantiateModule(t.Context(), c, wazero.NewModuleConfig().WithName(""))
				if err != nil {
					t.Fatal(err)
				}
				if j == 1 {
					image(mod, meter)
				}
				got, err := mod.ExportedFunction("f").Call(t.Context(), args...)
				how, _, _ := strings.Cut(fmt.Sprint(err), "\n")
				b, _ := mod.Memory().Read(0, mod.Memory().Size())
				results[j] = fmt.Sprint(got, how, crc(b))
				if err != nil && j == 0 {
					trapped++
				}
				_ = mod.Close(t.Context())
			}
			ran++
			if results[0] != results[1] {
				t.Fatalf("program %d %v: as it was %s, rewritten %s\n% x", i, args, results[0], results[1], wasm)
			}
		}
		_, _ = code.Close(t.Context()), metered.Close(t.Context())
	}
	t.Logf("%d runs, %d trapped", ran, trapped)
	if ran < 600 || trapped < 50 || trapped > ran*9/10 {
		t.Errorf("%d runs and %d traps: the generator makes too little of one kind", ran, trapped)
	}
}

func crc(b []byte) (h uint64) {
	h = 14695981039346656037
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// TestFuelIsCounted checks what instructions cost, whatever way a function is left.
func TestFuelIsCounted(t *testing.T) {
	r := metering(t)
	spent := func(n int, body ...any) int64 {
		var m Module
		m.Memory(1, 0)
		m.Export("f", 0, m.Func("i:i", 2, body...))
		mod, err := r.Instantiate(t.Context(), rewrite(t, m.Bytes()).Wasm)
		if err != nil {
			t.Fatal(err)
		}
		defer mod.Close(t.Context())
		fuel := mod.ExportedGlobal(wasmbin.FuelGlobal).(api.MutableGlobal)
		fuel.Set(math.MaxInt64)
		if _, err := mod.ExportedFunction("f").Call(t.Context(), uint64(n)); err != nil {
			t.Fatal(err)
		}
		return math.MaxInt64 - int64(fuel.Get())
	}
	if got := spent(5, 0x20, 0, Const(1), 0x6a); got != 3 {
		t.Errorf("three instructions cost %d", got)
	}
	early := Cat(0x20, 0, 0x04, 0x40, Const(1), 0x0f, 0x0b, Repeat(20, 0x01), Const(1))
	if a, b := spent(1, early), spent(0, early); a != 4 || b != 23 {
		t.Errorf("by a return: %d, want 4; by the end: %d, want 23", a, b)
	}
	countdown := Cat(Loop(0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0), Const(0))
	if a, b := spent(10, countdown), spent(1_000_010, countdown); a != 51 || b != 5_000_051 {
		t.Errorf("ten turns of five cost %d, a million more %d", a, b)
	}
	if got := spent(40_000, Const(0), Const(1), 0x20, 0, 0xfc, 11, 0, Const(0)); got != 5+40_000/8 {
		t.Errorf("filling 40,000 bytes costs %d", got)
	}
}

// bulky is a module whose functions copy, fill and init do a bulk operation each on their three arguments. Its
// passive segment is longer than a chunk, and so is the one that it drops.
func bulky(pages int, segment []byte) []byte {
	args := Cat(0x20, 0, 0x20, 1, 0x20, 2)
	body := func(b ...any) []byte {
		code := Cat(0, Cat(b...), 0x0b)
		return Cat(U(uint64(len(code))), code)
	}
	return Cat(Preamble,
		Section(1, Vec(Cat(0x60, 3, 0x7f, 0x7f, 0x7f, 0))),
		Section(3, Vec(U(0), U(0), U(0), U(0))),
		Section(5, Vec(Cat(0, U(uint64(pages))))),
		Section(7, Vec(Cat(Name("memory"), 2, 0), Cat(Name("copy"), 0, 0), Cat(Name("fill"), 0, 1), Cat(Name("init"), 0, 2), Cat(Name("dropped"), 0, 3))),
		Section(12, U(2)),
		Section(10, Vec(body(args, 0xfc, 10, 0, 0), body(args, 0xfc, 11, 0), body(args, 0xfc, 8, 0, 0), body(0xfc, 9, 1, args, 0xfc, 8, 1, 0))),
		Section(11, Vec(Cat(1, Name(string(segment))), Cat(1, Name(string(segment))))))
}

// TestRewrittenBulk does bulk operations of up to some MiB as they are and rewritten, which goes by chunks:
// up and down, over one another, on the edge of memory and beyond. Memory and traps must be the same.
func TestRewrittenBulk(t *testing.T) {
	const pages, seed, chunk = 80, 5, 1 << 20
	rng := rand.New(rand.NewPCG(seed, seed))
	pattern := make([]byte, pages<<16)
	for i := range pattern {
		pattern[i] = byte(rng.Uint32())
	}
	wasm := bulky(pages, pattern[:2*chunk+chunk/2])
	r := metering(t)
	var mods [2]api.Module
	for i, b := range [][]byte{wasm, rewrite(t, wasm).Wasm} {
		code, err := r.CompileModule(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if mods[i], err = r.InstantiateModule(t.Context(), code, wazero.NewModuleConfig().WithName("")); err != nil {
			t.Fatal(err)
		}
		mods[i].Memory().Write(0, pattern)
	}
	// Lengths and distances around whole chunks, and any.
	near := func() uint64 { return uint64(max(0, rng.IntN(5)*chunk+rng.IntN(5)-2)) }
	any := func() uint64 { return uint64(rng.IntN(pages<<16 + 2)) }
	trapped := 0
	for range 400 {
		name := []string{"copy", "copy", "fill", "init", "dropped"}[rng.IntN(5)]
		args := []uint64{any(), any(), near()}
		switch rng.IntN(6) {
		case 0:
			args[2] = any()
		case 1: // near each other
			args[1] = uint64(max(0, int(args[0])+rng.IntN(2001)-1000))
		case 2:
			args[0], args[1] = near(), near()
		case 3: // to the last byte, or just beyond
			args[0] = pages<<16 - min(args[2], pages<<16) + uint64(rng.IntN(2))
		case 4:
			args[rng.IntN(3)] = math.MaxUint32 - uint64(rng.IntN(3))
		}
		var results [2]string
		for i, mod := range mods {
			_, err := mod.ExportedFunction(name).Call(t.Context(), args...)
			results[i], _, _ = strings.Cut(fmt.Sprint(err), "\n")
		}
		if results[0] != "<nil>" {
			trapped++
		}
		a, _ := mods[0].Memory().Read(0, pages<<16)
		b, _ := mods[1].Memory().Read(0, pages<<16)
		if results[0] != results[1] || !bytes.Equal(a, b) {
			t.Fatalf("%s %v: as it was %s, rewritten %s, memory equal: %v", name, args, results[0], results[1], bytes.Equal(a, b))
		}
	}
	if trapped < 80 || trapped > 320 {
		t.Errorf("%d of 400 trapped", trapped)
	}
}

// TestBulkIsInterrupted checks that a guest can be ended in the middle of one long operation.
func TestBulkIsInterrupted(t *testing.T) {
	const pages, enough = 160, 6 << 20
	wasm := bulky(pages, make([]byte, enough))
	for name, args := range map[string][]uint64{"copy": {0, 1 << 20, enough}, "fill": {0, 1, enough}, "init": {0, 0, enough}} {
		r := wazero.NewRuntime(t.Context())
		b := r.NewHostModuleBuilder(wasmbin.HostModule)
		refills := 0
		b.NewFunctionBuilder().WithFunc(func(left int64) int64 {
			if refills++; refills == 3 {
				panic(errors.New("enough"))
			}
			return 250_000
		}).Export(wasmbin.Refill)
		b.NewFunctionBuilder().WithFunc(func(left int64) int64 { return left }).Export(wasmbin.Deeper)
		if _, err := b.Instantiate(t.Context()); err != nil {
			t.Fatal(err)
		}
		mod, err := r.Instantiate(t.Context(), rewrite(t, wasm).Wasm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mod.ExportedFunction(name).Call(t.Context(), args...); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("%s of %d bytes was not interrupted: %v, after %d refills", name, enough, err, refills)
		}
		_ = r.Close(context.Background())
	}
}
