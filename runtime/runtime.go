// Package runtime runs one function, safely, now: it admits modules, keeps their compiled code, and
// answers each request as a fresh instance would. It knows no peers and no routes, and it is the only
// importer of wazero, the engine.
//
// A module's way: Check says offline what a file is. Admit reads it in full (internal/wasmbin) and
// compiles it in a child process with limits on memory and time, since a compiler is the easiest thing
// to bring down; the outcome is a receipt. Load verifies that the compiled code is the one the receipt
// names and maps it. Invoke lets an instance answer one request.
//
// The code that runs is not the author's own but rewritten (wasmbin.Rewrite), so that it meters itself.
// Package sandbox runs it: it keeps each guest as it was after its start, and gives every request an
// instance that no other has touched, in microseconds. What a guest read while it started is frozen in
// that image: its environment, the time, the seeds that it drew; what it asks for later is fresh. A guest
// that can't be continued from an image is started for each request.
//
// A revision whose code is not needed for a while sleeps when others need the room: its code is unmapped,
// and mapped again from the cache for its next request.
//
// What a guest may use is bounded: memory by its limit and by the node's budget, time by its deadline,
// what it computes by its fuel, the response and the log by bytes, requests at once by a number. Who breaks
// a bound gets a *GuestError and the node goes on. Guests see the functions of their ABI and of WASI
// preview 1, real clocks, their environment, the files of their bundle, and nothing else of the machine.
//
// Config.Dir holds, all 0700 and owned by this package:
//
//	code/wazero-<version>-<arch>-<os>/<key>   compiled code, written by wazero in the child
//	modules/<digest of the module>.wasm       the rewritten module, to find the code by
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

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
	"github.com/perigee-edge/perigee/runtime/abi/outbound"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// Config is what a Runtime needs. Only Dir has no default.
type Config struct {
	Dir          string        // code cache, receipts; made if it is missing
	Admit        []string      // argv of the admission child; default: this program with the argument "admit"
	MemoryBudget perigee.Bytes // guest memory of all requests together, and of images; default 1 GiB
	CodeMemory   perigee.Bytes // compiled code that is mapped; beyond it revisions that are not used sleep; default 1 GiB
	CodeCache    perigee.Bytes // files of compiled code in Dir; beyond it those that were not used for longest go; default 8 GiB
	MaxResponse  perigee.Bytes // bytes of one response body, streamed; default 1 GiB
	MaxBuffer    perigee.Bytes // bytes of one body that a guest asks to have kept whole; default 16 MiB
	Slots        int           // requests at once that Stats says a function without limits.concurrency is good for; default 16 per processor
	Lines        func(Line)    // is given each line that a guest logs, besides Logger; it must return soon. nil = nobody
	Logger       *slog.Logger  // default slog.Default()
	Metrics      *Metrics      // default: counted, not exported
	DisableReuse bool          // each request gets a new instance: slower and always right, to look for faults
	DisableLimit bool          // guests compute as many at once as come: what the adaptive limit is compared with
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
	c.CodeMemory = cmp.Or(c.CodeMemory, perigee.GiB)
	c.CodeCache = cmp.Or(c.CodeCache, 8*perigee.GiB)
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
	engine *sandbox.Engine
	limit  *limiter // nil = none
	codeID string   // name of the engine's directory under code/: version, architecture, system
	lock   dirLock

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
	for _, sub := range []string{codeDir, moduleDir, receiptDir, loadingDir} {
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

		breaker:   breaker{dir: filepath.Join(c.Dir, loadingDir)},
		admitting: make(chan struct{}, 1),
		loading:   make(chan struct{}, 1),
		revs:      map[perigee.RevisionID]*revision{},
	}
	if !c.DisableLimit {
		r.limit = newLimiter(c.Metrics)
	}
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
	ctx := context.Background()
	taken := r.config.Metrics.memoryBytes
	r.engine, err = sandbox.New(ctx, sandbox.Config{
		Cache: code, Memory: int64(r.config.MemoryBudget), DisableReuse: r.config.DisableReuse, Logger: r.config.Logger,
		Taken: func(delta int64) { taken.Add(float64(delta)) },
	})
	if err != nil {
		return err
	}
	return errors.Join(wasip1.Instantiate(ctx, r.engine.Wasm()), httpwasm.Instantiate(ctx, r.engine.Wasm()), outbound.Instantiate(ctx, r.engine.Wasm()))
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

// engineDir returns the name of the directory in which this version of the engine keeps compiled code,
// which it tells only by making it.
func engineDir(dir string) (name string, err error) {
	probe, err := os.MkdirTemp(dir, stagingPrefix)
	if err != nil {
		return "", fmt.Errorf("open the code cache: %w", err)
	}
	defer os.RemoveAll(probe)
	if err := sandbox.MakeCache(probe); err != nil {
		return "", err
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

// Stats returns how busy a revision is; false if it is not loaded. While its requests have to wait for the
// processors, it is good for as many as compute.
func (r *Runtime) Stats(id perigee.RevisionID) (perigee.Load, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	rev, ok := r.revs[id]
	if !ok {
		return perigee.Load{}, false
	}
	load := perigee.Load{InFlight: rev.inFlight.Load(), Slots: rev.comfort}
	if r.limit != nil {
		if busy, yes := r.limit.crowded(&rev.flow); yes {
			load.Slots = min(load.Slots, int32(max(1, busy)))
		}
	}
	return load, true
}

// Close refuses new requests, waits for those that run until ctx ends, and closes the engine.
func (r *Runtime) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	for id, rev := range r.revs {
		delete(r.revs, id)
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
	if r.engine != nil {
		err = r.engine.Close(ctx)
	}
	return errors.Join(err, r.lock.unlock())
}
