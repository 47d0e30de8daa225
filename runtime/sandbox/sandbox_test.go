package sandbox_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, c sandbox.Config) *sandbox.Engine {
	t.Helper()
	if c.Memory == 0 {
		c.Memory = 64 << 20
	}
	c.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	e, err := sandbox.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func load(t testing.TB, e *sandbox.Engine, m *Module, o sandbox.Options) *sandbox.Module {
	t.Helper()
	w, err := wasmbin.Rewrite(m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	mod, err := e.Load(t.Context(), w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mod.Close)
	if err := mod.Prepare(t.Context(), func(context.Context, *sandbox.Instance) error { return nil }); err != nil && o.Isolation != sandbox.Fresh {
		t.Fatal(err)
	}
	return mod
}

// run calls an export in an instance of its own.
func run(ctx context.Context, mod *sandbox.Module, fuel uint64, export string, args ...uint64) (result, used uint64, err error) {
	i, err := mod.Get()
	if err != nil {
		return 0, 0, err
	}
	defer func() { i.End(err == nil) }()
	ctx = i.Begin(ctx, fuel)
	if err := i.Start(ctx); err != nil {
		return 0, 0, err
	}
	out, err := i.Function(export).Call(ctx, args...)
	if err == nil {
		err = i.CheckFuel()
	}
	if err != nil {
		return 0, i.Fuel(), err
	}
	return out[0], i.Fuel(), nil
}

// counter returns a guest that counts its calls in memory and in a global, and can do so n times.
func counter() *Module {
	var m Module
	m.Memory(1, 0)
	m.Data(100, "\x07")
	g := m.Global(40)
	m.Export("count", 0, m.Func("i:i", 0,
		Loop(
			Const(100), Const(100), 0x28, 2, 0, Const(1), 0x6a, 0x36, 2, 0,
			0x23, g, Const(1), 0x6a, 0x24, g,
			0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0),
		Const(100), 0x28, 2, 0, 0x23, g, 0x6a))
	m.Export("spin", 0, m.Func(":i", 0, Loop(Br(0)), Const(0)))
	m.Export("deep", 0, m.Func(":i", 0, Call(2)))
	return &m
}

// TestIsolations checks what users of an instance see of those before.
func TestIsolations(t *testing.T) {
	for name, tc := range map[string]struct {
		config sandbox.Config
		o      sandbox.Options
		want   [3]uint64
	}{
		"request": {want: [3]uint64{49, 49, 49}},
		"image":   {config: sandbox.Config{DisableReuse: true}, want: [3]uint64{49, 49, 49}},
		"fresh":   {o: sandbox.Options{Isolation: sandbox.Fresh}, want: [3]uint64{49, 49, 49}},
		"shared":  {o: sandbox.Options{Isolation: sandbox.Shared}, want: [3]uint64{49, 51, 53}},
	} {
		mod := load(t, open(t, tc.config), counter(), tc.o)
		for n, want := range tc.want {
			if got, _, err := run(t.Context(), mod, 0, "count", 1); err != nil || got != want {
				t.Errorf("%s: call %d answers %d, %v; want %d", name, n, got, err, want)
			}
		}
	}
}

// TestFuel checks that a limit ends the guest, soon and always at the same amount, and that what is below
// it is not.
func TestFuel(t *testing.T) {
	mod := load(t, open(t, sandbox.Config{}), counter(), sandbox.Options{})
	_, need, err := run(t.Context(), mod, 0, "count", 50_000)
	if err != nil {
		t.Fatal(err)
	}
	if need < 500_000 {
		t.Fatalf("a loop of 50,000 costs %d", need)
	}
	if _, used, err := run(t.Context(), mod, need, "count", 50_000); err != nil || used != need {
		t.Errorf("with just enough: used %d of %d, %v", used, need, err)
	}
	for _, limit := range []uint64{1, 1000, 250_000, 260_000, need - 1} {
		var first uint64
		for range 3 {
			_, used, err := run(t.Context(), mod, limit, "count", 50_000)
			if !errors.Is(err, sandbox.ErrFuel) || used < limit || used > limit+10_000 {
				t.Errorf("limit %d: used %d, %v", limit, used, err)
			}
			if first == 0 {
				first = used
			}
			if used != first {
				t.Errorf("limit %d: used %d and then %d", limit, first, used)
			}
		}
	}
}

// TestEnds checks the other ways in which a call is ended from outside.
func TestEnds(t *testing.T) {
	mod := load(t, open(t, sandbox.Config{}), counter(), sandbox.Options{})
	if _, _, err := run(t.Context(), mod, 0, "deep"); !errors.Is(err, sandbox.ErrTooDeep) {
		t.Errorf("endless recursion: %v", err)
	}
	over := errors.New("over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, over)
	defer cancel()
	if _, _, err := run(ctx, mod, 0, "spin"); !errors.Is(err, over) {
		t.Errorf("endless loop: %v", err)
	}
	if got, _, err := run(t.Context(), mod, 0, "count", 1); err != nil || got != 49 {
		t.Errorf("afterwards: %d, %v", got, err)
	}
}

// TestSpinnersEnd checks that guests which all compute for ever end in time though they take turns, and
// that no turn is lost.
func TestSpinnersEnd(t *testing.T) {
	e := open(t, sandbox.Config{Turns: 1})
	mod := load(t, e, counter(), sandbox.Options{})
	over := errors.New("over")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, over)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, used, err := run(ctx, mod, 0, "spin"); !errors.Is(err, over) || used < 150_000 {
				t.Errorf("used %d, %v", used, err)
			}
		})
	}
	wg.Wait()
	if _, _, err := run(t.Context(), mod, 0, "count", 100_000); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestSleep checks that a module without code comes back, with its image and from the cache.
func TestSleep(t *testing.T) {
	w, err := wasmbin.Rewrite(counter().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "code")
	if err := sandbox.Compile(t.Context(), dir, w); err != nil {
		t.Fatal(err)
	}
	e := open(t, sandbox.Config{Cache: dir})
	mod, err := e.Load(t.Context(), w, sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer mod.Close()
	err = mod.Prepare(t.Context(), func(ctx context.Context, i *sandbox.Instance) error {
		_, err := i.Function("count").Call(ctx, 1)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, _, err := run(t.Context(), mod, 0, "count", 1); err != nil || got != 51 {
			t.Errorf("%d, %v", got, err)
		}
		mod.Sleep()
		if err := mod.Wake(t.Context(), w.Skeleton); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBudget checks that one module leaves others some, that idle instances and images of others give way,
// that what is used does not, and that all comes back.
func TestBudget(t *testing.T) {
	var taken int64
	var mu sync.Mutex
	e := open(t, sandbox.Config{Memory: 8 * 64 << 10, Taken: func(delta int64) {
		mu.Lock()
		defer mu.Unlock()
		taken += delta
	}})
	a, b := load(t, e, counter(), sandbox.Options{}), load(t, e, counter(), sandbox.Options{})
	var held []*sandbox.Instance
	hold := func(m *sandbox.Module) (n int) {
		for ; ; n++ {
			i, err := m.Get()
			if err != nil {
				if !errors.Is(err, sandbox.ErrMemory) {
					t.Error(err)
				}
				return n
			}
			ctx := i.Begin(t.Context(), 0)
			if err := i.Start(ctx); err != nil {
				t.Fatal(err)
			}
			held = append(held, i)
		}
	}
	if n := hold(a); n != 5 {
		t.Errorf("%d instances of 64 KiB, and an image, in the share of one module, 384 KiB", n)
	}
	if n := hold(b); n != 2 {
		t.Errorf("%d instances of 64 KiB in what is left of 512 KiB", n)
	}
	if _, _, err := run(t.Context(), b, 0, "count", 1); !errors.Is(err, sandbox.ErrMemory) {
		t.Errorf("beyond the budget: %v", err)
	}
	for _, i := range held[:5] {
		i.End(true)
	}
	if _, _, err := run(t.Context(), b, 0, "count", 1); err != nil {
		t.Errorf("what is idle did not give way: %v", err)
	}
	for _, i := range held[5:] {
		i.End(true)
	}
	a.Close()
	b.Close()
	mu.Lock()
	defer mu.Unlock()
	if taken != 0 {
		t.Errorf("%d bytes are still taken", taken)
	}
}
