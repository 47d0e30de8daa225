package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// Isolation says what one user of an instance may see of those before.
type Isolation int

// The ways to keep users apart.
const (
	Request Isolation = iota // nothing: instances are restored to their image
	Fresh                    // nothing: instances are made anew, from the module and not from an image
	Shared                   // everything: instances are used again as they are
)

// Options says how a module is run.
type Options struct {
	Memory    int64 // most bytes of linear memory; 0 = 4 GiB
	Isolation Isolation
}

// The errors that callers branch on.
var (
	ErrMemory  = errors.New("the node's memory budget, or the share of it that one function may have, is taken")
	ErrNoImage = errors.New("the guest changes what an image does not hold")
)

// Module is a compiled module and its instances. Its methods may be called at once, but for Prepare,
// Sleep, Wake and Close, which are for one caller while no instance is in use.
type Module struct {
	engine  *Engine
	budget  *budget // its share of the engine's
	options Options
	code    wazero.CompiledModule // nil while it sleeps
	initial int64                 // bytes of memory that the guest starts with
	state   []string              // the exported names of the module's globals that can change

	restorable bool   // memory and state are all that can change
	image      *image // what a new instance begins with
	pool       pool
	peak       atomic.Int64 // most memory that an instance has had: what the next one reserves
}

// Load maps the code of a rewritten module, which must be in the cache: the engine knows the module by its
// skeleton, and from that it would make code that only traps. Without a cache it compiles the module.
func (e *Engine) Load(ctx context.Context, w *wasmbin.Rewritten, o Options) (*Module, error) {
	if o.Memory == 0 {
		o.Memory = 4 << 30
	}
	m := &Module{
		engine: e, options: o, state: w.State,
		restorable: w.Restorable(),
	}
	m.budget = e.budget.share(m.pool.empty)
	m.options.Memory = o.Memory / pageBytes * pageBytes
	if w.Memory != nil {
		m.initial = int64(w.Memory.Min) * pageBytes
	}
	m.peak.Store(m.initial)
	var err error
	if m.image, err = rawImage(w); err != nil {
		return nil, err
	}
	if !m.budget.take(m.image.resident) {
		m.image.close()
		return nil, ErrMemory
	}
	wasm := w.Skeleton
	if e.cache == nil {
		wasm = w.Wasm
	}
	if err := m.Wake(ctx, wasm); err != nil {
		m.dropImage()
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.modules[m] = struct{}{}
	return m, nil
}

// Prepare makes an instance, lets start run in it, and makes an image of what that leaves: from then on
// instances begin there. It is an improvement only: after an error, which is start's own, ErrMemory or
// ErrNoImage, the module is as it was, and each of its instances is to be started by who uses it.
func (m *Module) Prepare(ctx context.Context, start func(ctx context.Context, i *Instance) error) error {
	if !m.restorable || m.options.Isolation == Fresh {
		return ErrNoImage
	}
	i, err := m.Get()
	if err != nil {
		return err
	}
	defer i.drop()
	ctx = i.Begin(ctx, 0)
	defer i.release()
	if err := i.Start(ctx); err != nil {
		return err
	}
	if err := start(ctx, i); err != nil {
		return err
	}
	if i.memory.denied != "" || i.mod.IsClosed() {
		return ErrNoImage
	}
	var b []byte
	if memory := i.mod.Memory(); memory != nil {
		b, _ = memory.Read(0, memory.Size())
	}
	img, err := readyImage(b)
	if err != nil {
		return err
	}
	if !m.budget.take(img.resident) {
		img.close()
		return ErrMemory
	}
	for _, g := range i.state {
		img.globals = append(img.globals, g.Get())
	}
	img.globals[len(img.globals)-1] = wasmbin.DepthPortion // the last is the depth, which each instance asks for anew
	m.dropImage()
	m.image = img
	m.peak.Store(max(m.peak.Load(), img.size))
	return nil
}

// Started reports whether instances begin where Prepare left the guest.
func (m *Module) Started() bool { return m.image.ready }

// Get returns an instance that waits in the pool, or makes one. It is not started yet if it is new.
// Errors: ErrMemory, or what the system says.
func (m *Module) Get() (*Instance, error) {
	if i := m.pool.get(); i != nil {
		i.used = true
		return i, nil
	}
	reserved := m.peak.Load()
	if !m.budget.take(reserved) {
		return nil, ErrMemory
	}
	memory, err := newMemory(m.options.Memory, reserved, m.budget)
	if err != nil {
		m.budget.give(reserved)
		return nil, err
	}
	i := &Instance{module: m, image: m.image, memory: memory}
	if err := memory.space.load(m.image); err != nil {
		memory.release()
		return nil, err
	}
	if memory.Reallocate(uint64(m.initial)) == nil && m.initial > 0 {
		memory.release()
		return nil, fmt.Errorf("take %d KiB of memory: %s", m.initial>>10, memory.denied)
	}
	return i, nil
}

// notePeak keeps the largest memory that an instance has had.
func (m *Module) notePeak(size int64) {
	for {
		old := m.peak.Load()
		if size <= old || m.peak.CompareAndSwap(old, size) {
			return
		}
	}
}

// Sleep gives up the compiled code and the idle instances, and keeps the image.
func (m *Module) Sleep() {
	m.pool.empty()
	if m.code != nil {
		_ = m.code.Close(context.Background())
		m.code = nil
	}
}

// Wake maps the code again; wasm is the skeleton of the module that Load was given.
func (m *Module) Wake(ctx context.Context, wasm []byte) (err error) {
	if m.code, err = m.engine.wasm.CompileModule(ctx, wasm); err != nil {
		return fmt.Errorf("map compiled code: %w", err)
	}
	return nil
}

// Close gives up everything.
func (m *Module) Close() {
	m.engine.mu.Lock()
	delete(m.engine.modules, m)
	m.engine.mu.Unlock()
	m.pool.close()
	m.Sleep()
	m.dropImage()
}

func (m *Module) dropImage() {
	m.image.close()
	m.budget.give(m.image.resident)
}

// moduleConfig is for instances that have no name and start by themselves nowhere.
func moduleConfig() wazero.ModuleConfig {
	return wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(rand.Reader) // the default is dear to make
}

// globals finds the globals of an instance that can change.
func (m *Module) globals(mod api.Module) []api.MutableGlobal {
	out := make([]api.MutableGlobal, len(m.state))
	for i, name := range m.state {
		out[i] = mod.ExportedGlobal(name).(api.MutableGlobal)
	}
	return out
}
