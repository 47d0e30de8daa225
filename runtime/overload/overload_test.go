package overload

import (
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

// at is a time after the start.
func at(d time.Duration) time.Time { return start.Add(d) }

// decision is what became of a request.
type decision struct {
	*Waiter
	said []bool
}

// enter asks for a request; one that need not wait is said to be admitted.
func enter(l *Limiter, f *Flow, now time.Time) *decision {
	d := &decision{Waiter: l.Enter(f, now)}
	if d.Waiter == nil {
		d.said = append(d.said, true)
		return d
	}
	d.Decide = func(admitted bool) { d.said = append(d.said, admitted) }
	return d
}

func (d *decision) is(admitted bool) bool { return len(d.said) == 1 && d.said[0] == admitted }

// fill has a flow compute as much as it may.
func fill(t *testing.T, l *Limiter, f *Flow) {
	t.Helper()
	for l.Busy() < l.Limit() {
		if l.Enter(f, at(0)) != nil {
			t.Fatalf("%d of %d compute, and the next has to wait", l.Busy(), l.Limit())
		}
	}
}

func TestOldestFirst(t *testing.T) {
	l, f := New(1, 8), &Flow{}
	fill(t, l, f)
	a, b := enter(l, f, at(0)), enter(l, f, at(time.Millisecond))
	if a.Patience != Patience || len(a.said)+len(b.said) > 0 || l.Waiting() != 2 {
		t.Fatalf("a short queue: patience %v, %d wait", a.Patience, l.Waiting())
	}
	l.Exit(f, time.Millisecond, 0, at(2*time.Millisecond))
	if !a.is(true) || len(b.said) > 0 || l.Busy() != l.Limit() {
		t.Errorf("said %v and %v", a.said, b.said)
	}
	if !l.GiveUp(b.Waiter) || l.GiveUp(b.Waiter) || l.GiveUp(a.Waiter) || l.Waiting() != 0 {
		t.Error("given up wrongly")
	}
}

// TestStandingQueue checks that a queue which does not get empty serves the newest and lets none wait for
// long, until it was empty.
func TestStandingQueue(t *testing.T) {
	l, f := New(1, 8), &Flow{}
	fill(t, l, f)
	old := enter(l, f, at(0))
	late := at(Patience + time.Millisecond)
	young := enter(l, f, late)
	if young.Patience != Target {
		t.Errorf("patience %v in a queue that stays", young.Patience)
	}
	l.Exit(f, time.Millisecond, 0, late)
	if !young.is(true) || len(old.said) > 0 {
		t.Fatal("the oldest was served")
	}
	l.GiveUp(old.Waiter)
	if again := enter(l, f, late); again.Patience != Patience {
		t.Errorf("patience %v after it was empty", again.Patience)
	}
}

// TestOutsideDoesNotCount checks that who waits for something outside takes no place, and comes back
// without waiting.
func TestOutsideDoesNotCount(t *testing.T) {
	l, f := New(1, 8), &Flow{}
	for range 1000 {
		if l.Enter(f, at(0)) != nil {
			t.Fatal("refused though nobody computes")
		}
		l.Pause(f, at(0))
	}
	for range 1000 {
		l.Resume(f)
	}
	if l.Busy() != 1000 || l.Enter(f, at(0)) == nil {
		t.Errorf("%d compute, and one more may", l.Busy())
	}
}

// TestNeighbours checks that a flow which takes all does not keep another out, nor starves it in the queue,
// and that many flows together are bounded as well.
func TestNeighbours(t *testing.T) {
	l, greedy, modest := New(2, 8), &Flow{}, &Flow{}
	fill(t, l, greedy)
	crowd := enter(l, greedy, at(0))
	share := l.Limit() / 2
	for range share {
		if !enter(l, modest, at(0)).is(true) {
			t.Fatalf("%d of a share of %d compute", modest.busy, share)
		}
	}
	next := enter(l, modest, at(0))
	if next.Waiter == nil {
		t.Fatal("more than its share")
	}
	for range share { // what they have above the limit
		l.Exit(greedy, time.Millisecond, 0, at(0))
	}
	l.Exit(modest, time.Millisecond, 0, at(0))
	if !next.is(true) || len(crowd.said) > 0 {
		t.Errorf("the flow with fewer at work: %v, the other %v", next.said, crowd.said)
	}

	l = New(2, 8)
	for range 1000 {
		enter(l, &Flow{}, at(0))
	}
	if l.Busy() > overshoot*l.Limit() {
		t.Errorf("%d flows compute at a limit of %d", l.Busy(), l.Limit())
	}
}

// TestLongestQueueIsShed checks that queues are bounded at the expense of who has the longest.
func TestLongestQueueIsShed(t *testing.T) {
	l, greedy, modest := New(1, 4), &Flow{}, &Flow{}
	fill(t, l, greedy)
	for l.Busy() < overshoot*l.Limit() { // the other's share, and beyond: from here on all wait
		l.Resume(modest)
	}
	first := enter(l, greedy, at(0))
	second := enter(l, greedy, at(0))
	mine := enter(l, modest, at(0))
	for l.Waiting() < waitersPer*l.Limit() {
		enter(l, greedy, at(0))
	}
	newest := enter(l, greedy, at(0))
	if !first.is(false) || len(second.said)+len(mine.said)+len(newest.said) > 0 || l.Waiting() != waitersPer*l.Limit() {
		t.Errorf("shed %v, %v, %v, %v; %d wait", first.said, second.said, mine.said, newest.said, l.Waiting())
	}
}

// TestLimit checks that the limit comes to what the processors can do and a little more, that it rises only
// where it is reached, and stays within its bounds.
func TestLimit(t *testing.T) {
	const processors = 4
	f, now := &Flow{}, at(0)
	settle := func(l *Limiter, processors float64) {
		for range 3000 {
			for l.Busy() < l.Limit() {
				l.Enter(f, now)
			}
			delayed := time.Duration(0) // as processor sharing has it
			if n := float64(l.Busy()); n > processors {
				delayed = time.Duration(float64(10*time.Millisecond) * (n/processors - 1))
			}
			now = now.Add(10 * time.Millisecond)
			l.Exit(f, 10*time.Millisecond, delayed, now)
		}
	}
	l := New(processors, 32*processors)
	if settle(l, processors); l.Limit() < processors+1 || l.Limit() > processors+room {
		t.Errorf("limit %d for %d processors", l.Limit(), processors)
	}
	if settle(l, 0.1); l.Limit() != processors {
		t.Errorf("limit %d where nothing fits; it is not to fall below %d", l.Limit(), processors)
	}
	if settle(l, 1e9); l.Limit() != 32*processors {
		t.Errorf("limit %d where nothing is delayed; it is to rise to %d", l.Limit(), 32*processors)
	}

	l = New(processors, 32*processors)
	before := l.Limit()
	f = &Flow{}
	for i := range 1000 {
		l.Enter(f, at(0))
		l.Exit(f, time.Millisecond, 0, at(time.Duration(i)*10*time.Millisecond))
	}
	if l.Limit() != before {
		t.Errorf("limit %d, was %d and never reached", l.Limit(), before)
	}
}

func TestCrowded(t *testing.T) {
	l, f := New(1, 8), &Flow{}
	fill(t, l, f)
	if _, yes := f.Crowded(time.Second, at(0)); yes {
		t.Error("nobody had to wait")
	}
	enter(l, f, at(0))
	if busy, yes := f.Crowded(time.Second, at(time.Second)); !yes || busy != l.Limit() {
		t.Errorf("%d compute, crowded %v", busy, yes)
	}
	if _, yes := f.Crowded(time.Second, at(2*time.Second)); yes {
		t.Error("that was long ago")
	}
}
