package sandbox

import (
	"context"
	"reflect"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// Instance is an instance of a module and its memory. It works for one user at a time: Get, Begin, Start,
// calls, End. All methods are for the goroutine of that user.
type Instance struct {
	module *Module
	image  *image // what it was made from
	memory *memory
	mod    api.Module // nil until Start
	fuel   api.MutableGlobal
	state  []api.MutableGlobal
	calls  map[string]api.Function // made once, since each has a stack
	depth  int64                   // that the guest was given for its calls
	stack  int64                   // bytes of the budget that its stacks have taken
	used   bool                    // it served others before
	idle   time.Time               // since when it has no user

	// Of the user at hand.
	limit   int64         // of fuel; 0 = none
	granted int64         // fuel that the guest was given
	turn    bool          // it has a turn to compute
	turns   int           // that it had
	waited  time.Duration // in host functions and for turns
	delayed time.Duration // the part of it for turns
}

// Begin binds the instance to a user, and returns the context for its calls. fuel is the most that the
// guest may use, 0 = no limit.
func (i *Instance) Begin(ctx context.Context, fuel uint64) context.Context {
	i.limit, i.granted, i.waited, i.delayed, i.turns = int64(min(fuel, 1<<62)), 0, 0, 0, 0
	if i.mod != nil {
		i.begin()
	}
	return context.WithValue(ctx, key{}, i)
}

// begin gives the guest its first fuel.
func (i *Instance) begin() {
	i.granted = firstGrant
	if i.limit > 0 {
		i.granted = min(firstGrant, i.limit)
	}
	i.fuel.Set(uint64(i.granted))
}

// Start makes a new instance ready for calls; others are. Unless the module is prepared, what start
// functions it has are still to be called.
func (i *Instance) Start(ctx context.Context) error {
	if i.mod != nil {
		return nil
	}
	m := i.module
	mod, err := m.engine.wasm.InstantiateModule(experimental.WithMemoryAllocator(ctx, i.memory), m.code, moduleConfig())
	if err != nil {
		return err
	}
	i.mod = mod
	i.fuel = mod.ExportedGlobal(wasmbin.FuelGlobal).(api.MutableGlobal)
	i.state = m.globals(mod)
	i.calls = map[string]api.Function{}
	i.depth = wasmbin.DepthPortion
	i.begin()
	if !i.image.ready {
		return nil
	}
	if more := (i.image.size - i.memory.size) / pageBytes; more > 0 {
		if _, ok := mod.Memory().Grow(uint32(more)); !ok {
			return ErrMemory
		}
	}
	i.setState()
	return nil
}

// Function returns a function that the guest exports; nil if it does not.
func (i *Instance) Function(name string) api.Function {
	f, ok := i.calls[name]
	if !ok {
		f = i.mod.ExportedFunction(name)
		i.calls[name] = f
	}
	return f
}

// Used reports whether the instance served others before.
func (i *Instance) Used() bool { return i.used }

// Shared reports whether it is used again as it is.
func (i *Instance) Shared() bool { return i.module.options.Isolation == Shared }

// Memory returns the linear memory that the guest exports; nil if it does not.
func (i *Instance) Memory() api.Memory { return i.mod.Memory() }

// MemorySize returns how many bytes of linear memory the guest has.
func (i *Instance) MemorySize() int64 { return i.memory.size }

// Denied says why the guest was denied memory; "" if it was not.
func (i *Instance) Denied() string { return i.memory.denied }

// Waited returns for how long the guest has not computed since Begin, though a call was running.
func (i *Instance) Waited() time.Duration { return i.waited }

// Delayed returns the part of Waited in which the guest waited for its turn to compute.
func (i *Instance) Delayed() time.Duration { return i.delayed }

// End gives the instance to the next user, restored if need be, or drops it. clean means that the last
// call has returned, and that nothing outside memory and globals was changed.
func (i *Instance) End(clean bool) {
	i.release()
	i.dropStacks()
	m := i.module
	m.notePeak(i.memory.size)
	if clean && i.mod != nil && !i.mod.IsClosed() {
		switch m.options.Isolation {
		case Shared:
			m.pool.put(i)
			return
		case Request:
			if m.restorable && i.restore(m.engine.tracker) {
				m.pool.put(i)
				return
			}
		}
	}
	i.drop()
}

// setState gives the globals the values of the image.
func (i *Instance) setState() {
	for n, g := range i.state {
		g.Set(i.image.globals[n])
	}
	i.depth = wasmbin.DepthPortion
}

// keptGrowth is how many bytes a memory may have grown in use and be restored: they stay with the
// instance.
const keptGrowth = 16 << 20

// restore makes the instance what it was before its user, and reports whether that was possible. Only
// memory and globals can be restored; who changed more, or grew much, is to be dropped.
func (i *Instance) restore(t *tracker) bool {
	grown := i.memory.size - i.image.size
	if t == nil || !i.image.ready || grown > keptGrowth {
		return false
	}
	b, err := i.memory.space.grow(i.memory.size)
	if err != nil || t.restore(b, i.image) != nil {
		return false
	}
	if grown > 0 && !i.shrink() {
		return false
	}
	i.memory.denied = ""
	i.setState()
	return true
}

// shrink gives the guest's memory the image's size again. The engine has no function for it. Its memory
// has an exported field with the bytes, and tells the compiled code of a new size when it grows; so it is
// made a page too small, and grows by that. Where that does not work the instance is dropped.
func (i *Instance) shrink() bool {
	page := i.image.size - pageBytes
	memory := reflect.Indirect(reflect.ValueOf(i.mod.Memory()))
	if page < 0 || memory.Kind() != reflect.Struct {
		return false
	}
	buffer := memory.FieldByName("Buffer")
	if !buffer.CanSet() || buffer.Type() != reflect.TypeFor[[]byte]() {
		return false
	}
	buffer.SetBytes(buffer.Bytes()[:page])
	_, ok := i.mod.Memory().Grow(1)
	return ok && int64(i.mod.Memory().Size()) == i.image.size && i.memory.size == i.image.size
}

// drop gives everything back.
func (i *Instance) drop() {
	if i.mod != nil {
		_ = i.mod.Close(context.Background())
	}
	i.dropStacks()
	i.memory.release()
}
