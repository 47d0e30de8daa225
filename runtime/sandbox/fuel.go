package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// grant is the fuel that a guest gets at a time: some hundred microseconds. The collector, the network
// and the deadline wait for a guest no longer than it takes to use that up.
const grant = 250_000

// firstGrant is what it gets to begin with, for which it needs no turn.
const firstGrant = 150_000

// Why a guest's call was ended here. The end of the call's context is the other reason: its cause.
var (
	ErrTooDeep = errors.New("its calls are nested too deeply")
	ErrFuel    = errors.New("its fuel is used up")
)

type key struct{}

// running returns the instance that a guest's call belongs to.
func running(ctx context.Context) *Instance { return ctx.Value(key{}).(*Instance) }

// refill is called by a guest whose fuel is used up; left is what it has, below zero. It ends the call of a
// guest whose time or fuel is over, and lets others have the processor.
func (i *Instance) refill(ctx context.Context, left int64) int64 {
	if ctx.Err() != nil {
		panic(context.Cause(ctx))
	}
	more := int64(grant)
	if i.limit > 0 {
		used := i.granted - left
		if more = min(more, i.limit-used); more <= 0 {
			panic(ErrFuel)
		}
	}
	start := time.Now()
	turns := i.module.engine.turns
	if i.turn {
		i.turn = turns.pass(ctx, i.turns)
	} else {
		i.turn = turns.take(ctx, i.turns)
	}
	i.turns++
	i.delay(time.Since(start))
	if !i.turn {
		panic(context.Cause(ctx))
	}
	i.granted += more - left
	return more
}

// Await runs f, in which a host function waits for something: others may compute meanwhile, and the time
// does not count as the guest's.
func (i *Instance) Await(ctx context.Context, f func()) {
	start := time.Now()
	had := i.turn
	i.release()
	func() {
		defer func() { i.waited += time.Since(start) }() // also if f ends the guest's call
		f()
	}()
	if had {
		start = time.Now()
		i.turn = i.module.engine.turns.take(ctx, i.turns)
		if i.delay(time.Since(start)); !i.turn {
			panic(context.Cause(ctx))
		}
	}
}

// delay counts time in which the guest waited for its turn.
func (i *Instance) delay(d time.Duration) {
	i.waited += d
	i.delayed += d
}

// release gives the turn back, if there is one.
func (i *Instance) release() {
	if i.turn {
		i.turn = false
		i.module.engine.turns.give()
	}
}

// Fuel returns what the guest has used since Begin.
func (i *Instance) Fuel() uint64 {
	if i.fuel == nil { // it ended before there was an instance
		return uint64(i.granted)
	}
	return uint64(i.granted - int64(i.fuel.Get()))
}

// CheckFuel returns ErrFuel if the guest has used more than its limit. It is for after a call: guests notice
// only from time to time that they have used up what they were given.
func (i *Instance) CheckFuel() error {
	if i.limit > 0 && i.Fuel() > uint64(i.limit) {
		return ErrFuel
	}
	return nil
}

// instantiateMeter makes the host module that rewritten guests import.
func instantiateMeter(ctx context.Context, r wazero.Runtime) error {
	i64 := []api.ValueType{api.ValueTypeI64}
	b := r.NewHostModuleBuilder(wasmbin.HostModule)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		stack[0] = uint64(running(ctx).refill(ctx, int64(stack[0])))
	}), i64, i64).Export(wasmbin.Refill)
	b.NewFunctionBuilder().WithGoFunction(api.GoFunc(func(ctx context.Context, stack []uint64) {
		stack[0] = uint64(running(ctx).deeper(int64(stack[0])))
	}), i64, i64).Export(wasmbin.Deeper)
	if _, err := b.Instantiate(ctx); err != nil {
		return fmt.Errorf("instantiate %s: %w", wasmbin.HostModule, err)
	}
	return nil
}
