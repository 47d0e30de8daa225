package sandbox

import (
	"context"
	goruntime "runtime"
	"sync"
)

// turns lets a bounded number of guests compute at once, so that the collector and the network have
// processors of their own. A guest needs a turn once it has used up its first grant of fuel: short calls
// never wait. A turn lasts for one grant. Those that wait are served in the order of their coming.
type turns struct {
	mu      sync.Mutex
	free    int
	waiting []chan struct{} // closed when the turn has come
}

// take waits for a turn. It returns false when ctx ends first.
func (t *turns) take(ctx context.Context) bool {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return true
	}
	return t.wait(ctx)
}

// pass gives the turn to the next and waits for another. Where nobody waits it is kept, but goroutines get
// the processor.
func (t *turns) pass(ctx context.Context) bool {
	t.mu.Lock()
	if len(t.waiting) == 0 {
		t.mu.Unlock()
		goruntime.Gosched()
		return true
	}
	t.next()
	return t.wait(ctx)
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

// next hands a turn to who has waited longest. The caller holds mu.
func (t *turns) next() {
	close(t.waiting[0])
	t.waiting[0] = nil
	t.waiting = t.waiting[1:]
}

// wait joins the queue. The caller holds mu, which is released.
func (t *turns) wait(ctx context.Context) bool {
	come := make(chan struct{})
	t.waiting = append(t.waiting, come)
	t.mu.Unlock()
	select {
	case <-come:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	for i, c := range t.waiting {
		if c == come {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			t.mu.Unlock()
			return false
		}
	}
	t.mu.Unlock()
	t.give() // it came at the same moment
	return false
}
