package runtime_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

const scribblerPages = 4

// scribbled are the files that the guest below sees.
var scribbled = fstest.MapFS{"f": &fstest.MapFile{Data: []byte("as it is")}}

// scribbler returns a guest that answers with a hash of its memory, the values of its globals, and what it
// finds of files: whether there is one named canary, and the descriptor and the content of f. Then it does to
// memory and globals what the body asks: address, kind, canary and length, of four bytes each; it tries to make
// canary and to take f away, and leaves its descriptors open. A guest that sees nothing of other requests
// answers always the same.
func scribbler() *Module {
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	read := m.Import("http_handler", "read_body", "iii:I")
	open := m.Import("wasi_snapshot_preview1", "path_open", "iiiiiIIii:i")
	get4 := m.Import("wasi_snapshot_preview1", "fd_read", "iiii:i")
	put := m.Import("wasi_snapshot_preview1", "fd_write", "iiii:i")
	unlink := m.Import("wasi_snapshot_preview1", "path_unlink_file", "iii:i")
	m.Memory(scribblerPages, 0)
	m.Data(1000, "first content")
	const canary, file, vector, descriptor = 1100, 1110, 1120, 64
	m.Data(canary, "canary")
	m.Data(file, "f")
	m.Data(vector, "\x30\x00\x00\x00\x08") // 8 bytes at 48
	m.Data(200_000, "more of it")
	start := m.Global(1)
	global := m.Global(77)
	load := func(at int) []byte { return Cat(Const(at), 0x28, 2, 0) }
	store := func(at int, value ...any) []byte { return Cat(Const(at), Cat(value...), 0x36, 2, 0) }
	get, set := func(g int) []byte { return Cat(0x23, g) }, func(g int) []byte { return Cat(0x24, g) }
	when := func(kind int, then ...any) []byte {
		return Cat(load(4), Const(kind), 0x46, 0x04, 0x40, Cat(then...), 0x0b)
	}
	pathOpen := func(path, length, flags int, rights int64, to int) []byte {
		return Cat(Const(3), Const(0), Const(path), Const(length), Const(flags), Const64(rights), Const64(0), Const(0), Const(to), Call(open))
	}
	handler(&m,
		Loop(0x20, 1, Const(31), 0x6c, 0x20, 0, 0x29, 3, 0, Const64(0x1e3779b97f4a7c15), 0x7e, Const64(32), 0x88, 0xa7, 0x6a, 0x21, 1, 0x20, 0, Const(8), 0x6a, 0x22, 0, 0x3f, 0, Const(16), 0x74, 0x49, 0x0d, 0),
		store(16, 0x20, 1), store(20, get(global)), store(24, get(start)), store(28, 0x3f, 0),
		store(32, pathOpen(canary, 6, 0, 2, descriptor)), store(36, pathOpen(file, 1, 0, 2, 40)),
		load(40), Const(vector), Const(1), Const(44), Call(get4), drop,
		Const(1), Const(16), Const(40), Call(write),
		Const(0), Const(0), Const(16), Call(read), drop,
		pathOpen(canary, 6, 9, 66, descriptor), 0x45, 0x04, 0x40, load(descriptor), Const(vector), Const(1), Const(44), Call(put), drop, 0x0b,
		Const(3), Const(file), Const(1), Call(unlink), drop,
		load(8), set(global), load(8), set(start),
		load(0), load(8), load(12), 0xfc, 11, 0, // memory.fill
		Const(0), Const(16), Const(16), Call(read), drop,
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
		if kind == 2 && rng.IntN(20) > 0 {
			kind = 0 // deadlines take long
		}
		var body []byte
		for _, v := range []int{96 + rng.IntN(scribblerPages<<16-40_000), kind, 1 + rng.Int()&0x7fffffff, rng.IntN(30_000)} {
			body = binary.LittleEndian.AppendUint32(body, uint32(v))
		}
		w, _, err := invoke(t, r, id, httptest.NewRequest("POST", "/", &scribblerBody{body, n%200 == 0}))
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

// scribblerBody is a body at whose end, when the guest has scribbled, the kernel is asked to take the guests'
// memory away, if press is set.
type scribblerBody struct {
	left  []byte
	press bool
}

func (b *scribblerBody) Read(p []byte) (int, error) {
	n := copy(p, b.left)
	if b.left = b.left[n:]; n == 0 {
		if b.press {
			pageOut()
		}
		return 0, io.EOF
	}
	return n, nil
}

// TestIsolation checks that no request sees what another left in memory, globals and files, also after traps,
// deadlines, growth and while memory is short (where there is swap space), with requests at once. What is right is what new instances answer; and the test
// must see it when instances are used again without a reset.
func TestIsolation(t *testing.T) {
	wasm := scribbler().Bytes()
	answers := func(isolation string, reuse bool, n int) map[string]int {
		r := open(t, runtime.Config{Logger: slog.New(slog.DiscardHandler), DisableReuse: !reuse})
		err := r.Load(t.Context(), "f", runtime.Spec{Function: "f", Wasm: wasm, Files: scribbled, Isolation: isolation, Limits: perigee.Limits{Timeout: perigee.Duration(500 * time.Millisecond)}})
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
	for answer := range oracle { // no canary, and f at the first descriptor with its content
		if !strings.Contains(answer, "2c 00 00 00 00 00 00 00 04 00 00 00 08 00 00 00 61 73 20 69 74 20 69 73") {
			t.Fatalf("new instances see of files %s", answer)
		}
	}
	for _, reuse := range []bool{true, false} {
		n := 10_000
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
