package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// instance is one instance of a module, made for one request.
type instance struct {
	runtime  *Runtime
	rev      *revision
	memory   *memory
	exchange *abi.Exchange
	started  time.Time
	init     time.Duration // until the guest saw the request
}

// run makes the instance, lets it answer, and drops it.
func (i *instance) run(ctx context.Context, next http.Handler) error {
	x := i.exchange
	call := httpwasm.NewCall(x)
	ctx = call.Context(ctx)
	mod, err := i.runtime.engine.InstantiateModule(experimental.WithMemoryAllocator(ctx, i.memory), i.rev.code, i.config(ctx))
	if err != nil {
		return i.diagnose(ctx, err, "while it started")
	}
	defer func() { _ = mod.Close(context.WithoutCancel(ctx)) }()
	i.init = time.Since(i.started)
	if err := call.Serve(ctx, mod, next); err != nil {
		return i.diagnose(ctx, err, "")
	}
	if err := x.Answer.Finish(); err != nil {
		x.Note(err)
		return i.diagnose(ctx, err, "")
	}
	return nil
}

// config is the instance's part of the module's configuration.
func (i *instance) config(ctx context.Context) wazero.ModuleConfig {
	log := i.exchange.Log
	c := i.rev.config.
		WithStdout(log.Stream(slog.LevelInfo)).
		WithStderr(log.Stream(slog.LevelWarn)).
		WithNanosleep(func(ns int64) { i.sleep(ctx, time.Duration(ns)) })
	if i.rev.files != nil {
		c = c.WithFSConfig(wazero.NewFSConfig().WithFSMount(&boundedFS{FS: i.rev.files, left: maxOpens}, "/"))
	}
	return c
}

// sleep is how a guest waits. What it has written so far leaves first, so that events reach the client
// when they happen; the end of the request ends the sleep.
func (i *instance) sleep(ctx context.Context, d time.Duration) {
	if a := i.exchange.Answer; a.Started() {
		i.exchange.Must(a.Flush())
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		i.exchange.Fail(context.Cause(ctx))
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
	stopped := exited && (exit.ExitCode() == sys.ExitCodeContextCanceled || exit.ExitCode() == sys.ExitCodeDeadlineExceeded)
	if cause := context.Cause(ctx); cause != nil && (stopped || noted != nil) {
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
	if i.memory.denied != "" && guest.Kind == GuestTrap {
		guest.Kind, guest.Detail = GuestMemory, i.memory.denied+"; then: "+guest.Detail
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
