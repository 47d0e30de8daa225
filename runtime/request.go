package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/cgi"
	"github.com/perigee-edge/perigee/runtime/abi/outbound"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// request is one request's use of an instance.
type request struct {
	runtime  *Runtime
	rev      *revision
	instance *sandbox.Instance
	exchange *abi.Exchange
	system   *wasip1.System
	outbound *outbound.Call
	command  *cgi.Call       // of a command
	idle     func()          // sends what the guest has written so far
	ctx      context.Context // of the guest's calls, for host functions that are not given one
	started  time.Time
	init     time.Duration // until the guest saw the request
	bytesIn  atomic.Int64  // of the body; the handler that a guest wraps may read it from elsewhere
	dropped  atomic.Int64  // bytes of log
	features uint32        // of http-wasm, that the guest enabled when it started
	computes bool          // it counts with the node's limiter
	served   bool          // the guest has ended and left a response
	clean    bool          // the response has left, and nothing went wrong
	last     *Usage        // when the instance is another's
}

func newRequest(r *Runtime, rev *revision, i *sandbox.Instance, w http.ResponseWriter, req *http.Request) *request {
	q := &request{runtime: r, rev: rev, instance: i, features: rev.features, started: time.Now()}
	in := *req
	if in.Body != nil && in.Body != http.NoBody {
		in.Body = counted{in.Body, &q.bytesIn}
	}
	q.exchange = &abi.Exchange{
		Request: &in,
		Answer:  abi.NewAnswer(w, req.Method, r.limits),
		Log:     abi.NewLog(rev.logger, rev.logRate, &q.dropped),
		Limits:  r.limits,
		Await:   q.await,
	}
	q.exchange.Log.Tag(req.Header.Get(abi.RequestID), rev.keep)
	q.outbound = outbound.NewCall(q.exchange, rev.sender)
	q.idle = func() {
		if a := q.exchange.Answer; a.Waits() {
			q.exchange.Must(a.Flush())
		}
	}
	c := wasip1.Config{
		Args: []string{rev.function}, Env: rev.environ, Files: rev.files,
		Stdout: q.exchange.Log.Stream(slog.LevelInfo), Stderr: q.exchange.Log.Stream(slog.LevelWarn),
		Sleep: q.sleep, Check: q.check,
	}
	if rev.program.system != nil {
		rev.program.system(q, &c)
	}
	q.system = wasip1.New(c)
	return q
}

// counted counts what is read of a body.
type counted struct {
	io.ReadCloser
	bytes *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes.Add(int64(n))
	return n, err
}

// bind returns the context for the guest's calls.
func (q *request) bind(ctx context.Context) context.Context {
	q.ctx = q.system.Context(ctx)
	return q.ctx
}

// run lets the guest answer, in an instance that is started first if it is new.
func (q *request) run(ctx context.Context, next http.Handler) error {
	ctx = q.bind(q.instance.Begin(ctx, q.rev.fuel))
	i := q.instance
	if err := i.Start(ctx); err != nil {
		return q.diagnose(ctx, err, "while it started")
	}
	if !i.Used() && !q.rev.module.Started() {
		if err := q.rev.program.start(ctx, q); err != nil {
			return q.diagnose(ctx, err, "while it started")
		}
	}
	q.init = time.Since(q.started)
	err := q.rev.program.serve(ctx, q, next)
	if err == nil {
		err = i.CheckFuel()
	}
	if err != nil {
		return q.diagnose(ctx, err, "")
	}
	q.served = true
	q.rest()
	err = q.exchange.Answer.Finish()
	var guest *GuestError
	q.clean = !errors.As(err, &guest) // a client that left says nothing about the instance
	if err != nil {
		q.exchange.Note(err)
		return q.diagnose(ctx, err, "")
	}
	return nil
}

// await runs f, in which the guest waits for the world outside.
func (q *request) await(f func()) {
	if q.computes {
		q.runtime.limit.outside(&q.rev.flow, func() { q.instance.Await(q.ctx, f) })
		return
	}
	q.instance.Await(q.ctx, f)
}

// rest gives back the request's place among those that compute.
func (q *request) rest() {
	if q.computes {
		q.computes = false
		q.runtime.limit.exit(&q.rev.flow, time.Since(q.started)-q.instance.Waited(), q.instance.Delayed())
	}
}

// how says how the instance was made.
func (q *request) how() string {
	switch {
	case q.instance.Used() && q.instance.Shared():
		return StartShared
	case q.instance.Used():
		return StartReset
	case q.rev.module.Started():
		return StartImage
	}
	return StartFresh
}

// usage returns what was used so far.
func (q *request) usage() Usage {
	if q.last != nil {
		return *q.last
	}
	wall := time.Since(q.started)
	return Usage{
		Start: q.how(), Wall: wall, Init: q.init, Guest: wall - q.instance.Waited(), Fuel: q.instance.Fuel(),
		MemoryPages: int(q.instance.MemorySize() / pageBytes), Sent: q.exchange.Answer.Sent(),
		BytesIn: q.bytesIn.Load(), BytesOut: q.exchange.Answer.Bytes(), Final: q.served,
	}
}

// close gives up what the request held besides its instance.
func (q *request) close() {
	q.outbound.Close()
	q.exchange.Log.Close()
	q.system.Close()
}

// end gives the instance to the next request, and keeps what this one used.
func (q *request) end() Usage {
	q.rest()
	q.close()
	u := q.usage()
	q.last = &u
	q.instance.End(q.clean)
	return u
}

// sleep is how a guest waits. What it has written so far leaves first, so that events reach the client
// when they happen; the end of the request ends the sleep.
func (q *request) sleep(d time.Duration) {
	x := q.exchange
	x.Await(func() {
		q.idle()
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-q.ctx.Done():
			x.Fail(context.Cause(q.ctx))
		}
	})
}

// check ends the guest's call when its request is over.
func (q *request) check() {
	if q.ctx.Err() != nil {
		q.exchange.Fail(context.Cause(q.ctx))
	}
}

// diagnose turns how a request ended into the error that the caller of Invoke sees. err is what the
// engine returned; what ended the request otherwise is noted in the exchange.
func (q *request) diagnose(ctx context.Context, err error, when string) error {
	noted := q.exchange.Err()
	var guest *GuestError
	if errors.As(noted, &guest) {
		return noted
	}
	if cause := context.Cause(ctx); cause != nil && (noted != nil || errors.Is(err, cause)) {
		if errors.Is(cause, errDeadline) || errors.Is(cause, context.DeadlineExceeded) {
			return &GuestError{Kind: GuestDeadline, Detail: fmt.Sprintf("still running after %v", time.Since(q.started).Round(time.Millisecond))}
		}
		return cause
	}
	if noted != nil {
		return noted
	}
	q.exchange.Log.Close() // its last line may say why
	guest = &GuestError{Kind: GuestTrap}
	denied := q.instance.Denied()
	var told *GuestError // by its ABI
	var exit *sys.ExitError
	switch {
	case errors.As(err, &told):
		if told.Kind != GuestTrap || denied == "" {
			return told
		}
		guest.Detail = told.Detail
	case errors.Is(err, sandbox.ErrFuel):
		return &GuestError{Kind: GuestFuel, Detail: fmt.Sprintf("it used more than limits.fuel = %d", q.rev.fuel)}
	case errors.Is(err, sandbox.ErrTooDeep):
		return &GuestError{Kind: GuestTrap, Limit: LimitDepth, Detail: "stack overflow: " + sandbox.ErrTooDeep.Error()}
	case errors.Is(err, sandbox.ErrStack):
		return &GuestError{Kind: GuestMemory, Limit: LimitNodeMemory, Detail: sandbox.ErrStack.Error()}
	case errors.As(err, &exit) && exit.ExitCode() == 0:
		guest.Kind, guest.Detail = GuestNoResponse, "it exited with code 0 before it answered"
	case errors.As(err, &exit):
		guest.Detail = fmt.Sprintf("it exited with code %d", exit.ExitCode())
	default:
		guest.Detail, _, _ = strings.Cut(err.Error(), "\n")
		guest.Detail = strings.TrimSuffix(guest.Detail, " (recovered by wazero)")
	}
	if denied != "" {
		guest.Kind, guest.Detail = GuestMemory, denied+"; then: "+guest.Detail
	}
	for _, more := range []string{when, crash(q.exchange.Log)} {
		if more != "" {
			guest.Detail += " " + more
		}
	}
	return guest
}

// crash is what the guest said in its log of why it crashed.
func crash(l *abi.Log) string {
	if s := l.Crash(); s != "" {
		return "(" + s[:min(len(s), 200)] + ")"
	}
	return ""
}
