// Package sandbox runs compiled modules so that no user of an instance sees what another left behind. It
// knows nothing of requests, functions or hosts' calls: that is for package runtime, its caller.
//
// The code of a Module is not the author's own but rewritten (wasmbin.Rewrite): it pays in fuel for what it
// computes. When that is used up it asks for more, which is when the end of its context ends it, its limit
// of fuel too, and others get the processor. Nothing else can interrupt machine code, and Go's collector
// waits for it.
//
// A Module starts the guest once (Prepare) and keeps its memory and globals as an image. An Instance maps
// the image copy-on-write. After use the kernel tells which frames of its memory were written to; those and
// the globals are restored (End), and the instance waits in the module's pool for the next. It is dropped
// instead after any failure, when its memory grew much, and for modules that change what can't be restored:
// tables, opaque globals, segments. A new instance from the image is always right, and the oracle in tests.
//
// All memory of guests, images included, comes out of one budget, of which one module may have all but a
// quarter. What is idle gives way to what is needed.
//
// The package owns no goroutine but timers of pools that have idle instances.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// Config is what an Engine needs. Only Memory has no default.
type Config struct {
	Cache  string            // directory of compiled code, where Load finds what Compile left; "" = Load compiles
	Memory int64             // bytes of all instances and images together
	Turns  int               // guests that compute for long at once; default one less than processors, at least 1
	Taken  func(delta int64) // called with each change of what is taken of Memory; default nothing
	Logger *slog.Logger      // default slog.Default()

	DisableReuse bool // no instance serves twice: what is always right, to compare with
}

// Engine holds modules. Its methods may be called at once.
type Engine struct {
	wasm   wazero.Runtime
	cache  wazero.CompilationCache // nil = none
	budget *budget
	turns  *turns

	tracker *tracker // nil where instances are not used again

	mu      sync.Mutex // guards modules
	modules map[*Module]struct{}
}

// New starts an engine, with the host module that rewritten guests import. Other host modules are to be
// instantiated in Wasm.
func New(ctx context.Context, c Config) (_ *Engine, err error) {
	if c.Turns == 0 {
		c.Turns = max(1, goruntime.GOMAXPROCS(0)-1)
	}
	if c.Taken == nil {
		c.Taken = func(int64) {}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	e := &Engine{
		turns:   &turns{free: c.Turns},
		modules: map[*Module]struct{}{},
	}
	e.budget = newBudget(c.Memory, c.Taken, e.dropIdle)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close(ctx))
		}
	}()
	if c.Cache != "" {
		if e.cache, err = wazero.NewCompilationCacheWithDir(c.Cache); err != nil {
			return nil, fmt.Errorf("open the code cache: %w", err)
		}
	}
	e.wasm = wazero.NewRuntimeWithConfig(ctx, engineConfig(e.cache))
	if !c.DisableReuse {
		if e.tracker, err = openTracker(); err != nil {
			c.Logger.Warn("instances are not used again: each request makes one from its image", "err", err)
		}
	}
	return e, instantiateMeter(ctx, e.wasm)
}

// Wasm returns the engine proper, for host modules.
func (e *Engine) Wasm() wazero.Runtime { return e.wasm }

// Close ends the engine. No instance may be in use.
func (e *Engine) Close(ctx context.Context) (err error) {
	if e.tracker != nil {
		e.tracker.close()
	}
	if e.wasm != nil {
		err = e.wasm.Close(ctx)
	}
	if e.cache != nil {
		err = errors.Join(err, e.cache.Close(ctx))
	}
	return err
}

// dropIdle drops the idle instances of all modules.
func (e *Engine) dropIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for m := range e.modules {
		m.pool.empty()
	}
}

// engineConfig is what decides how code is compiled. Compile and New agree on it, else New would not find
// what Compile made.
func engineConfig(cache wazero.CompilationCache) wazero.RuntimeConfig {
	c := wazero.NewRuntimeConfig().
		WithCoreFeatures(api.CoreFeaturesV2).
		WithDebugInfoEnabled(false)
	if cache != nil {
		c = c.WithCompilationCache(cache)
	}
	return c
}

// Compile compiles a module into a cache directory, which is empty or new, so that Load finds the code by
// the module's skeleton. It can take very long and much memory on bad modules: it is for processes with
// limits.
func Compile(ctx context.Context, dir string, w *wasmbin.Rewritten) error {
	whole, err := compile(ctx, dir, w.Wasm)
	if err != nil {
		return err
	}
	bones, err := compile(ctx, filepath.Join(dir, "bones"), w.Skeleton)
	if err != nil {
		return err
	}
	if err := os.Rename(whole, filepath.Join(filepath.Dir(whole), filepath.Base(bones))); err != nil {
		return fmt.Errorf("name compiled code for its skeleton: %w", err)
	}
	return os.RemoveAll(filepath.Join(dir, "bones"))
}

// compile returns the only file that compiling a module makes below an empty directory.
func compile(ctx context.Context, dir string, wasm []byte) (string, error) {
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return "", fmt.Errorf("open the code cache: %w", err)
	}
	defer cache.Close(ctx)
	engine := wazero.NewRuntimeWithConfig(ctx, engineConfig(cache))
	defer engine.Close(ctx)
	if _, err = engine.CompileModule(ctx, wasm); err != nil {
		return "", err
	}
	made, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err == nil && len(made) != 1 {
		err = fmt.Errorf("the engine left %d files of compiled code; want 1", len(made))
	}
	if err != nil {
		return "", err
	}
	return made[0], nil
}

// MakeCache makes the folder in a directory in which this version of the engine keeps compiled code; its
// name tells version, architecture and system.
func MakeCache(dir string) error {
	cache, err := wazero.NewCompilationCacheWithDir(dir)
	if err != nil {
		return fmt.Errorf("open the code cache: %w", err)
	}
	return cache.Close(context.Background())
}
