package runtime

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/overload"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// Spec is what Load needs to know of a revision.
type Spec struct {
	Function  string            // its name, for logs
	Wasm      []byte            // the module; not kept
	Digest    perigee.Digest    // of the bundle, for logs
	Files     fs.FS             // read-only at "/" for the guest; nil = none. Used by many requests at once
	Limits    perigee.Limits    // zero Memory means the default; zero Timeout, Fuel and Concurrency none
	Env       map[string]string // the guest's environment
	Outbound  http.RoundTripper // sends the guest's own requests, and decides where they may go; nil = nowhere
	Isolation string            // what a request sees of those before: "request" or "" (nothing), "fresh" (nothing, and the guest is started anew), "shared" (what they left in the same instance)
}

// Line is a line that a guest logged or printed, fit for a terminal.
type Line struct {
	Time     time.Time
	Level    slog.Level
	Function string
	Revision perigee.RevisionID
	Request  string // id; "" = the guest was starting
	Text     string
}

// revision is a loaded revision. It is asleep while its compiled code is not mapped.
type revision struct {
	id       perigee.RevisionID
	function string
	program  program
	features uint32 // of http-wasm, that the guest enabled when it became an image
	module   *sandbox.Module
	receipt  receipt
	env      map[string]string
	environ  []string // the same, as WASI has it
	sender   http.RoundTripper
	files    fs.FS
	timeout  time.Duration // 0 = none
	fuel     uint64        // 0 = no limit
	most     int32         // requests at once
	comfort  int32         // requests at once that it is good for, as Stats tells
	logger   *slog.Logger
	logRate  *abi.LogRate
	keep     func(abi.Line) // nil = nobody keeps lines

	flow     overload.Flow // guarded by the limiter
	inFlight atomic.Int32
	refs     atomic.Int32 // 1 while loaded, and 1 for each request; the last closes the module
	last     atomic.Int64 // when a request came last, Unix nanoseconds

	waking sync.Mutex // held by who changes asleep
	asleep atomic.Bool
}

// maxInFlight is how many requests at once a revision without limits.concurrency may have. What really
// bounds them is memory; this bounds what a request costs besides.
const maxInFlight = 10_000

// Load makes a revision ready: it maps the compiled code, after making it with Admit where it is
// missing, damaged or of another engine, and starts the guest. Loading a loaded revision does nothing.
// Errors: an *ErrRefused, ErrQuarantined, or what went wrong on this node.
func (r *Runtime) Load(ctx context.Context, id perigee.RevisionID, spec Spec) error {
	if r.has(id) {
		return nil
	}
	return r.put(ctx, id, spec, false)
}

// Reload is Load, except that it loads a loaded revision anew, for another environment, and puts it in
// the place of the old one. Requests that run end as they would have.
func (r *Runtime) Reload(ctx context.Context, id perigee.RevisionID, spec Spec) error {
	return r.put(ctx, id, spec, true)
}

func (r *Runtime) put(ctx context.Context, id perigee.RevisionID, spec Spec, replace bool) error {
	if spec.Limits.Memory == 0 {
		spec.Limits.Memory = perigee.DefaultMemory
	}
	start := time.Now()
	rev, err := r.load(ctx, id, spec)
	if err != nil {
		return fmt.Errorf("load %s %s: %w", spec.Function, id, err)
	}
	r.mu.Lock()
	old, ok := r.revs[id]
	if ok && !replace || r.closed {
		r.mu.Unlock()
		rev.unref()
		return nil
	}
	r.revs[id] = rev
	r.config.Metrics.loaded.Set(float64(len(r.revs)))
	r.mu.Unlock()
	if ok {
		old.unref()
	}
	r.config.Logger.Info("revision loaded", "function", spec.Function, "digest", spec.Digest, "dur", time.Since(start))
	r.sleepIdle()
	return nil
}

// load makes the revision.
func (r *Runtime) load(ctx context.Context, id perigee.RevisionID, spec Spec) (*revision, error) {
	rec, err := r.admitted(ctx, spec.Digest, spec.Wasm)
	if err != nil {
		return nil, err
	}
	if rec.Report.MemoryMin > spec.Limits.Memory {
		return nil, &ErrRefused{Rule: "memory",
			Detail: fmt.Sprintf("the module starts with %s of memory and limits.memory is %s; raise it", rec.Report.MemoryMin, spec.Limits.Memory)}
	}
	rev := &revision{
		id: id, function: spec.Function, receipt: rec, program: programs[rec.Report.ABI],
		env: spec.Env, environ: environ(spec.Env), files: spec.Files, sender: spec.Outbound,
		timeout: time.Duration(spec.Limits.Timeout), fuel: spec.Limits.Fuel,
		most: int32(spec.Limits.Concurrency), comfort: int32(spec.Limits.Concurrency),
		logger: r.config.Logger.With("function", spec.Function, "revision", id), logRate: abi.NewLogRate(),
	}
	if r.config.Lines != nil {
		rev.keep = func(l abi.Line) {
			r.config.Lines(Line{l.Time, l.Level, spec.Function, id, l.Request, l.Text})
		}
	}
	if rev.most == 0 {
		rev.most, rev.comfort = maxInFlight, int32(r.config.Slots)
	}
	rev.refs.Store(1)
	rev.last.Store(time.Now().UnixNano())
	options := sandbox.Options{Memory: int64(spec.Limits.Memory)}
	switch spec.Isolation {
	case "fresh":
		options.Isolation = sandbox.Fresh
	case "shared":
		options.Isolation = sandbox.Shared
	}
	return rev, r.mapCode(ctx, rev, spec.Wasm, options)
}

// mapCode makes the module of a revision. It never compiles in this process: the engine compiles silently
// what it does not find, so what it will look for has been verified by admitted. A module that brings the
// process down here is remembered.
func (r *Runtime) mapCode(ctx context.Context, rev *revision, wasm []byte, o sandbox.Options) error {
	done, err := r.queue(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := r.breaker.begin(rev.receipt.Module); err != nil {
		return err
	}
	defer r.breaker.end(rev.receipt.Module)
	start := time.Now()
	module, err := wasmbin.Rewrite(wasm) // as the child did: the engine finds its code by this
	if err != nil {
		return refused(err)
	}
	if err := r.keepModule(rev.receipt, module.Skeleton); err != nil {
		return err
	}
	if rev.module, err = r.engine.Load(ctx, module, o); err != nil {
		return err
	}
	if err := r.checkCode(rev.receipt); err != nil { // it went meanwhile, and what was mapped only traps
		rev.module.Close()
		return err
	}
	r.config.Metrics.loadSeconds.Observe(time.Since(start).Seconds())
	r.prepare(ctx, rev)
	return nil
}

// queue waits until no other module is read into memory.
func (r *Runtime) queue(ctx context.Context) (done func(), err error) {
	select {
	case r.loading <- struct{}{}:
		return func() { <-r.loading }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other loads: %w", context.Cause(ctx))
	}
}

func (r *Runtime) has(id perigee.RevisionID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.revs[id]
	return ok
}

// environ returns the environment as a guest gets it.
func environ(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// Unload forgets a revision. Requests that run end as they would have.
func (r *Runtime) Unload(id perigee.RevisionID) {
	r.mu.Lock()
	rev, ok := r.revs[id]
	delete(r.revs, id)
	r.config.Metrics.loaded.Set(float64(len(r.revs)))
	r.mu.Unlock()
	if ok {
		rev.unref()
		r.config.Logger.Info("revision unloaded", "function", rev.function)
	}
}

// unref gives up one reference.
func (rev *revision) unref() {
	if rev.refs.Add(-1) == 0 && rev.module != nil {
		rev.module.Close()
	}
}
