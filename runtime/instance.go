package runtime

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// instance is one request's use of a slot.
type instance struct {
	runtime  *Runtime
	slot     *slot
	exchange *abi.Exchange
	call     *httpwasm.Call
	ctx      context.Context // of the guest's calls; for the engine's sleep, which is not given one
	started  time.Time
	init     time.Duration // until the guest saw the request
	granted  int64         // fuel that the guest was given
	tainted  bool          // the guest changed what can't be restored
	done     bool          // the guest answered, and nothing went wrong
}

func newInstance(r *Runtime, s *slot, x *abi.Exchange) *instance {
	return &instance{runtime: r, slot: s, exchange: x, call: httpwasm.NewCall(x), started: time.Now()}
}

// begin binds the slot to the request, and returns the context for the guest's calls.
func (i *instance) begin(ctx context.Context) context.Context {
	i.ctx = context.WithValue(i.call.Context(ctx), instanceKey{}, i)
	i.slot.begin(i)
	return i.ctx
}

// run lets the guest answer, in an instance that is made if the slot has none yet.
func (i *instance) run(ctx context.Context, next http.Handler) error {
	ctx = i.begin(ctx)
	s := i.slot
	if s.mod == nil {
		if err := s.start(ctx, i.runtime.engine); err != nil {
			return i.diagnose(ctx, err, "while it started")
		}
	}
	if s.image.ready {
		i.call.SetFeatures(s.image.features)
		i.granted = grant
		s.fuel.Set(grant)
	}
	i.init = time.Since(i.started)
	if err := i.call.Serve(ctx, s.guest, next); err != nil {
		return i.diagnose(ctx, err, "")
	}
	if err := i.exchange.Answer.Finish(); err != nil {
		i.exchange.Note(err)
		return i.diagnose(ctx, err, "")
	}
	i.done = true
	return nil
}

// fuel returns what the guest has used.
func (i *instance) fuel() uint64 {
	if i.slot.fuel == nil { // it ended before there was an instance
		return uint64(i.granted)
	}
	return uint64(i.granted - int64(i.slot.fuel.Get()))
}

// end gives the slot to the next request, restored, or drops it.
func (i *instance) end() {
	s := i.slot
	s.at = nil
	if i.done && !i.tainted && s.rev.restorable && i.runtime.restore(s) {
		s.rev.pool.put(s)
		return
	}
	s.drop()
}

// sleep is how a guest waits. What it has written so far leaves first, so that events reach the client
// when they happen; the end of the request ends the sleep.
func (i *instance) sleep(d time.Duration) {
	if a := i.exchange.Answer; a.Started() {
		i.exchange.Must(a.Flush())
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-i.ctx.Done():
		i.exchange.Fail(context.Cause(i.ctx))
	}
}

// diagnose turns how a request ended into the error that the caller of Invoke sees. err is what the
// engine returned; what ended the request otherwise is noted in the exchange.
func (i *instance) diagnose(ctx context.Context, err error, when string) error {
	noted := i.exchange.Err()
	var guest *GuestError
	if errors.As(noted, &guest) {
		return noted
	}
	var exit *sys.ExitError
	exited := errors.As(err, &exit)
	if cause := context.Cause(ctx); cause != nil && noted != nil {
		if errors.Is(cause, errDeadline) || errors.Is(cause, context.DeadlineExceeded) {
			return &GuestError{Kind: GuestDeadline, Detail: fmt.Sprintf("still running after %v", time.Since(i.started).Round(time.Millisecond))}
		}
		return cause
	}
	if noted != nil {
		return noted
	}
	i.exchange.Log.Close() // its last line may say why
	guest = &GuestError{Kind: GuestTrap}
	switch {
	case exited && exit.ExitCode() == 0:
		guest.Kind, guest.Detail = GuestNoResponse, "it exited with code 0 before it answered"
	case exited:
		guest.Detail = fmt.Sprintf("it exited with code %d", exit.ExitCode())
	default:
		guest.Detail, _, _ = strings.Cut(err.Error(), "\n")
		guest.Detail = strings.TrimSuffix(guest.Detail, " (recovered by wazero)")
	}
	if i.slot.memory.denied != "" && guest.Kind == GuestTrap {
		guest.Kind, guest.Detail = GuestMemory, i.slot.memory.denied+"; then: "+guest.Detail
	}
	for _, more := range []string{when, crash(i.exchange.Log)} {
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
