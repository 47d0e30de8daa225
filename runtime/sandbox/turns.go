package sandbox

import (
	"context"
	goruntime "runtime"
	"slices"
	"sync"
)

// turns lets a bounded number of guests compute at once, so that the collector and the network have
// processors of their own. A guest needs a turn once it has used up its first grant of fuel: short calls
// never wait. A turn lasts for one grant. Of those that wait the one that had the fewest turns comes first
// (least attained service), but every fourth turn is for who has waited longest, so that nobody waits for
// ever.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting []waiter // the longest first
	served  int      // turns given to who waited
}

type waiter struct {
	had  int           // turns so far
	come chan struct{} // closed when its turn has come
}

// take waits for a turn, of a guest that had so many. It returns false when ctx ends first.
func (t *turns) take(ctx context.Context, had int) bool {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return true
	}
	return t.wait(ctx, had)
}

// pass gives the turn to the next and waits for another. Where nobody waits it is kept, but goroutines get
// the processor.
func (t *turns) pass(ctx context.Context, had int) bool {
	t.mu.Lock()
	if len(t.waiting) == 0 {
		t.mu.Unlock()
		goruntime.Gosched()
		return true
	}
	t.next()
	return t.wait(ctx, had)
}

// give gives a turn back.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.free++
		return
	}
	t.next()
}

// next hands a turn to one that waits. The caller holds mu.
func (t *turns) next() {
	first := 0
	if t.served++; t.served%4 != 0 {
		for i, w := range t.waiting {
			if w.had < t.waiting[first].had {
				first = i
			}
		}
	}
	close(t.waiting[first].come)
	t.waiting = slices.Delete(t.waiting, first, first+1)
}

// wait joins the queue. The caller holds mu, which is released.
func (t *turns) wait(ctx context.Context, had int) bool {
	come := make(chan struct{})
	t.waiting = append(t.waiting, waiter{had, come})
	t.mu.Unlock()
	select {
	case <-come:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	if i := slices.IndexFunc(t.waiting, func(w waiter) bool { return w.come == come }); i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
		t.mu.Unlock()
		return false
	}
	t.mu.Unlock()
	t.give() // it came at the same moment
	return false
}
