package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// engine answers requests with one guest.
type engine interface {
	// request has an instance answer: one that no other request has used, unless the engine is a shared one.
	request(in []byte) ([]byte, error)
	close()
}

// form is an engine with a way to use it.
type form struct {
	name   string
	engine engine
	p50    time.Duration
}

// neutral are the guests that no engine knows, with a request for each.
var neutral = []struct {
	name, pkg string
	request   string
	rounds    int // turns of each engine
	turn      int // requests
}{
	{"small", "./guests/small", "the quick brown fox jumps over the extraordinarily lazy dog and runs on through the wide green fields", 20, 40},
	{"big", "./guests/big", `{"Method":"POST","URL":"http://example.com/path?q=1","Header":{"Accept":["text/html"],"User-Agent":["bench"]},"Body":"hello"}`, 8, 12},
}

// isolation prints how long each engine takes for a request to each neutral guest, and the ratios.
func isolation(ctx context.Context, out io.Writer) error {
	for _, guest := range neutral {
		wasm, err := buildGo(guest.pkg)
		if err != nil {
			return err
		}
		forms, err := open(ctx, wasm, guest.name == "small")
		if err == nil {
			err = race(forms, []byte(guest.request), guest.rounds, guest.turn)
		}
		for _, f := range forms {
			f.engine.close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", guest.name, err)
		}
		report(out, guest.name, forms)
	}
	return nil
}

// open makes all forms of a guest, and returns those that it made with an error too.
func open(ctx context.Context, wasm []byte, preinit bool) (forms []*form, err error) {
	add := func(name string, make func() (engine, error)) {
		if err != nil {
			return
		}
		var e engine
		if e, err = make(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			return
		}
		forms = append(forms, &form{name: name, engine: e})
	}
	add("isolated", func() (engine, error) { return newSandboxed(ctx, wasm, sandbox.Request, true) })
	add("image", func() (engine, error) { return newSandboxed(ctx, wasm, sandbox.Request, false) })
	add("shared", func() (engine, error) { return newSandboxed(ctx, wasm, sandbox.Shared, true) })
	add("wazero_fresh", func() (engine, error) { return newStock(ctx, wasm, false) })
	add("wazero_call", func() (engine, error) { return newStock(ctx, wasm, true) })
	add("wasmtime_fresh", func() (engine, error) { return newWasmtime(wasm, true, 0) })
	add("wasmtime_fresh_pool", func() (engine, error) { return newWasmtime(wasm, true, 1) })
	if !preinit {
		return forms, err
	}
	ready, problem := preInitialise(wasm)
	if problem != nil {
		return forms, problem
	}
	add("wasmtime_preinit", func() (engine, error) { return newWasmtime(ready, false, 0) })
	add("wasmtime_preinit_pool", func() (engine, error) { return newWasmtime(ready, false, 1) })
	add("wasmtime_preinit_resident", func() (engine, error) { return newWasmtime(ready, false, keepResident) })
	return forms, err
}

// keepResident is how much of an instance's memory wasmtime's pool wipes instead of giving it back.
const keepResident = 256 << 10

// race has all forms answer the request and sets their medians. They take turns of some requests each: one
// request a turn would find no engine's code and data in the processor's caches, and show mostly that.
func race(forms []*form, request []byte, rounds, turn int) error {
	took := make([][]time.Duration, len(forms))
	var want []byte
	for round := range rounds {
		for k := range forms {
			i := (round + k) % len(forms)
			for range turn {
				start := time.Now()
				got, err := forms[i].engine.request(request)
				elapsed := time.Since(start)
				if err != nil {
					return fmt.Errorf("%s: %w", forms[i].name, err)
				}
				if want == nil {
					want = got
				}
				if len(got) == 0 || !bytes.Equal(got, want) {
					return fmt.Errorf("%s answers %.100q, others %.100q", forms[i].name, got, want)
				}
				took[i] = append(took[i], elapsed)
			}
		}
	}
	for i, f := range forms {
		slices.Sort(took[i])
		f.p50 = took[i][len(took[i])/2]
	}
	return nil
}

// report prints the medians of all forms, and the ratios that have a bar.
func report(out io.Writer, guest string, forms []*form) {
	us := func(names ...string) float64 { // the best of them
		best := math.Inf(1)
		for _, f := range forms {
			if slices.Contains(names, f.name) {
				best = min(best, float64(f.p50.Nanoseconds())/1e3)
			}
		}
		return best
	}
	for _, f := range forms {
		fmt.Fprintf(out, "%s_%s_p50_us %.2f\n", guest, f.name, us(f.name))
	}
	isolated, fresh := us("isolated"), us("wasmtime_fresh", "wasmtime_fresh_pool")
	if guest != "small" {
		fmt.Fprintf(out, "isolated_%s_vs_wasmtime_fresh %.4f\n", guest, isolated/fresh)
		return
	}
	fmt.Fprintf(out, "isolated_vs_wasmtime_fresh %.4f\n", isolated/fresh)
	fmt.Fprintf(out, "isolated_vs_wasmtime_preinit %.4f\n", isolated/us("wasmtime_preinit", "wasmtime_preinit_pool", "wasmtime_preinit_resident"))
	fmt.Fprintf(out, "isolated_vs_wazero_fresh %.4f\n", isolated/us("wazero_fresh"))
	fmt.Fprintf(out, "isolated_vs_shared %.3f\n", isolated/us("shared"))
	fmt.Fprintf(out, "shared_vs_wazero_call %.3f\n", us("shared")/us("wazero_call"))
}

// slots prints how long a new instance of examples/hello takes, from its image until it can serve.
func slots(ctx context.Context, out io.Writer) error {
	wasm, err := buildGo("../examples/hello")
	if err != nil {
		return err
	}
	p, err := newSandboxed(ctx, wasm, sandbox.Request, false)
	if err != nil {
		return err
	}
	defer p.close()
	var took []time.Duration
	for range 200 {
		start := time.Now()
		if err := p.slot(); err != nil {
			return err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	fmt.Fprintf(out, "fresh_from_image_ms %.4f\n", float64(took[len(took)/2].Nanoseconds())/1e6)
	return nil
}
