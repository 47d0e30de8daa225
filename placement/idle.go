package placement

import "time"

const (
	idleBin  = time.Minute
	idleBins = 240 // four hours; what is idle for longer can't be told

	idleLearned = 10 // idle times until a histogram says something

	idleHead, idleTail = 0.05, 0.99 // the parts of all idle times that are shorter
	idleMargin         = 0.10

	// KeepIdle is how long code stays loaded without a request while nothing is known of its idle times, and
	// at least where it is not unloaded until the next is due.
	KeepIdle = 5 * time.Minute
)

// Idle is the histogram of how long a function was idle on a node between two requests, by the minute. It
// says how long its code is worth keeping loaded, after Shahrad et al., "Serverless in the Wild" (USENIX ATC
// 2020). The zero Idle knows nothing. It is not safe for concurrent use.
type Idle struct {
	bins  [idleBins]uint32
	n     uint32
	later uint32 // that were longer than all bins
}

// Add counts n idle times of a length.
func (h *Idle) Add(length time.Duration, n uint32) {
	if h.n >= 1<<20 { // forget, so that a new habit is learned
		h.n, h.later = 0, h.later/2
		for i := range h.bins {
			h.bins[i] /= 2
			h.n += h.bins[i]
		}
		h.n += h.later
	}
	h.n += n
	if i := length / idleBin; i < idleBins {
		h.bins[i] += n
	} else {
		h.later += n
	}
}

// Windows returns when code is to be loaded, both counted from the last request: from, or at once if that is
// zero, until to. Nineteen of twenty idle times end after from, 99 of 100 before to.
func (h *Idle) Windows() (from, to time.Duration) {
	if h.n < idleLearned || h.later > h.n/20 {
		return 0, KeepIdle // too few, or too long to tell
	}
	head, tail, sum := -1, idleBins-1, uint32(0)
	for i, n := range h.bins {
		sum += n
		if head < 0 && float64(sum) > idleHead*float64(h.n) {
			head = i
		}
		if float64(sum) >= idleTail*float64(h.n) {
			tail = i
			break
		}
	}
	from = time.Duration((1 - idleMargin) * float64(time.Duration(max(0, head))*idleBin))
	to = time.Duration((1 + idleMargin) * float64(time.Duration(tail+1)*idleBin))
	if from == 0 {
		to = max(to, KeepIdle) // memory for so long is cheaper than one request in a hundred that starts cold
	}
	return from, to
}

// Loaded reports whether code is to be loaded that had its last request so long ago, and has run for long
// enough that requests still on their way have come: grace.
func (h *Idle) Loaded(idle, grace time.Duration) bool {
	from, to := h.Windows()
	return idle < grace || idle >= from && idle < to
}
