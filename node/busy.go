package node

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	busySpan = time.Minute // how far back an average looks, about
	busyMost = 1000        // functions in a row: the busiest
)

// busyMeter averages how many requests of each function run here at once: what they took, divided by
// the time in which they took it. It is for one goroutine.
type busyMeter struct {
	at   time.Time
	seen map[*holding]int64 // what its requests had taken by then, in nanoseconds
	avg  map[string]float64
}

// read returns the averages in hundredths, as the node's row has them.
func (m *busyMeter) read(here map[perigee.RevisionID]*holding, now time.Time) map[string]uint32 {
	elapsed := now.Sub(m.at)
	seen, running := make(map[*holding]int64, len(here)), map[string]float64{}
	for _, h := range here {
		seen[h] = h.busy.Load()
		if before, ok := m.seen[h]; ok && elapsed > 0 {
			running[h.rev.Manifest.Name] += float64(seen[h]-before) / float64(elapsed)
		}
	}
	weight := 1 - math.Exp(-float64(elapsed)/float64(busySpan))
	if m.at.IsZero() {
		weight = 1
	}
	avg := make(map[string]float64, len(running))
	for _, names := range []map[string]float64{m.avg, running} {
		for name := range names {
			if a := m.avg[name] + weight*(running[name]-m.avg[name]); a >= 0.005 {
				avg[name] = a
			}
		}
	}
	m.at, m.seen, m.avg = now, seen, avg
	out := make(map[string]uint32, len(avg))
	for name, a := range avg {
		out[name] = uint32(math.Round(min(a*100, math.MaxUint32)))
	}
	if len(out) > busyMost {
		names := slices.SortedFunc(maps.Keys(out), func(a, b string) int { return int(int64(out[b]) - int64(out[a])) })
		for _, name := range names[busyMost:] {
			delete(out, name)
		}
	}
	return out
}
