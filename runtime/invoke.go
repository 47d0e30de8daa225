package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/sandbox"
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
	GuestFuel             = abi.Fuel
)

// How the instance of a request was made.
const (
	StartFresh  = "fresh"  // from compiled code, and the guest's start functions ran
	StartImage  = "image"  // from compiled code and an image of a guest that had started
	StartReset  = "reset"  // it served others before, and was restored from the image
	StartShared = "shared" // it served others before, and what they left is there
)

// Overload says what there was not enough of. It is an ErrOverloaded.
type Overload struct {
	Limit  string // LimitConcurrency, LimitNodeMemory or LimitNodeProcessor
	Detail string
}

// Metered is implemented by response writers that want to know what a request has used while it runs.
type Metered interface {
	// Meter is called once, before the guest runs. The function says what was used so far; it may be
	// called by the writer's methods, and after Invoke, but by no other goroutine.
	Meter(func() Usage)
}

// The limits whose names a GuestError's Kind or an Overload does not say otherwise.
const (
	LimitDepth         = abi.LimitDepth   // GuestError.Limit
	LimitConcurrency   = "concurrency"    // limits.concurrency of the function
	LimitNodeMemory    = "node-memory"    // the node's memory for guests; a GuestError's if deep calls needed it; also GuestError.Limit
	LimitNodeProcessor = "node-processor" // guests that compute on the node: its adaptive limit
)

// Error returns the limit and the detail.
func (e *Overload) Error() string { return ErrOverloaded.Error() + ": " + e.Detail }

// Is reports whether target is ErrOverloaded.
func (e *Overload) Is(target error) bool { return target == ErrOverloaded }

// Usage is what one request used. It is filled as far as the request came.
type Usage struct {
	Start       string        // how the instance was made: StartFresh, StartImage, StartReset or StartShared
	Wall        time.Duration // from the making of the instance to the end of the response
	Init        time.Duration // the part of Wall before the guest saw the request
	Guest       time.Duration // the part of Wall in which it did not wait in the host's functions, or for its turn to compute
	Fuel        uint64        // what the guest computed, about one unit an instruction; the same for the same work
	MemoryPages int           // linear memory at its end, in pages of 64 KiB; it never shrinks
	Sent        bool          // response headers have left: the caller can't answer with an error page any more
	BytesIn     int64         // of the request body, as far as it was read
	BytesOut    int64         // of the response body, as the guest wrote it
	Final       bool          // the guest has ended: only Wall goes on, until the response has left
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
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return usage, fmt.Errorf("invoke %s: %w", id, cause) // the client left, and a guest that is stopped costs a new instance
	}
	rev, err := r.acquire(id)
	if err != nil {
		return usage, err
	}
	defer r.release(rev)
	i, err := r.begin(ctx, rev, w)
	if err != nil {
		return usage, err
	}
	if next == nil {
		next = http.NotFoundHandler()
	}
	if end, ok := ctx.Deadline(); rev.timeout > 0 && (!ok || time.Until(end) > rev.timeout) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, rev.timeout, errDeadline)
		defer cancel()
	}
	q := newRequest(r, rev, i, w, req)
	q.computes = r.limit != nil
	if m, ok := w.(Metered); ok {
		m.Meter(q.usage)
	}
	r.config.Metrics.inFlight.Inc()
	defer func() {
		usage = q.end()
		r.config.Metrics.inFlight.Dec()
		r.config.Metrics.logDropped.Add(float64(q.dropped.Load()))
		r.config.Metrics.invokeSeconds.Observe(usage.Wall.Seconds())
		r.config.Metrics.invocations.WithLabelValues(outcome(err)).Inc()
	}()
	defer unblock(ctx, w, q.exchange.Answer)()
	if err = q.run(ctx, next); err != nil {
		return usage, fmt.Errorf("invoke %s: %w", rev.function, err)
	}
	if names := q.exchange.Answer.Dropped(); len(names) > 0 {
		rev.logger.Warn("response headers dropped", "headers", names)
	}
	return usage, nil
}

// acquire finds a revision and counts a request for it.
func (r *Runtime) acquire(id perigee.RevisionID) (*revision, error) {
	r.mu.RLock()
	rev, ok := r.revs[id]
	if !ok {
		r.mu.RUnlock()
		return nil, fmt.Errorf("invoke %s: %w", id, ErrNotLoaded)
	}
	if rev.inFlight.Add(1) > rev.most {
		rev.inFlight.Add(-1)
		r.mu.RUnlock()
		return nil, r.refused(rev, &Overload{Limit: LimitConcurrency, Detail: fmt.Sprintf("%d requests are running", rev.most)})
	}
	rev.refs.Add(1)
	r.active.Add(1)
	r.mu.RUnlock()
	rev.last.Store(time.Now().UnixNano())
	return rev, nil
}

// begin returns an instance for a request that may compute now, after waking its revision if need be.
func (r *Runtime) begin(ctx context.Context, rev *revision, w http.ResponseWriter) (i *sandbox.Instance, err error) {
	if r.limit != nil {
		if err := r.limit.enter(ctx, &rev.flow); err != nil {
			return nil, r.refused(rev, err)
		}
		defer func() {
			if err != nil {
				r.limit.exit(&rev.flow, 0, 0)
			}
		}()
	}
	if rev.asleep.Load() {
		accept(w) // what follows takes a while
		if err := r.wake(ctx, rev); err != nil {
			return nil, fmt.Errorf("invoke %s: %w", rev.function, err)
		}
		r.sleepIdle()
	}
	if i, err = rev.module.Get(); err != nil {
		return nil, r.refused(rev, &Overload{Limit: LimitNodeMemory, Detail: err.Error()})
	}
	accept(w)
	return i, nil
}

func (r *Runtime) release(rev *revision) {
	rev.inFlight.Add(-1)
	rev.unref()
	r.active.Done()
}

// refused counts a request that was not started.
func (r *Runtime) refused(rev *revision, err error) error {
	if full := (*Overload)(nil); errors.As(err, &full) {
		r.config.Metrics.invocations.WithLabelValues("overloaded").Inc()
		r.config.Metrics.refusals.WithLabelValues(full.Limit).Inc()
	}
	return fmt.Errorf("invoke %s: %w", rev.function, err)
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
