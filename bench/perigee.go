package main

import (
	"context"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// sandboxed is Perigee's engine: a guest that meters itself, in package sandbox, with Perigee's own WASI.
type sandboxed struct {
	engine *sandbox.Engine
	module *sandbox.Module
	buffer buffer
}

// newSandboxed compiles a module and makes its image. reuse says whether instances are restored and serve
// again, or each is made from the image.
func newSandboxed(ctx context.Context, wasm []byte, isolation sandbox.Isolation, reuse bool) (_ *sandboxed, err error) {
	rewritten, err := wasmbin.Rewrite(wasm)
	if err != nil {
		return nil, err
	}
	p := &sandboxed{}
	if p.engine, err = sandbox.New(ctx, sandbox.Config{Memory: 1 << 30, DisableReuse: !reuse}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := wasip1.Instantiate(ctx, p.engine.Wasm()); err != nil {
		return nil, err
	}
	if err := httpwasm.Instantiate(ctx, p.engine.Wasm()); err != nil {
		return nil, err
	}
	if p.module, err = p.engine.Load(ctx, rewritten, sandbox.Options{Memory: 128 << 20, Isolation: isolation}); err != nil {
		return nil, err
	}
	return p, p.module.Prepare(system(ctx), func(ctx context.Context, i *sandbox.Instance) error {
		_, err := i.Function("_initialize").Call(ctx)
		return err
	})
}

// system returns a context with a WASI for one request.
func system(ctx context.Context) context.Context {
	return wasip1.New(wasip1.Config{}).Context(ctx)
}

func (p *sandboxed) request(in []byte) (out []byte, err error) {
	i, err := p.module.Get()
	if err != nil {
		return nil, err
	}
	defer func() { i.End(err == nil) }()
	ctx := i.Begin(system(context.Background()), 0)
	if err := i.Start(ctx); err != nil {
		return nil, err
	}
	return p.buffer.exchange(ctx, i.Function, i.Memory(), in)
}

// slot makes an instance ready for a request, and drops it.
func (p *sandboxed) slot() error {
	i, err := p.module.Get()
	if err != nil {
		return err
	}
	defer i.End(false)
	return i.Start(i.Begin(system(context.Background()), 0))
}

func (p *sandboxed) close() { _ = p.engine.Close(context.Background()) }
