package node

import (
	"maps"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// rests keeps how long each function is idle here between requests. The zero value is ready; it is safe for
// concurrent use.
type rests struct {
	mu   sync.Mutex // guards all
	idle map[string]*placement.Idle
}

// shortRest is what is counted without a lock: most of the idle times of what is busy.
const shortRest = time.Minute

// asked notes that a request asks for a revision now.
func (r *rests) asked(h *holding, now time.Time) {
	rest := now.Sub(time.Unix(0, h.used.Swap(now.UnixNano())))
	if rest < shortRest {
		h.short.Add(1)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ofLocked(h).Add(rest, 1)
}

// ofLocked returns the idle times of a holding's function.
func (r *rests) ofLocked(h *holding) *placement.Idle {
	name := h.rev.Manifest.Name
	i := r.idle[name]
	if i == nil {
		if r.idle == nil {
			r.idle = map[string]*placement.Idle{}
		}
		i = &placement.Idle{}
		r.idle[name] = i
	}
	if n := h.short.Swap(0); n > 0 {
		i.Add(0, n)
	}
	return i
}

// loaded reports whether a revision that is loaded is to stay so, after it was idle for a time.
func (r *rests) loaded(h *holding, idle time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ofLocked(h).Loaded(idle, unloadGrace)
}

// awaited reports whether a request for a revision that is not loaded is likely to come soon. Of one that was
// idle for longer than usual none is.
func (r *rests) awaited(h *holding, now time.Time) bool {
	used := h.used.Load()
	if used == 0 {
		return false
	}
	idle := now.Sub(time.Unix(0, used))
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.ofLocked(h)
	from, _ := i.Windows()
	return from > 0 && idle >= from && i.Loaded(idle, 0)
}

// forget drops the functions that are gone.
func (r *rests) forget(functions map[string]*perigee.Function) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.idle, func(name string, _ *placement.Idle) bool { return functions[name] == nil })
}
