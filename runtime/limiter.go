package runtime

import (
	"context"
	"fmt"
	"net/http"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/runtime/overload"
)

// mostPerProcessor bounds the adaptive limit: guests at once for each processor, waiting ones left out.
const mostPerProcessor = 32

// crowdedFor is how long Stats says that a revision is full after one of its requests had to wait. Entry
// nodes believe a report for as long.
const crowdedFor = time.Second

// limiter bounds the guests that compute at once; package overload says how. Those that wait for something
// outside do not count. It is safe for concurrent use.
type limiter struct {
	metrics *Metrics

	mu   sync.Mutex // guards core, and the flows of all revisions
	core *overload.Limiter
}

func newLimiter(m *Metrics) *limiter {
	n := goruntime.GOMAXPROCS(0)
	return &limiter{metrics: m, core: overload.New(n, mostPerProcessor*n)}
}

// enter waits for a place among the guests that compute, for a short time. Errors: an *Overload, or the
// cause of ctx.
func (l *limiter) enter(ctx context.Context, f *overload.Flow) error {
	began := time.Now()
	l.mu.Lock()
	w := l.core.Enter(f, began)
	if w == nil {
		l.unlock()
		return nil
	}
	decided := make(chan bool, 1)
	w.Decide = func(admitted bool) { decided <- admitted }
	busy, waiting := l.core.Busy(), l.core.Waiting()
	l.unlock()
	defer func() { l.metrics.queueSeconds.Observe(time.Since(began).Seconds()) }()
	patience := time.NewTimer(w.Patience)
	defer patience.Stop()
	select {
	case admitted := <-decided:
		return l.verdict(admitted, busy, waiting)
	case <-patience.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	gone := l.core.GiveUp(w)
	l.unlock()
	switch {
	case !gone: // it was decided at the same moment
		return l.verdict(<-decided, busy, waiting)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return l.verdict(false, busy, waiting)
}

func (l *limiter) verdict(admitted bool, busy, waiting int) error {
	if admitted {
		return nil
	}
	return &Overload{Limit: LimitNodeProcessor, Detail: fmt.Sprintf("%d requests computed on this node and %d waited", busy, waiting)}
}

// exit ends what enter allowed.
func (l *limiter) exit(f *overload.Flow, computed, delayed time.Duration) {
	l.mu.Lock()
	l.core.Exit(f, computed, delayed, time.Now())
	l.unlock()
}

// outside runs what waits for something outside.
func (l *limiter) outside(f *overload.Flow, wait func()) {
	l.mu.Lock()
	l.core.Pause(f, time.Now())
	l.unlock()
	defer func() { // also if it ends the guest's call
		l.mu.Lock()
		l.core.Resume(f)
		l.unlock()
	}()
	wait()
}

// unlock shows the core's numbers and unlocks mu.
func (l *limiter) unlock() {
	l.metrics.computing.Set(float64(l.core.Busy()))
	l.metrics.limit.Set(float64(l.core.Limit()))
	l.mu.Unlock()
}

// crowded reports whether a request of the flow had to wait lately, and how many of it compute.
func (l *limiter) crowded(f *overload.Flow) (busy int, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.Crowded(crowdedFor, time.Now())
}

// Accepter is implemented by response writers that want to know when a request is sure to be worked on.
type Accepter interface {
	// Accept is called before the guest runs, maybe more than once. After it Invoke returns an
	// ErrOverloaded or ErrNotLoaded only if this node turns out to lack the memory or the code.
	Accept()
}

func accept(w http.ResponseWriter) {
	if a, ok := w.(Accepter); ok {
		a.Accept()
	}
}
