package node

import (
	"cmp"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	slowSpan = time.Minute     // how far back an average looks, about
	fastSpan = 6 * time.Second // and one that shows what began a moment ago

	trafficMost = 500 // functions in a row: those with the most
)

// trafficMeter averages how much each function is asked for here, and how many of its requests run here at
// once. It is for one goroutine.
type trafficMeter struct {
	at    time.Time
	seen  map[*holding]int64 // what its requests had taken by then, in nanoseconds
	lines map[string]*trafficLine
}

// trafficLine is one function.
type trafficLine struct {
	total       uint64 // requests that asked for it by then
	asked, busy lately
}

// lately is an average over a minute, and one over seconds.
type lately struct{ slow, fast float64 }

func (l *lately) add(x float64, elapsed time.Duration) {
	l.slow += (x - l.slow) * (1 - math.Exp(-float64(elapsed)/float64(slowSpan)))
	l.fast += (x - l.fast) * (1 - math.Exp(-float64(elapsed)/float64(fastSpan)))
}

// sudden reports that it has become much more a moment ago, and not by chance: a single request is much
// more than none.
func (l *lately) sudden() bool { return l.fast > 2*l.slow+1 }

// now returns what counts, in hundredths.
func (l *lately) now() uint32 {
	x := l.slow
	if l.sudden() {
		x = l.fast
	}
	return uint32(math.Round(min(100*x, math.MaxUint32)))
}

// read counts what happened since the last call. asked are the requests by function since the node started,
// slots tells how many of a revision it runs at once. sudden reports that a function is asked for much more
// than a moment ago.
func (m *trafficMeter) read(here map[perigee.RevisionID]*holding, asked iter.Seq2[string, uint64], slots func(perigee.RevisionID) uint32, now time.Time) (out map[string]perigee.Traffic, sudden bool) {
	elapsed := now.Sub(m.at)
	first := m.at.IsZero()
	seen, busy, room := make(map[*holding]int64, len(here)), map[string]float64{}, map[string]uint32{}
	for id, h := range here {
		seen[h] = h.busy.Load()
		name := h.rev.Manifest.Name
		if before, ok := m.seen[h]; ok && elapsed > 0 {
			busy[name] += float64(seen[h]-before) / float64(elapsed)
		}
		if h.warmth == perigee.Warm {
			room[name] = max(room[name], slots(id))
		}
	}
	if first {
		m.lines = map[string]*trafficLine{}
	}
	rate := map[string]float64{} // of those that are asked for here, or were
	for name, total := range asked {
		l := m.line(name)
		rate[name] = 0
		if total >= l.total && elapsed > 0 && !first {
			rate[name] = float64(total-l.total) / elapsed.Seconds()
		}
		l.total = total
	}
	for name := range busy {
		m.line(name)
	}
	m.at, m.seen = now, seen
	out = map[string]perigee.Traffic{}
	for name, l := range m.lines {
		if !first {
			l.asked.add(rate[name], elapsed)
			l.busy.add(busy[name], elapsed)
		}
		t := perigee.Traffic{Asked: l.asked.now(), Busy: l.busy.now(), Slots: room[name]}
		switch {
		case t.Asked > 0 || t.Busy > 0:
			out[name] = t
			sudden = sudden || l.asked.sudden() || l.busy.sudden()
		default:
			if _, known := rate[name]; !known {
				delete(m.lines, name)
			}
		}
	}
	most(out, trafficMost)
	return out, sudden
}

func (m *trafficMeter) line(name string) *trafficLine {
	l := m.lines[name]
	if l == nil {
		l = &trafficLine{}
		m.lines[name] = l
	}
	return l
}

// most keeps the n functions with the most traffic.
func most(all map[string]perigee.Traffic, n int) {
	if len(all) <= n {
		return
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := all[a], all[b]
		return cmp.Or(cmp.Compare(uint64(y.Asked)+uint64(y.Busy), uint64(x.Asked)+uint64(x.Busy)), cmp.Compare(a, b))
	})
	for _, name := range names[n:] {
		delete(all, name)
	}
}
