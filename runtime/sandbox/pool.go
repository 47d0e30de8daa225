package sandbox

import (
	"slices"
	"sync"
	"time"
)

// idleTime is how long an instance is kept for a user that does not come.
const idleTime = 10 * time.Second

// pool holds the restored instances of a module. It grows with what is given to it, by as many users as
// there were at once, and shrinks when they are not needed.
type pool struct {
	mu        sync.Mutex
	instances []*Instance // the last used is last
	timer     *time.Timer
	closed    bool
}

// get returns an instance, or nil.
func (p *pool) get() *Instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.instances)
	if n == 0 {
		return nil
	}
	s := p.instances[n-1]
	p.instances[n-1] = nil
	p.instances = p.instances[:n-1]
	return s
}

// put keeps a restored instance.
func (p *pool) put(s *Instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.drop()
		return
	}
	s.idle = time.Now()
	p.instances = append(p.instances, s)
	if p.timer == nil {
		p.timer = time.AfterFunc(idleTime, p.shrink)
	}
}

// shrink drops the instances that nobody has needed for a while.
func (p *pool) shrink() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	p.dropUntil(time.Now().Add(-idleTime))
	if len(p.instances) > 0 {
		p.timer = time.AfterFunc(idleTime, p.shrink)
	}
}

// dropUntil drops the instances that have been idle since a time or longer.
func (p *pool) dropUntil(t time.Time) {
	p.instances = slices.DeleteFunc(p.instances, func(s *Instance) bool {
		old := !s.idle.After(t)
		if old {
			s.drop()
		}
		return old
	})
}

// empty drops all instances: their memory is needed elsewhere.
func (p *pool) empty() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropUntil(time.Now())
}

// close drops all instances, also those to come.
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
