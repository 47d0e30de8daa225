// Package runtime runs one function, safely, now: it admits modules, keeps their compiled code, and
// answers each request as a fresh instance would. It knows no peers and no routes, and it is the only
// importer of wazero, the engine.
//
// A module's way: Check says offline what a file is. Admit reads it in full (internal/wasmbin) and
// compiles it in a child process with limits on memory and time, since a compiler is the easiest thing
// to bring down; the outcome is a receipt. Load verifies that the compiled code is the one the receipt
// names and maps it. Invoke lets an instance answer one request.
//
// The code that runs is not the author's own but rewritten (wasmbin.Rewrite): it pays in fuel for what
// it computes, and when that is used up it asks for more (refill), which is when a deadline ends it and
// others get the processor. Nothing else can interrupt a guest's machine code, and the collector waits
// for it.
//
// Load also starts the guest once, without a request, and keeps its memory and globals as an image. An
// instance maps the image copy-on-write (StartImage). After a request the kernel tells which frames of
// its memory were written to; those and the globals are restored, and the instance waits for the next
// request (StartReset). What one request leaves behind no other can see. An instance is dropped instead
// after any failure, when its memory grew, and when it touched what can't be restored: tables, opaque
// globals, open files. A guest that can't be continued from an image is started for each request
// (StartFresh). What a guest read while it started is frozen in the image: its environment, the time,
// the seeds that it drew; what it asks for later is fresh.
//
// What a guest may use is bounded: memory by its limit and by the node's budget, time by its deadline,
// the response and the log by bytes, requests at once by slots. Who breaks a bound gets a *GuestError
// and the node goes on. Guests see the functions of http-wasm and WASI preview 1, real clocks, their
// environment, the files of their bundle, and nothing else of the machine.
//
// Config.Dir holds, all 0700 and owned by this package:
//
//	code/wazero-<version>-<arch>-<os>/<key>   compiled code, written by wazero in the child
//	receipts/<digest of the module>           JSON, see receipt
//	loading/<digest of the module>            JSON, see breaker
//	admit-*                                   what a running child writes; removed by New and Admit
//	lock, admit.lock                          held by the Runtimes that use the directory
//
// Compiled code is trusted: it is never taken from outside, and never loaded without the digest that
// was recorded when the child wrote it. New starts nothing. Admit owns its child process and the
// goroutines that watch it, Invoke those of its instance; both end before it returns.
package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// Config is what a Runtime needs. Only Dir has no default.
type Config struct {
	Dir          string        // code cache, receipts; made if it is missing
	Admit        []string      // argv of the admission child; default: this program with the argument "admit"
	MemoryBudget perigee.Bytes // guest memory of all requests together; default 1 GiB
	MaxResponse  perigee.Bytes // bytes of one response body, streamed; default 1 GiB
	MaxBuffer    perigee.Bytes // bytes of one body that a guest asks to have kept whole; default 16 MiB
	Slots        int           // requests at once of a function that sets no concurrency; default 16 per processor
	Logger       *slog.Logger  // default slog.Default()
	Metrics      *Metrics      // default: counted, not exported
}

func (c *Config) fill() error {
	if c.Dir == "" {
		return errors.New("runtime: Dir is empty: name a directory for compiled code")
	}
	if len(c.Admit) == 0 {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("runtime: find this program, to run it as the admission child: %w", err)
		}
		c.Admit = []string{self, "admit"}
	}
	c.MemoryBudget = cmp.Or(c.MemoryBudget, perigee.GiB)
	c.MaxResponse = cmp.Or(c.MaxResponse, perigee.GiB)
	c.MaxBuffer = cmp.Or(c.MaxBuffer, 16*perigee.MiB)
	c.Slots = cmp.Or(c.Slots, 16*goruntime.GOMAXPROCS(0))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	return nil
}

// The header limits of every message: what one hop to another node can carry.
const (
	maxHeaders     = 200
	maxHeaderBytes = 48 << 10
)

// The errors that callers branch on. Both mean that the guest was not started.
var (
	ErrNotLoaded  = errors.New("revision is not loaded")
	ErrOverloaded = errors.New("no capacity")
)

// Runtime holds the loaded revisions of a node. Its methods may be called at once.
type Runtime struct {
	config Config
	limits abi.Limits
	engine wazero.Runtime
	cache  wazero.CompilationCache
	codeID string // name of the engine's directory under code/: version, architecture, system
	lock   dirLock
	budget *budget

	tracker *tracker         // nil where the system can't tell what was written to
	images  bool             // guests are started once, by Load
	restore func(*slot) bool // makes a slot new again, or can't

	breaker   breaker
	admitting chan struct{} // holds one token: one child at a time
	loading   chan struct{} // holds one token: one module is read into memory at a time

	mu     sync.RWMutex // guards revs and closed
	revs   map[perigee.RevisionID]*revision
	closed bool
	active sync.WaitGroup // requests that run; Add under mu
}

// New opens the directory and starts the engine. Several Runtimes, in one process or in several, may
// share a directory: a module is compiled once for all. The first to open it reads what dead processes
// left: compiled code stays valid, half-made code and that of other engines is removed, and a module
// that was being loaded is counted (see breaker).
func New(c Config) (*Runtime, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	for _, sub := range []string{codeDir, receiptDir, loadingDir} {
		if err := os.MkdirAll(filepath.Join(c.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("open the code cache: %w", err)
		}
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the code cache: %w", err)
	}
	lock, alone, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	r := &Runtime{
		config: c,
		limits: abi.Limits{Response: int64(c.MaxResponse), Buffer: int64(c.MaxBuffer), Headers: maxHeaders, HeaderBytes: maxHeaderBytes},
		lock:   lock,
		budget: &budget{free: int64(c.MemoryBudget), taken: c.Metrics.memoryBytes},

		breaker:   breaker{dir: filepath.Join(c.Dir, loadingDir)},
		admitting: make(chan struct{}, 1),
		loading:   make(chan struct{}, 1),
		revs:      map[perigee.RevisionID]*revision{},
		images:    true,
	}
	r.budget.dropIdle = r.dropIdle
	r.restore = func(s *slot) bool { return s.restore(r.tracker) }
	err = r.open(alone)
	if err == nil {
		err = lock.share()
	}
	if err != nil {
		return nil, errors.Join(err, r.shut(context.Background()))
	}
	return r, nil
}

// open starts the engine, after cleaning the directory if this Runtime is alone on it.
func (r *Runtime) open(alone bool) (err error) {
	code := filepath.Join(r.config.Dir, codeDir)
	if r.codeID, err = engineDir(r.config.Dir); err != nil {
		return err
	}
	if alone {
		if err := removeStale(r.config.Dir, r.codeID); err != nil {
			return fmt.Errorf("clean the code cache: %w", err)
		}
		if err := r.breaker.count(); err != nil {
			return err
		}
	}
	if r.cache, err = wazero.NewCompilationCacheWithDir(code); err != nil {
		return fmt.Errorf("open the code cache: %w", err)
	}
	ctx := context.Background()
	r.engine = wazero.NewRuntimeWithConfig(ctx, engineConfig(r.cache))
	if r.tracker, err = openTracker(); err != nil {
		r.config.Logger.Warn("instances are not used again: each request makes one from its image", "err", err)
	}
	return errors.Join(instantiateMeter(ctx, r.engine), instantiateWASI(ctx, r.engine), httpwasm.Instantiate(ctx, r.engine))
}

// removeStale removes what dead children have left, and the code of other engines.
func removeStale(dir, codeID string) error {
	stale, err := filepath.Glob(filepath.Join(dir, stagingPrefix+"*"))
	if err != nil {
		return err
	}
	engines, err := os.ReadDir(filepath.Join(dir, codeDir))
	if err != nil {
		return err
	}
	for _, e := range engines {
		if e.Name() != codeID {
			stale = append(stale, filepath.Join(dir, codeDir, e.Name()))
		}
	}
	for _, name := range stale {
		err = errors.Join(err, os.RemoveAll(name))
	}
	return err
}

// engineConfig is what decides how code is compiled. The child and the parent must agree on it, else
// the parent would not find what the child compiled.
func engineConfig(cache wazero.CompilationCache) wazero.RuntimeConfig {
	return wazero.NewRuntimeConfig().
		WithCoreFeatures(api.CoreFeaturesV2).
		WithDebugInfoEnabled(false).
		WithCompilationCache(cache)
}

// engineDir returns the name of the directory in which this version of the engine keeps compiled code,
// which it tells only by making it.
func engineDir(dir string) (name string, err error) {
	probe, err := os.MkdirTemp(dir, stagingPrefix)
	if err != nil {
		return "", fmt.Errorf("open the code cache: %w", err)
	}
	defer os.RemoveAll(probe)
	if _, err = wazero.NewCompilationCacheWithDir(probe); err != nil {
		return "", fmt.Errorf("open the code cache: %w", err)
	}
	made, err := os.ReadDir(probe)
	if err != nil || len(made) != 1 {
		return "", fmt.Errorf("open the code cache: the engine made %d directories: %w", len(made), err)
	}
	return made[0].Name(), nil
}

// Loaded returns the revisions that can be invoked, sorted.
func (r *Runtime) Loaded() []perigee.RevisionID {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids := make([]perigee.RevisionID, 0, len(r.revs))
	for id := range r.revs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Stats returns how busy a revision is; false if it is not loaded.
func (r *Runtime) Stats(id perigee.RevisionID) (perigee.Load, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rev, ok := r.revs[id]
	if !ok {
		return perigee.Load{}, false
	}
	return perigee.Load{InFlight: rev.inFlight.Load(), Slots: rev.slots}, true
}

// Close refuses new requests, waits for those that run until ctx ends, and closes the engine.
func (r *Runtime) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	for id, rev := range r.revs {
		delete(r.revs, id)
		rev.pool.close()
		rev.unref()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		r.active.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("close runtime: requests are still running: %w", context.Cause(ctx))
	}
	return r.shut(ctx)
}

// shut gives up what open took, as far as it came.
func (r *Runtime) shut(ctx context.Context) (err error) {
	if r.tracker != nil {
		r.tracker.close()
	}
	if r.engine != nil {
		err = r.engine.Close(ctx)
	}
	if r.cache != nil {
		err = errors.Join(err, r.cache.Close(ctx))
	}
	return errors.Join(err, r.lock.unlock())
}
