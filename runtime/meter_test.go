package runtime_test

import (
	"errors"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// TestCollectorIsNotHeldUp checks that a spinning guest lets the garbage collector stop the world.
func TestCollectorIsNotHeldUp(t *testing.T) {
	r := open(t, runtime.Config{})
	var m Module
	m.Memory(1, 0)
	handler(&m, Loop(Br(0)), Const64(0))
	load(t, r, "loop", m.Bytes(), perigee.Limits{Timeout: perigee.Duration(time.Second)})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			_, usage, err := invoke(t, r, "loop", get("/"))
			var guest *runtime.GuestError
			if !errors.As(err, &guest) || guest.Kind != runtime.GuestDeadline || usage.Fuel < 1e6 {
				t.Errorf("%+v, %v", usage, err)
			}
		})
	}
	for l, _ := r.Stats("loop"); l.InFlight < 2; l, _ = r.Stats("loop") {
		goruntime.Gosched()
	}
	best := time.Hour
	for range 5 {
		start := time.Now()
		goruntime.GC()
		best = min(best, time.Since(start))
	}
	t.Logf("a collection takes %v", best)
	if best > 100*time.Millisecond {
		t.Errorf("the fastest of five collections took %v", best)
	}
	wg.Wait()
}

// TestFuelIsReported checks that the same work costs the same, however the instance was made.
func TestFuelIsReported(t *testing.T) {
	r := open(t, runtime.Config{})
	var m Module
	m.Memory(1, 0)
	handler(&m, Const(100_000), 0x21, 0, Loop(0x20, 0, Const(1), 0x6b, 0x22, 0, 0x0d, 0), Const64(0))
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	for range 3 {
		if _, usage, err := invoke(t, r, "f", get("/")); err != nil || usage.Fuel != 500_003 {
			t.Errorf("%s: %d units, %v", usage.Start, usage.Fuel, err)
		}
	}
}
