package overload

import (
	"time"

	"github.com/perigee-edge/perigee/runtime/overload"
)

// gate decides which requests a worker works on.
type gate interface {
	Enter(now time.Time) *overload.Waiter
	GiveUp(w *overload.Waiter) bool
	// Exit ends a request: how long it was inside, computed, and waited for a processor meanwhile.
	Exit(took, computed, delayed time.Duration, now time.Time)
	Pause(now time.Time)
	Resume()
}

// Limit is a way to find how many requests may be inside.
type Limit string

// The ways. All but Ours know only how long a request was inside, as concurrency-limits does.
const (
	Ours      Limit = "ours"      // runtime/overload
	Few       Limit = "fixed 8"   // two for each processor
	Many      Limit = "fixed 64"  // sixteen
	AIMD      Limit = "AIMD"      // one more, or a tenth less when a request takes 200 ms
	Vegas     Limit = "Vegas"     // by the shortest time ever seen
	Gradient2 Limit = "Gradient2" // by the average of long
)

// Limits lists them.
func Limits() []Limit { return []Limit{Ours, Few, Many, AIMD, Vegas, Gradient2} }

func newGate(l Limit) gate {
	switch l {
	case Ours:
		return production{overload.New(processors, 64*processors), &overload.Flow{}}
	case Few:
		return &classic{rule: fixed(2 * processors)}
	case Many:
		return &classic{rule: fixed(16 * processors)}
	case AIMD:
		return &classic{rule: &aimd{limit: firstLimit}}
	case Vegas:
		return &classic{rule: &vegas{limit: firstLimit}}
	}
	return &classic{rule: &gradient2{limit: firstLimit}}
}

// production is the limiter of a node, with one function.
type production struct {
	*overload.Limiter
	flow *overload.Flow
}

func (p production) Enter(now time.Time) *overload.Waiter { return p.Limiter.Enter(p.flow, now) }
func (p production) Pause(now time.Time)                  { p.Limiter.Pause(p.flow, now) }
func (p production) Resume()                              { p.Limiter.Resume(p.flow) }

func (p production) Exit(_, computed, delayed time.Duration, now time.Time) {
	p.Limiter.Exit(p.flow, computed, delayed, now)
}

// classic is a limit on all that is inside, whatever it does there, before the queue of runtime/overload.
type classic struct {
	rule
	busy    int
	queue   []*overload.Waiter // the oldest first
	emptied time.Time
}

const waitersPer = 64 // as in runtime/overload

// Enter asks for a request.
func (c *classic) Enter(now time.Time) *overload.Waiter {
	if len(c.queue) == 0 {
		if c.emptied = now; c.busy < c.Limit() {
			c.busy++
			return nil
		}
	}
	if len(c.queue) >= waitersPer*c.Limit() {
		oldest := c.queue[0]
		c.queue = c.queue[1:]
		oldest.Decide(false)
	}
	w := &overload.Waiter{Patience: overload.Patience}
	if c.standing(now) {
		w.Patience = overload.Target
	}
	c.queue = append(c.queue, w)
	return w
}

func (c *classic) standing(now time.Time) bool { return now.Sub(c.emptied) > overload.Patience }

// GiveUp takes a waiter back.
func (c *classic) GiveUp(w *overload.Waiter) bool {
	c.queue = without(c.queue, w)
	return true
}

// Exit ends a request.
func (c *classic) Exit(took, _, _ time.Duration, now time.Time) {
	c.Ended(took, c.busy)
	c.busy--
	for len(c.queue) > 0 && c.busy < c.Limit() {
		i := 0
		if c.standing(now) {
			i = len(c.queue) - 1
		}
		w := c.queue[i]
		c.queue = without(c.queue, w)
		c.busy++
		w.Decide(true)
	}
}

// Pause and Resume change nothing: from outside nobody sees what a request does.
func (c *classic) Pause(time.Time) {}

// Resume is the end of a Pause.
func (c *classic) Resume() {}
