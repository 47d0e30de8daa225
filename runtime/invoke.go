package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime/abi"
)

// GuestError is a failure that is the guest's doing: the request failed, the node is fine, and another
// node would see the same.
type GuestError = abi.GuestError

// The kinds of a GuestError.
const (
	GuestTrap             = abi.Trap
	GuestDeadline         = abi.Deadline
	GuestNoResponse       = abi.NoResponse
	GuestResponseTooLarge = abi.ResponseTooLarge
	GuestMemory           = abi.Memory
	GuestBadResponse      = abi.BadResponse
)

// How the instance of a request was made.
const (
	StartFresh = "fresh" // from compiled code, and the guest's start functions ran
	StartImage = "image" // from compiled code and an image of a guest that had started
	StartReset = "reset" // it served others before, and was restored from the image
)

// Usage is what one request used. It is filled as far as the request came.
type Usage struct {
	Start       string        // how the instance was made: StartFresh, StartImage or StartReset
	Wall        time.Duration // from the making of the instance to the end of the response
	Init        time.Duration // the part of Wall before the guest saw the request
	Fuel        uint64        // what the guest computed, about one unit an instruction; the same for the same work
	MemoryPages int           // linear memory at its end, in pages of 64 KiB; it never shrinks
	Sent        bool          // response headers have left: the caller can't answer with an error page any more
	BytesOut    int64         // of the response body, as the guest wrote it
}

// errDeadline is the cause of a request's end at its function's timeout.
var errDeadline = errors.New("limits.timeout")

// Invoke lets an instance of a revision that no other request has touched answer one request through w. next is the handler that
// the guest may call on; nil answers 404. The request itself is not changed. Headers are written to w
// only when they are valid and final; Usage.Sent says whether they were.
//
// Outcomes:
//  1. nil: the response is complete.
//  2. ErrNotLoaded or ErrOverloaded: the guest was not started, nothing was written; another node may
//     be tried.
//  3. a *GuestError: the guest misbehaved. Unless Sent, the caller answers with an error; if Sent, it
//     must abort the response.
//  4. another error: the client or the caller ended the request (the cause of ctx), or the connection
//     failed. What holds for 3 about Sent holds here.
//
// A panic of next is passed on. When the function's timeout ends a request whose client is slow, the
// deadlines of its connection are moved to the past, where w allows it, so that Invoke returns.
func (r *Runtime) Invoke(ctx context.Context, id perigee.RevisionID, w http.ResponseWriter, req *http.Request, next http.Handler) (usage Usage, err error) {
	rev, err := r.acquire(id)
	if err != nil {
		return usage, err
	}
	defer r.release(rev)
	s, start, err := r.slot(rev)
	if err != nil {
		return usage, err
	}
	if next == nil {
		next = http.NotFoundHandler()
	}
	if rev.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, rev.timeout, errDeadline)
		defer cancel()
	}
	var dropped atomic.Int64
	request := *req
	x := &abi.Exchange{
		Request: &request,
		Answer:  abi.NewAnswer(w, req.Method, r.limits),
		Log:     abi.NewLog(rev.logger, rev.logRate, &dropped),
		Limits:  r.limits,
	}
	i := newInstance(r, s, x)
	r.config.Metrics.inFlight.Inc()
	defer func() {
		x.Log.Close()
		r.config.Metrics.inFlight.Dec()
		r.config.Metrics.logDropped.Add(float64(dropped.Load()))
		usage = Usage{
			Start: start, Wall: time.Since(i.started), Init: i.init, Fuel: i.fuel(),
			MemoryPages: int(s.memory.size / pageBytes), Sent: x.Answer.Sent(), BytesOut: x.Answer.Bytes(),
		}
		rev.notePeak(s.memory.size)
		i.end()
		r.config.Metrics.invokeSeconds.Observe(usage.Wall.Seconds())
		r.config.Metrics.invocations.WithLabelValues(outcome(err)).Inc()
	}()
	defer unblock(ctx, w, x.Answer)()
	if err = i.run(ctx, next); err != nil {
		return usage, fmt.Errorf("invoke %s: %w", rev.function, err)
	}
	if names := x.Answer.Dropped(); len(names) > 0 {
		rev.logger.Warn("response headers dropped", "headers", names)
	}
	return usage, nil
}

// slot returns a restored slot, or one that is new, and which it is.
func (r *Runtime) slot(rev *revision) (*slot, string, error) {
	if s := rev.pool.get(); s != nil {
		return s, StartReset, nil
	}
	reserved := rev.peak.Load()
	if !r.budget.take(reserved) {
		return nil, "", r.overloaded(rev, "the node's memory budget is taken")
	}
	s, err := newSlot(rev, reserved, r.budget)
	if err != nil {
		return nil, "", r.overloaded(rev, err.Error())
	}
	if s.memory.Reallocate(uint64(rev.initial)) == nil && rev.initial > 0 {
		s.memory.release()
		return nil, "", r.overloaded(rev, "the system has no memory")
	}
	if s.image.ready {
		return s, StartImage, nil
	}
	return s, StartFresh, nil
}

// dropIdle drops the idle slots of all revisions.
func (r *Runtime) dropIdle() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, rev := range r.revs {
		rev.pool.empty()
	}
}

// acquire finds a revision and takes one of its slots.
func (r *Runtime) acquire(id perigee.RevisionID) (*revision, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rev, ok := r.revs[id]
	if !ok {
		return nil, fmt.Errorf("invoke %s: %w", id, ErrNotLoaded)
	}
	if rev.inFlight.Add(1) > rev.slots {
		rev.inFlight.Add(-1)
		return nil, r.overloaded(rev, fmt.Sprintf("all %d slots are taken", rev.slots))
	}
	rev.refs.Add(1)
	r.active.Add(1)
	return rev, nil
}

func (r *Runtime) release(rev *revision) {
	rev.inFlight.Add(-1)
	rev.unref()
	r.active.Done()
}

func (r *Runtime) overloaded(rev *revision, why string) error {
	r.config.Metrics.invocations.WithLabelValues("overloaded").Inc()
	return fmt.Errorf("invoke %s: %w: %s", rev.function, ErrOverloaded, why)
}

// notePeak keeps the largest memory a request has used.
func (rev *revision) notePeak(size int64) {
	for {
		old := rev.peak.Load()
		if size <= old || rev.peak.CompareAndSwap(old, size) {
			return
		}
	}
}

// unblock arranges that reads from and writes to the client end when ctx does: a guest that waits in
// one sees no deadline of its own. The function that it returns ends the arrangement, and allows
// writing again if nothing was sent yet, so that the caller can answer with an error.
func unblock(ctx context.Context, w http.ResponseWriter, a *abi.Answer) (end func()) {
	c := http.NewResponseController(w)
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // not every writer can
		_ = c.SetWriteDeadline(time.Unix(1, 0))
	})
	return func() {
		if stop() {
			return
		}
		<-done
		if !a.Sent() {
			_ = c.SetWriteDeadline(time.Time{})
		}
	}
}

// outcome is the label of an invocation in the metrics.
func outcome(err error) string {
	var guest *GuestError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &guest):
		return string(guest.Kind)
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "failed"
}
