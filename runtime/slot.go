package runtime

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// slot is an instance of a module and its memory. It works for one request at a time; between two it is
// restored to what it was before the first, or dropped.
type slot struct {
	rev    *revision
	image  *image // what it was made from
	memory *memory
	mod    api.Module // nil until start
	guest  httpwasm.Guest
	fuel   api.MutableGlobal
	state  []api.MutableGlobal
	files  *boundedFS
	at     *instance // the request that it works for
	idle   time.Time // since when it has none
}

// newSlot takes memory for an instance; reserved bytes of the budget are already its own.
func newSlot(rev *revision, reserved int64, b *budget) (*slot, error) {
	s := &slot{rev: rev, image: rev.image}
	var err error
	if s.memory, err = newMemory(rev.memory, reserved, b); err != nil {
		b.give(reserved)
		return nil, err
	}
	if err := s.memory.space.load(s.image); err != nil {
		s.memory.release()
		return nil, err
	}
	return s, nil
}

// start makes the instance. Unless its image is ready, the guest's start functions run.
func (s *slot) start(ctx context.Context, engine wazero.Runtime) error {
	mod, err := engine.InstantiateModule(experimental.WithMemoryAllocator(ctx, s.memory), s.rev.code, s.config())
	if err != nil {
		return err
	}
	s.mod = mod
	s.guest = httpwasm.Bind(mod)
	s.fuel = mod.ExportedGlobal(wasmbin.FuelGlobal).(api.MutableGlobal)
	for _, name := range s.rev.state {
		s.state = append(s.state, mod.ExportedGlobal(name).(api.MutableGlobal))
	}
	if !s.image.ready {
		return nil
	}
	if more := (s.image.size - s.memory.size) / pageBytes; more > 0 {
		if _, ok := mod.Memory().Grow(uint32(more)); !ok {
			return &GuestError{Kind: GuestMemory, Detail: s.memory.denied}
		}
	}
	s.setState()
	return nil
}

// setState gives the globals the values of the image.
func (s *slot) setState() {
	for i, g := range s.state {
		g.Set(s.image.globals[i])
	}
}

// config is the instance's part of the module's configuration: what it prints and how it sleeps is the
// business of the request that it works for.
func (s *slot) config() wazero.ModuleConfig {
	c := s.rev.config.
		WithStdout(stream{s, slog.LevelInfo}).
		WithStderr(stream{s, slog.LevelWarn}).
		WithNanosleep(func(ns int64) { s.at.sleep(time.Duration(ns)) })
	if s.image.ready {
		c = c.WithStartFunctions()
	}
	if s.rev.files != nil {
		s.files = &boundedFS{FS: s.rev.files, left: maxOpens}
		c = c.WithFSConfig(wazero.NewFSConfig().WithFSMount(s.files, "/"))
	}
	return c
}

// begin gives the slot to a request.
func (s *slot) begin(i *instance) {
	s.at = i
	if s.files != nil {
		s.files.left = maxOpens
	}
}

// keptGrowth is how many bytes a memory may have grown in a request and be used again: they stay with
// the slot.
const keptGrowth = 16 << 20

// restore makes the slot what it was before its request, and reports whether that was possible. Only
// memory and globals can be restored; who changed more, or grew much, is to be dropped.
func (s *slot) restore(t *tracker) bool {
	grown := s.memory.size - s.image.size
	if t == nil || !s.image.ready || grown > keptGrowth || s.mod.IsClosed() {
		return false
	}
	b, err := s.memory.space.grow(s.memory.size)
	if err != nil || t.restore(b, s.image) != nil {
		return false
	}
	if grown > 0 && !s.shrink() {
		return false
	}
	s.memory.denied = ""
	s.setState()
	return true
}

// shrink gives the guest's memory the image's size again. The engine has no function for it. Its memory
// has an exported field with the bytes, and tells the compiled code of a new size when it grows; so it is
// made a page too small, and grows by that. Where that does not work the slot is dropped.
func (s *slot) shrink() bool {
	page := s.image.size - pageBytes
	memory := reflect.Indirect(reflect.ValueOf(s.mod.Memory()))
	if page < 0 || memory.Kind() != reflect.Struct {
		return false
	}
	buffer := memory.FieldByName("Buffer")
	if !buffer.CanSet() || buffer.Type() != reflect.TypeFor[[]byte]() {
		return false
	}
	buffer.SetBytes(buffer.Bytes()[:page])
	_, ok := s.mod.Memory().Grow(1)
	return ok && int64(s.mod.Memory().Size()) == s.image.size && s.memory.size == s.image.size
}

// drop gives everything back.
func (s *slot) drop() {
	if s.mod != nil {
		_ = s.mod.Close(context.Background())
	}
	s.memory.release()
}

// stream is what an instance prints to.
type stream struct {
	slot  *slot
	level slog.Level
}

// Write passes the bytes to the log of the request.
func (w stream) Write(p []byte) (int, error) {
	return w.slot.at.exchange.Log.Stream(w.level).Write(p)
}
