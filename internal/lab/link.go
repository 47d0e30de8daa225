package lab

import "time"

// LinkConfig is what packets from one node to another meet. The zero value is the distance between the
// nodes' regions, and nothing bad.
type LinkConfig struct {
	RTT       time.Duration // round trip of which this way is half; 0 = that of the regions
	Jitter    time.Duration // a packet takes up to this much longer, evenly spread; the order is kept
	Loss      float64       // share of the packets that get lost, 0 to 1
	Bandwidth int64         // bit/s of this pair; 0 = as the nodes' lines allow
}

// link is the way from one node to another. The switch's lock guards it.
type link struct {
	LinkConfig
	delay   time.Duration // one way
	line    line
	blocked bool
	flap    time.Duration // open and shut in turn for this long each; 0 = does not flap
	since   time.Time     // the flapping began
	last    time.Time     // arrival of the packet before
}

// open reports whether packets get through now.
func (l *link) open(now time.Time) bool {
	if l.blocked {
		return false
	}
	return l.flap == 0 || now.Sub(l.since)/l.flap%2 == 1 // begins shut
}

// line is what limits bandwidth: packets leave it one after the other and wait for that in a queue. The
// switch's lock guards it.
type line struct {
	rate  int64         // bit/s; 0 = unlimited
	queue time.Duration // longest wait; what would wait longer is dropped
	free  time.Time     // when the last packet has left
}

// pass returns when a packet that comes at now has left; false means that the queue is full.
func (l *line) pass(now time.Time, bytes int) (time.Time, bool) {
	if l.rate == 0 {
		return now, true
	}
	start := now
	if l.free.After(now) {
		start = l.free
	}
	if start.Sub(now) > l.queue {
		return time.Time{}, false
	}
	l.free = start.Add(time.Duration(int64(bytes) * 8 * int64(time.Second) / l.rate))
	return l.free, true
}
