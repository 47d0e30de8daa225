package runtime

import (
	"slices"
	"sync"
	"time"
)

// idleTime is how long a slot is kept for a request that does not come.
const idleTime = 10 * time.Second

// pool holds the restored slots of a revision. It grows with what is given to it, by as many requests as
// there were at once, and shrinks when they are not needed.
type pool struct {
	mu     sync.Mutex
	slots  []*slot // the last used is last
	timer  *time.Timer
	closed bool
}

// get returns a slot, or nil.
func (p *pool) get() *slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.slots)
	if n == 0 {
		return nil
	}
	s := p.slots[n-1]
	p.slots[n-1] = nil
	p.slots = p.slots[:n-1]
	return s
}

// put keeps a restored slot.
func (p *pool) put(s *slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.drop()
		return
	}
	s.idle = time.Now()
	p.slots = append(p.slots, s)
	if p.timer == nil {
		p.timer = time.AfterFunc(idleTime, p.shrink)
	}
}

// shrink drops the slots that nobody has needed for a while.
func (p *pool) shrink() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	p.dropUntil(time.Now().Add(-idleTime))
	if len(p.slots) > 0 {
		p.timer = time.AfterFunc(idleTime, p.shrink)
	}
}

// dropUntil drops the slots that have been idle since a time or longer.
func (p *pool) dropUntil(t time.Time) {
	p.slots = slices.DeleteFunc(p.slots, func(s *slot) bool {
		old := !s.idle.After(t)
		if old {
			s.drop()
		}
		return old
	})
}

// empty drops all slots: their memory is needed elsewhere.
func (p *pool) empty() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropUntil(time.Now())
}

// close drops all slots, also those to come.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.dropUntil(time.Now())
}
