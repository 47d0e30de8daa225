// Package heap sets how often a node collects garbage.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// usual is the percentage that the runtime begins with: the heap may double between two collections.
const usual = 100

// least is how many bytes a node allocates between two collections.
const least = 16 << 20

// Settle has the program allocate 16 MiB at least between two collections. The runtime lets a heap double, and a
// node has a heap of a few megabytes, which a busy gateway fills many times a second. A larger heap doubles as
// before, so that this costs no more memory than those 16 MiB. If the environment has GOGC, that holds. It is called
// once.
func Settle() {
	if os.Getenv("GOGC") == "" {
		follow(&floor{bytes: least, percent: usual})
	}
}

type floor struct {
	bytes   uint64
	percent int
}

// cycle is unreachable as soon as it is made, so that its cleanup runs after the next collection. It has a pointer
// since the runtime puts small objects without one together, and cleans those up late.
type cycle struct{ _ *cycle }

// follow adapts the percentage to what is alive, now and after each collection.
func follow(f *floor) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if p := percent(f.bytes, live[0].Value.Uint64()); differ(p, f.percent) {
		f.percent = p
		debug.SetGCPercent(p)
	}
	runtime.AddCleanup(new(cycle), follow, f)
}

// percent returns by how much the heap may grow.
func percent(floor, live uint64) int {
	return int(max(usual, min(floor*100/max(live, 1), 10*usual)))
}

// differ reports whether a change is worth stopping the world for.
func differ(a, b int) bool { return max(a, b)*10 > min(a, b)*11 || min(a, b) == usual && a != b }
