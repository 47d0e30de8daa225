package runtime_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

const scribblerPages = 4

// scribbler returns a guest that answers with a hash of its memory and the value of its global, and then
// does to both what the body asks: address, kind, canary and length, of four bytes each. A guest that
// sees nothing of other requests answers always the same.
func scribbler() *Module {
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	read := m.Import("http_handler", "read_body", "iii:I")
	m.Memory(scribblerPages, 0)
	m.Data(1000, "first content")
	m.Data(200_000, "more of it")
	start := m.Global(1)
	global := m.Global(77)
	load := func(at int) []byte { return Cat(Const(at), 0x28, 2, 0) }
	store := func(at int, value ...any) []byte { return Cat(Const(at), Cat(value...), 0x36, 2, 0) }
	get, set := func(g int) []byte { return Cat(0x23, g) }, func(g int) []byte { return Cat(0x24, g) }
	when := func(kind int, then ...any) []byte {
		return Cat(load(4), Const(kind), 0x46, 0x04, 0x40, Cat(then...), 0x0b)
	}
	handler(&m,
		Loop(0x20, 1, Const(31), 0x6c, 0x20, 0, 0x28, 2, 0, 0x6a, 0x21, 1, 0x20, 0, Const(4), 0x6a, 0x22, 0, 0x3f, 0, Const(16), 0x74, 0x49, 0x0d, 0),
		store(16, 0x20, 1), store(20, get(global)), store(24, get(start)), store(28, 0x3f, 0), Const(1), Const(16), Const(16), Call(write),
		Const(0), Const(0), Const(16), Call(read), drop,
		load(8), set(global), load(8), set(start),
		load(0), load(8), load(12), 0xfc, 11, 0, // memory.fill
		when(1, unreachable),
		when(2, Loop(Br(0))),
		when(3, Const(1), 0x40, 0, Const(16), 0x74, load(8), 0x36, 2, 0),
		when(4, Const(1<<30), load(8), 0x36, 2, 0), // outside
		Const64(0))
	m.Export("_initialize", 0, m.Func(":", 0, Const(5), set(start), store(250_000, Const(99)), Const(2), 0x40, 0, drop))
	return &m
}

// scribble sends n random requests and returns the different answers. Every tenth fails in some way.
func scribble(t *testing.T, r *runtime.Runtime, id perigee.RevisionID, n int, seed uint64) map[string]int {
	rng := rand.New(rand.NewPCG(seed, seed))
	answers := map[string]int{}
	for range n {
		kind := rng.IntN(40)
		if kind == 2 && rng.IntN(8) > 0 {
			kind = 0 // deadlines take long
		}
		var body []byte
		for _, v := range []int{32 + rng.IntN(scribblerPages<<16-40_000), kind, 1 + rng.Int()&0x7fffffff, rng.IntN(30_000)} {
			body = binary.LittleEndian.AppendUint32(body, uint32(v))
		}
		w, _, err := invoke(t, r, id, httptest.NewRequest("POST", "/", bytes.NewReader(body)))
		var guest *runtime.GuestError
		if fails := kind == 1 || kind == 2 || kind == 4; fails != errors.As(err, &guest) || (!fails && err != nil) {
			t.Errorf("kind %d: %v", kind, err)
		}
		if err == nil {
			answers[fmt.Sprintf("% x", w.Body)]++
		}
	}
	return answers
}

// TestIsolation checks that no request sees what another left in memory and globals, also after traps,
// deadlines and growth, with requests at once. What is right is what new instances answer; and the test
// must see it when instances are used again without a reset.
func TestIsolation(t *testing.T) {
	wasm := scribbler().Bytes()
	answers := func(isolation string, reuse bool, n int) map[string]int {
		r := open(t, runtime.Config{Logger: slog.New(slog.DiscardHandler), DisableReuse: !reuse})
		err := r.Load(t.Context(), "f", runtime.Spec{Function: "f", Wasm: wasm, Isolation: isolation, Limits: perigee.Limits{Timeout: perigee.Duration(500 * time.Millisecond)}})
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for seed := range uint64(2) {
			wg.Go(func() {
				got := scribble(t, r, "f", n/2, seed)
				mu.Lock()
				defer mu.Unlock()
				for answer, times := range got {
					all[answer] += times
				}
			})
		}
		wg.Wait()
		return all
	}
	oracle := answers("fresh", true, 20)
	if len(oracle) != 1 {
		t.Fatalf("new instances answer %v", oracle)
	}
	for _, reuse := range []bool{true, false} {
		n := 3000
		if !reuse {
			n = 200
		}
		got := answers("request", reuse, n)
		for answer := range oracle {
			if len(got) != 1 || got[answer] < n*8/10 {
				t.Errorf("reuse %v: answers %v; want only %s", reuse, got, answer)
			}
		}
	}
	if got := answers("shared", true, 100); len(got) < 10 {
		t.Errorf("without a reset the test sees only %v", got)
	}
}

// TestIsolationOfGo checks the same with a Go program's own state, and that randomness is fresh.
func TestIsolationOfGo(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "g", testguest(t), perigee.Limits{})
	seen := map[string]bool{}
	starts := map[string]int{}
	for range 200 {
		w, usage, err := invoke(t, r, "g", get("/count"))
		if err != nil || w.Body.String() != "1" {
			t.Fatalf("%v: request number %s of its instance, %v", starts, w.Body, err)
		}
		starts[usage.Start]++
		w, _, err = invoke(t, r, "g", get("/random"))
		if err != nil || seen[w.Body.String()] {
			t.Fatalf("%v: %q again, %v", starts, w.Body, err)
		}
		seen[w.Body.String()] = true
	}
	if starts[runtime.StartReset] < 190 {
		t.Errorf("starts %v", starts)
	}
	if err := r.Load(t.Context(), "s", runtime.Spec{Function: "s", Wasm: testguest(t), Isolation: "shared"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w, usage, err := invoke(t, r, "s", get("/count"))
		if err != nil || usage.Start != runtime.StartImage && usage.Start != runtime.StartShared {
			t.Errorf("%+v, %v", usage, err)
		}
		seen["count "+w.Body.String()] = true
	}
	if !seen["count 2"] {
		t.Error("without a reset the test does not see the other request's state")
	}
}

// TestPoolGivesWay checks that idle instances do not keep memory from other functions.
func TestPoolGivesWay(t *testing.T) {
	r := open(t, runtime.Config{MemoryBudget: 18 * 64 * perigee.KiB})
	for _, id := range []perigee.RevisionID{"a", "b", "a", "b"} {
		load(t, r, id, scribbler().Bytes(), perigee.Limits{})
		if _, usage, err := invoke(t, r, id, get("/")); err != nil || usage.Start != runtime.StartImage {
			t.Errorf("%s: %+v, %v", id, usage, err)
		}
	}
}

// TestFresh checks that a revision may ask for a start of its own in each request.
func TestFresh(t *testing.T) {
	r := open(t, runtime.Config{})
	err := r.Load(t.Context(), "f", runtime.Spec{Function: "f", Wasm: scribbler().Bytes(), Isolation: "fresh"})
	if err != nil {
		t.Fatal(err)
	}
	load(t, r, "r", scribbler().Bytes(), perigee.Limits{})
	want, _, err := invoke(t, r, "r", get("/"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w, usage, err := invoke(t, r, "f", get("/"))
		if err != nil || usage.Start != runtime.StartFresh || !bytes.Equal(w.Body.Bytes(), want.Body.Bytes()) {
			t.Errorf("%+v, %v: answers %x, want %x", usage, err, w.Body, want.Body)
		}
	}
}
