package main

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// stock is wazero as it comes, without fuel or any other means against a guest that does not end.
type stock struct {
	runtime wazero.Runtime
	code    wazero.CompiledModule
	buffer  buffer
	warm    api.Module              // the instance for all requests, if they share one
	calls   map[string]api.Function // its exports: each that is asked for has a stack of its own
}

// newStock compiles a module, and makes the instance for all requests if they share one.
func newStock(ctx context.Context, wasm []byte, shared bool) (_ *stock, err error) {
	s := &stock{runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler())}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, s.runtime); err != nil {
		return nil, err
	}
	if s.code, err = s.runtime.CompileModule(ctx, wasm); err != nil {
		return nil, err
	}
	if shared {
		if s.warm, err = s.instance(ctx); err != nil {
			return nil, err
		}
		s.calls = map[string]api.Function{"buffer": s.warm.ExportedFunction("buffer"), "handle": s.warm.ExportedFunction("handle")}
	}
	return s, nil
}

func (s *stock) instance(ctx context.Context) (api.Module, error) {
	return s.runtime.InstantiateModule(ctx, s.code, wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize"))
}

func (s *stock) request(in []byte) ([]byte, error) {
	ctx := context.Background()
	if s.warm != nil {
		return s.buffer.exchange(ctx, func(name string) api.Function { return s.calls[name] }, s.warm.Memory(), in)
	}
	mod, err := s.instance(ctx)
	if err != nil {
		return nil, err
	}
	defer mod.Close(ctx)
	return s.buffer.exchange(ctx, mod.ExportedFunction, mod.Memory(), in)
}

func (s *stock) close() { _ = s.runtime.Close(context.Background()) }

// buffer is the address of a guest's buffer, which its linker chose; 0 until the guest has been asked.
type buffer uint32

// exchange has a guest answer a request.
func (b *buffer) exchange(ctx context.Context, function func(name string) api.Function, memory api.Memory, in []byte) ([]byte, error) {
	if *b == 0 {
		at, err := function("buffer").Call(ctx)
		if err != nil {
			return nil, err
		}
		*b = buffer(at[0])
	}
	memory.Write(uint32(*b), in)
	n, err := function("handle").Call(ctx, uint64(len(in)))
	if err != nil {
		return nil, err
	}
	out, ok := memory.Read(uint32(*b), uint32(n[0]))
	if !ok {
		return nil, fmt.Errorf("an answer of %d bytes at %d", n[0], *b)
	}
	return append([]byte(nil), out...), nil
}
