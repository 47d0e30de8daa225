package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// grant is what a guest gets at a time, as in package runtime.
const grant = 250_000

// fuelRounds is how often each program runs in either form.
const fuelRounds = 41

//go:embed testdata/fuel-c.wasm
var fuelC []byte

// work is what each program is asked for at first; it is adjusted until a run takes some milliseconds.
var work = []struct {
	name string
	n    uint64
	wide bool // n is the depth of a recursion: its cost grows exponentially
}{{"fib", 22, true}, {"empty", 1 << 20, false}, {"update", 1 << 18, false}, {"sha256", 16, false}, {"json", 32, false}, {"matrix", 4, false}}

// fuel prints how much longer programs take when they meter themselves: the median over rounds in which
// the module as it was and the rewritten module take turns.
func fuel(ctx context.Context, out io.Writer) error {
	goWasm, err := buildGo("./guests/fuel")
	if err != nil {
		return err
	}
	product, worst, n := 1.0, 0.0, 0
	for _, source := range []struct {
		lang string
		wasm []byte
	}{{"go", goWasm}, {"c", fuelC}} {
		ratios, err := fuelRatios(ctx, source.wasm)
		if err != nil {
			return fmt.Errorf("fuel of %s: %w", source.lang, err)
		}
		for i, ratio := range ratios {
			fmt.Fprintf(out, "fuel_overhead_%s_%s %.3f\n", work[i].name, source.lang, ratio)
			product *= ratio
			worst = max(worst, ratio)
			n++
		}
	}
	fmt.Fprintf(out, "fuel_overhead_geomean %.3f\n", math.Pow(product, 1/float64(n)))
	fmt.Fprintf(out, "fuel_overhead_worst %.3f\n", worst)
	return nil
}

// fuelRatios runs all of work in one module.
func fuelRatios(ctx context.Context, wasm []byte) ([]float64, error) {
	metered, err := wasmbin.Rewrite(wasm)
	if err != nil {
		return nil, err
	}
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2))
	defer r.Close(ctx)
	if err := meter(ctx, r); err != nil {
		return nil, err
	}
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, err
	}
	var forms [2]api.Module
	for i, b := range [][]byte{wasm, metered.Wasm} {
		config := wazero.NewModuleConfig().WithName("").WithStartFunctions()
		if forms[i], err = r.InstantiateWithConfig(ctx, b, config); err != nil {
			return nil, err
		}
	}
	for _, c := range metered.Image {
		forms[1].Memory().Write(c.Offset, c.Bytes)
	}
	for _, f := range forms {
		if _, err := f.ExportedFunction("_initialize").Call(ctx); err != nil {
			return nil, err
		}
	}
	ratios := make([]float64, len(work))
	for i, w := range work {
		if ratios[i], err = fuelRatio(ctx, forms, w.name, w.n, w.wide); err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return ratios, nil
}

func fuelRatio(ctx context.Context, forms [2]api.Module, name string, n uint64, wide bool) (float64, error) {
	var calls [2]api.Function
	for i, f := range forms {
		calls[i] = f.ExportedFunction(name)
	}
	run := func(i int) (uint64, time.Duration, error) {
		start := time.Now()
		result, err := calls[i].Call(ctx, n)
		took := time.Since(start)
		if err != nil {
			return 0, 0, err
		}
		return result[0], took, nil
	}
	for { // find n
		_, took, err := run(0)
		if err != nil {
			return 0, err
		}
		if _, _, err := run(1); err != nil {
			return 0, err
		}
		if took > 2*time.Millisecond {
			break
		}
		if wide {
			n++
		} else {
			n *= 2
		}
	}
	var rounds []float64
	for round := range fuelRounds {
		var took [2]time.Duration
		var got [2]uint64
		for k := range 2 {
			i := (round + k) % 2
			var err error
			if got[i], took[i], err = run(i); err != nil {
				return 0, err
			}
		}
		if got[0] != got[1] {
			return 0, fmt.Errorf("the result is %d, and rewritten %d", got[0], got[1])
		}
		rounds = append(rounds, float64(took[1])/float64(took[0]))
	}
	slices.Sort(rounds)
	return rounds[len(rounds)/2], nil
}

// meter makes what rewritten guests import: as much fuel as they ask for.
func meter(ctx context.Context, r wazero.Runtime) error {
	i64 := []api.ValueType{api.ValueTypeI64}
	b := r.NewHostModuleBuilder(wasmbin.HostModule)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, s []uint64) { s[0] = grant }), i64, i64).Export(wasmbin.Refill)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) { stack[0] += wasmbin.MaxDepth }), i64, i64).Export(wasmbin.Deeper)
	_, err := b.Instantiate(ctx)
	return err
}
