package runtime

import (
	"context"
	"fmt"
	goruntime "runtime"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// grant is the fuel that a guest gets at a time: some hundred microseconds. The collector, the network
// and the deadline wait for a guest no longer than it takes to use that up.
const grant = 250_000

type instanceKey struct{}

// serving returns the request that a guest's call belongs to.
func serving(ctx context.Context) *instance { return ctx.Value(instanceKey{}).(*instance) }

// refill is called by a guest whose fuel is used up. It ends the call of a guest whose time is over, and
// lets others have the processor.
func (i *instance) refill(ctx context.Context, left int64) int64 {
	i.check(ctx)
	goruntime.Gosched()
	i.granted += grant - left
	return grant
}

// check ends the guest's call when its request is over.
func (i *instance) check(ctx context.Context) {
	if ctx.Err() != nil {
		i.exchange.Fail(context.Cause(ctx))
	}
}

// instantiateMeter makes the host module that rewritten guests import.
func instantiateMeter(ctx context.Context, r wazero.Runtime) error {
	i64 := []api.ValueType{api.ValueTypeI64}
	b := r.NewHostModuleBuilder(wasmbin.HostModule)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		stack[0] = uint64(serving(ctx).refill(ctx, int64(stack[0])))
	}), i64, i64).Export(wasmbin.Refill)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, _ []uint64) {
		serving(ctx).exchange.Fail(&GuestError{Kind: GuestTrap, Detail: "stack overflow: its calls are nested too deeply"})
	}), nil, nil).Export(wasmbin.TooDeep)
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", wasmbin.HostModule, err)
	}
	return nil
}

// instantiateWASI makes the engine's WASI, watched.
func instantiateWASI(ctx context.Context, r wazero.Runtime) error {
	ctx = experimental.WithFunctionListenerFactory(ctx, watchers{})
	b := r.NewHostModuleBuilder(wasi_snapshot_preview1.ModuleName)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(b)
	i32 := api.ValueTypeI32
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(setFlags), []api.ValueType{i32, i32}, []api.ValueType{i32}).Export("fd_fdstat_set_flags")
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", wasi_snapshot_preview1.ModuleName, err)
	}
	return nil
}

// setFlags is fd_fdstat_set_flags (fd, flags) -> errno. Go's runtime makes its standard streams
// non-blocking when it starts, which they are to it anyway. It succeeds without a change, since a flag
// that the engine kept would be state of an instance outside its memory; for files it is not supported.
func setFlags(_ context.Context, stack []uint64) {
	const standardStreams, success, notSupported = 3, 0, 58
	if uint32(stack[0]) < standardStreams {
		stack[0] = success
		return
	}
	stack[0] = notSupported
}

// stateless are the functions of WASI that leave nothing behind in the engine's part of an instance: its
// table of open files. A request that calls another has an instance that no other request gets.
var stateless = map[string]bool{
	"args_get": true, "args_sizes_get": true, "environ_get": true, "environ_sizes_get": true,
	"clock_res_get": true, "clock_time_get": true, "random_get": true, "sched_yield": true, "poll_oneoff": true,
	"fd_fdstat_get": true, "fd_fdstat_set_flags": true, "fd_filestat_get": true, "fd_prestat_get": true, "fd_prestat_dir_name": true,
	"fd_write": true, "path_filestat_get": true, // writing needs a file that path_open made
}

// watchers watches the functions of WASI: none runs for a request that is over, since the engine's own
// do not look, and those that are not stateless are noted.
type watchers struct{}

// NewFunctionListener is called once for each function.
func (watchers) NewFunctionListener(def api.FunctionDefinition) experimental.FunctionListener {
	return watcher{keeps: !stateless[def.Name()]}
}

type watcher struct{ keeps bool }

// Before is called with the context of the guest's call.
func (w watcher) Before(ctx context.Context, _ api.Module, _ api.FunctionDefinition, _ []uint64, _ experimental.StackIterator) {
	i := serving(ctx)
	i.check(ctx)
	if w.keeps {
		i.tainted = true
	}
}

func (watcher) After(context.Context, api.Module, api.FunctionDefinition, []uint64) {}

func (watcher) Abort(context.Context, api.Module, api.FunctionDefinition, error) {}
