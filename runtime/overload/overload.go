// Package overload decides which requests a busy node works on: how many compute at once, which of those
// that wait comes next, and which are refused, soon enough that another node can take them.
//
// How many is Gradient2 of Netflix's concurrency-limits (limit := limit x gradient + room), with one
// difference: there the gradient, the share of a latency that is not queueing, is guessed from how latency
// changes. A guest's time is known exactly: computing, waiting for a processor, or waiting for the world
// outside. So the gradient is computing / (computing + waiting for a processor), and neither a mix of fast
// and slow functions nor a slow origin looks like overload. Who waits for the world is not counted at all.
//
// Who waits is "adaptive LIFO" with "controlled delay" (Ben Maurer, Fail at Scale, ACM Queue 13/8, 2015,
// after CoDel): up to Patience, the oldest first, while the queue gets empty now and then; if it has not
// been empty for as long, the newest first, and no longer than Target. Each function is a flow with a
// queue of its own, as in FQ-CoDel (RFC 8290): the flow with the fewest at work comes next, the longest
// queue loses its oldest when all are too long, and a flow below its share of the limit need not wait.
//
// All is pure: no clock, no lock, no goroutine. Whoever owns a Limiter calls it from one place at a time
// and says what time it is.
package overload

import (
	"slices"
	"time"
)

// The queue's times.
const (
	Patience = 150 * time.Millisecond // longest wait: the sender counts on an answer within 300 ms, the way included
	Target   = 5 * time.Millisecond   // longest wait in a queue that stays
)

// What the limit is made of. The numbers are those of concurrency-limits, but for the window.
const (
	room      = 4   // requests that wait inside, so that a processor which gets free has work
	smoothing = 0.2 // of a step
	window    = 50 * time.Millisecond
	samples   = 10 // of a window at least

	waitersPer = 64 // requests that wait, for each that computes
	overshoot  = 2  // times the limit, for flows below their share
)

// Limiter is the limit and the queues of a node. The zero value is not ready: see New.
type Limiter struct {
	limit       float64
	least, most float64
	busy        int     // requests that compute, or wait for a processor
	waiting     int     // requests in queues
	flows       []*Flow // those with requests

	// The window at hand.
	began             time.Time
	ended             int
	computed, delayed time.Duration
	reached           bool // busy was at the limit
}

// Flow is the requests of one function. The zero value is ready. It belongs to one Limiter.
type Flow struct {
	busy    int
	queue   []*Waiter // the oldest first
	emptied time.Time // when somebody last came to an empty queue
	crowded time.Time // when one of it waited last
}

// Waiter is a request that waits.
type Waiter struct {
	Patience time.Duration // after it the owner calls GiveUp

	// Decide is called once with whether the request may start, unless GiveUp is called first. Who called
	// Enter sets it before any other call of the Limiter.
	Decide func(admitted bool)

	flow *Flow
}

// New returns a limiter whose limit is never below least nor above most, and starts in the former's
// neighbourhood.
func New(least, most int) *Limiter {
	return &Limiter{limit: float64(min(most, 2*least+room)), least: float64(least), most: float64(most)}
}

// Limit returns how many requests may compute at once.
func (l *Limiter) Limit() int { return int(l.limit) }

// Busy returns how many requests compute.
func (l *Limiter) Busy() int { return l.busy }

// Waiting returns how many requests wait.
func (l *Limiter) Waiting() int { return l.waiting }

// Enter asks for a request. Outcomes:
//  1. nil: it may start now; Exit is due when it has ended.
//  2. a Waiter: a later call of this Limiter's methods decides.
func (l *Limiter) Enter(f *Flow, now time.Time) *Waiter {
	l.join(f)
	if len(f.queue) == 0 {
		if f.emptied = now; l.free(f) {
			l.start(f)
			return nil
		}
	}
	if l.waiting >= waitersPer*l.Limit() {
		l.shed()
	}
	w := &Waiter{flow: f, Patience: Patience}
	if f.standing(now) {
		w.Patience = Target
	}
	f.queue = append(f.queue, w)
	f.crowded = now
	l.waiting++
	return w
}

// GiveUp takes a waiter back, and reports whether it still waited.
func (l *Limiter) GiveUp(w *Waiter) bool {
	i := slices.Index(w.flow.queue, w)
	if i < 0 {
		return false
	}
	l.remove(w.flow, i)
	l.leave(w.flow)
	return true
}

// Exit ends a request that was admitted. computed is for how long it computed, delayed for how long it
// waited for a processor meanwhile.
func (l *Limiter) Exit(f *Flow, computed, delayed time.Duration, now time.Time) {
	l.ended++
	l.computed += computed
	l.delayed += delayed
	l.adapt(now)
	l.Pause(f, now)
}

// Pause says that a request of a flow waits for the world outside: it does not count until Resume.
func (l *Limiter) Pause(f *Flow, now time.Time) {
	l.busy--
	f.busy--
	l.leave(f)
	l.admit(now)
}

// Resume says that it computes again. It does not wait: what has begun goes before what has not.
func (l *Limiter) Resume(f *Flow) {
	l.join(f)
	l.start(f)
}

// Crowded reports whether a request of the flow had to wait in the time before now, and how many compute.
func (f *Flow) Crowded(within time.Duration, now time.Time) (busy int, crowded bool) {
	return f.busy, now.Sub(f.crowded) <= within
}

// standing reports whether the queue has not been empty for long.
func (f *Flow) standing(now time.Time) bool { return now.Sub(f.emptied) > Patience }

// free reports whether a flow may start one more.
func (l *Limiter) free(f *Flow) bool {
	limit := l.Limit()
	switch {
	case l.busy < limit:
		return true
	case l.busy >= overshoot*limit:
		return false
	}
	return f.busy < max(1, limit/len(l.flows)) // else a neighbour that computes for long would keep it out
}

func (l *Limiter) start(f *Flow) {
	l.busy++
	f.busy++
	if l.busy >= l.Limit() {
		l.reached = true
	}
}

// admit starts those that may start now.
func (l *Limiter) admit(now time.Time) {
	for l.waiting > 0 {
		f := l.next()
		if !l.free(f) {
			return
		}
		i := 0
		if f.standing(now) {
			i = len(f.queue) - 1 // the oldest will hardly be in time
		}
		w := f.queue[i]
		l.remove(f, i)
		l.start(f)
		w.Decide(true)
	}
}

// next returns the flow whose turn it is: of those with a queue the one with the fewest at work.
func (l *Limiter) next() (best *Flow) {
	for _, f := range l.flows {
		if len(f.queue) > 0 && (best == nil || f.busy < best.busy) {
			best = f
		}
	}
	return best
}

// shed refuses the oldest of the longest queue.
func (l *Limiter) shed() {
	f := slices.MaxFunc(l.flows, func(a, b *Flow) int { return len(a.queue) - len(b.queue) })
	w := f.queue[0]
	l.remove(f, 0)
	l.leave(f)
	w.Decide(false)
}

func (l *Limiter) remove(f *Flow, i int) {
	f.queue = slices.Delete(f.queue, i, i+1)
	l.waiting--
}

func (l *Limiter) join(f *Flow) {
	if f.busy == 0 && len(f.queue) == 0 {
		l.flows = append(l.flows, f)
	}
}

// leave forgets a flow without requests.
func (l *Limiter) leave(f *Flow) {
	if f.busy == 0 && len(f.queue) == 0 {
		if i := slices.Index(l.flows, f); i >= 0 {
			l.flows = slices.Delete(l.flows, i, i+1)
		}
	}
}

// adapt moves the limit at the end of a window. Where it was not reached nothing is learned.
func (l *Limiter) adapt(now time.Time) {
	if l.ended < samples || now.Sub(l.began) < window {
		return
	}
	if all := l.computed + l.delayed; l.reached && all > 0 {
		gradient := float64(l.computed) / float64(all)
		l.limit += smoothing * (l.limit*gradient + room - l.limit)
		l.limit = min(l.most, max(l.least, l.limit))
	}
	l.began, l.ended, l.computed, l.delayed, l.reached = now, 0, 0, 0, false
}
