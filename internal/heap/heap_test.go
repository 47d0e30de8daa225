package heap

import (
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		floor, live uint64
		want        int
	}{
		{16 << 20, 0, 1000},
		{16 << 20, 1 << 20, 1000},
		{16 << 20, 4 << 20, 400},
		{16 << 20, 16 << 20, 100},
		{16 << 20, 1 << 30, 100},
	} {
		if got := percent(c.floor, c.live); got != c.want {
			t.Errorf("percent(%d, %d) = %d, want %d", c.floor, c.live, got, c.want)
		}
	}
}

var kept []byte

// begin counts collections before there is a floor, and makes one: it stays as long as the program.
var begin = sync.OnceValue(func() uint32 {
	n := collections()
	follow(&floor{bytes: 64 << 20, percent: usual})
	return n
})

// TestFloor has fewer collections with a floor than without, and lets a large heap double only.
func TestFloor(t *testing.T) {
	before := begin()
	runtime.GC()
	settle(t, 1000)
	if after := collections(); after*3 > before {
		t.Errorf("%d collections with a floor, %d without", after, before)
	}
	kept = make([]byte, 128<<20)
	defer func() { kept = nil }()
	runtime.GC()
	settle(t, usual)
}

// settle waits until the percentage is what it should be.
func settle(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		p := debug.SetGCPercent(-1)
		debug.SetGCPercent(p)
		if p == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the percentage is %d, want %d", p, want)
		}
	}
}

// collections allocates 256 MiB for nothing and returns how often that was collected.
func collections() uint32 {
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	for range 256 << 10 {
		kept = make([]byte, 1<<10)
	}
	runtime.ReadMemStats(&b)
	return b.NumGC - a.NumGC
}
