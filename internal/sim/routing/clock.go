package routing

import (
	"container/heap"
	"time"
)

// clock is simulated time: a queue of what will happen.
type clock struct {
	now    time.Duration // since the start
	serial int
	events events
}

// event is something that happens; of two at one time the earlier made comes first.
type event struct {
	at     time.Duration
	serial int
	do     func()
}

// after has something happen later.
func (c *clock) after(d time.Duration, do func()) {
	c.serial++
	heap.Push(&c.events, event{c.now + d, c.serial, do})
}

// run lets happen what there is, up to a time.
func (c *clock) run(until time.Duration) {
	for len(c.events) > 0 && c.events[0].at < until {
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	c.now = until
}

// time returns now as package placement wants it.
func (c *clock) time() time.Time { return time.Unix(0, 0).Add(c.now) }

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}
