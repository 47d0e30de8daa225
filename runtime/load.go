package runtime

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi"
)

// Spec is what Load needs to know of a revision.
type Spec struct {
	Function string            // its name, for logs
	Wasm     []byte            // the module; not kept
	Digest   perigee.Digest    // of the bundle, for logs
	Files    fs.FS             // read-only at "/" for the guest; nil = none. Used by many requests at once
	Limits   perigee.Limits    // zero Memory means the default; zero Timeout none; zero Concurrency Config.Slots
	Env      map[string]string // the guest's environment
	Fresh    bool              // start the guest anew for each request instead of continuing a copy of a started one
}

// revision is a loaded revision.
type revision struct {
	function string
	code     wazero.CompiledModule
	config   wazero.ModuleConfig // all but what differs from request to request
	initial  int64               // bytes of memory that the guest starts with
	memory   int64               // bytes a guest may have
	timeout  time.Duration       // 0 = none
	slots    int32
	logger   *slog.Logger
	logRate  *rate.Limiter
	files    fs.FS

	state      []string // the exported names of the module's globals that can change
	restorable bool     // memory and state are all that can
	image      *image   // what a new instance begins with
	pool       pool
	budget     *budget // what a ready image was taken from

	inFlight atomic.Int32
	refs     atomic.Int32 // 1 while loaded, and 1 for each request; the last closes the code
	peak     atomic.Int64 // most memory that a request has used: what the next one reserves
}

// Load makes a revision ready: it maps the compiled code, after making it with Admit where it is
// missing, damaged or of another engine. Loading a loaded revision does nothing. Errors: an
// *ErrRefused, ErrQuarantined, or what went wrong on this node.
func (r *Runtime) Load(ctx context.Context, id perigee.RevisionID, spec Spec) error {
	if r.has(id) {
		return nil
	}
	if spec.Limits.Memory == 0 {
		spec.Limits.Memory = perigee.DefaultMemory
	}
	start := time.Now()
	code, module, report, err := r.compiled(ctx, spec)
	if err != nil {
		return fmt.Errorf("load %s %s: %w", spec.Function, id, err)
	}
	if report.MemoryMin > spec.Limits.Memory {
		_ = code.Close(ctx)
		return fmt.Errorf("load %s %s: %w", spec.Function, id, &ErrRefused{Rule: "memory",
			Detail: fmt.Sprintf("the module starts with %s of memory and limits.memory is %s; raise it", report.MemoryMin, spec.Limits.Memory)})
	}
	rev := &revision{
		function: spec.Function,
		code:     code,
		config:   moduleConfig(spec),
		initial:  int64(report.MemoryMin),
		memory:   int64(spec.Limits.Memory) / pageBytes * pageBytes,
		timeout:  time.Duration(spec.Limits.Timeout),
		slots:    int32(spec.Limits.Concurrency),
		logger:   r.config.Logger.With("function", spec.Function),
		logRate:  abi.NewLogRate(),
		files:    spec.Files,
	}
	if rev.slots == 0 {
		rev.slots = int32(r.config.Slots)
	}
	rev.state, rev.restorable, rev.budget = module.State, module.Restorable(), r.budget
	if rev.image, err = rawImage(module); err != nil {
		_ = code.Close(ctx)
		return fmt.Errorf("load %s %s: %w", spec.Function, id, err)
	}
	rev.refs.Store(1)
	rev.peak.Store(int64(report.MemoryMin))

	if rev.restorable && r.images && !spec.Fresh {
		r.prepare(ctx, rev)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.revs[id]; ok || r.closed {
		rev.unref()
		return nil
	}
	r.revs[id] = rev
	r.config.Metrics.loaded.Set(float64(len(r.revs)))
	r.config.Logger.Info("revision loaded", "function", spec.Function, "digest", spec.Digest, "dur", time.Since(start))
	return nil
}

func (r *Runtime) has(id perigee.RevisionID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.revs[id]
	return ok
}

// moduleConfig is the part of an instance's configuration that all requests share.
func moduleConfig(spec Spec) wazero.ModuleConfig {
	c := wazero.NewModuleConfig().
		WithName(""). // any number of instances at once
		WithStartFunctions(wasmbin.StartExport, "_initialize", "_start").
		WithArgs(spec.Function).
		WithSysWalltime().
		WithSysNanotime().
		WithRandSource(rand.Reader)
	for _, k := range slices.Sorted(maps.Keys(spec.Env)) {
		c = c.WithEnv(k, spec.Env[k])
	}
	return c
}

// Unload forgets a revision. Requests that run end as they would have.
func (r *Runtime) Unload(id perigee.RevisionID) {
	r.mu.Lock()
	rev, ok := r.revs[id]
	delete(r.revs, id)
	r.config.Metrics.loaded.Set(float64(len(r.revs)))
	r.mu.Unlock()
	if ok {
		rev.pool.close()
		rev.unref()
		r.config.Logger.Info("revision unloaded", "function", rev.function)
	}
}

// unref gives up one reference.
func (rev *revision) unref() {
	if rev.refs.Add(-1) == 0 {
		_ = rev.code.Close(context.Background())
		rev.image.close()
		if rev.image.ready {
			rev.budget.give(rev.image.resident)
		}
	}
}
