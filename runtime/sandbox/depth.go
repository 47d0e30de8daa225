package sandbox

import (
	"errors"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// ErrStack ends the call of a guest whose nested calls need more memory than the node has for guests.
var ErrStack = errors.New("its calls are nested deeply, and the node's memory budget, or the share of it that one function may have, is taken")

// smallStack is what the stack of a guest may take without being counted.
const smallStack = 256 << 10

// deeper is called by a guest whose depth is used up; left is what it has, below zero. The engine makes a stack
// twice as long when it is full, in Go's heap, so what is counted is twice what there is.
func (i *Instance) deeper(left int64) int64 {
	more := int64(wasmbin.DepthPortion)
	more *= max(1, (more-1-left)/more)
	if i.depth += more; i.depth > wasmbin.MaxDepth {
		panic(ErrTooDeep)
	}
	need := int64(0)
	for _, f := range i.calls {
		need += 2 * stackBytes(f)
	}
	need += (more - wasmbin.DepthPortion) << 10 // one frame that is larger than a portion
	if more := need - i.stack; more > 0 && need > smallStack {
		if !i.module.budget.take(more) {
			panic(ErrStack)
		}
		i.stack = need
	}
	return left + more
}

// stackBytes returns how long the stack of a function is, of which the engine does not tell. It is found by its
// name in the engine's type; where that is another, deep calls are bounded by MaxDepth only.
func stackBytes(f api.Function) int64 {
	if v := reflect.Indirect(reflect.ValueOf(f)); v.Kind() == reflect.Struct {
		if s := v.FieldByName("stack"); s.Kind() == reflect.Slice {
			return int64(s.Len())
		}
	}
	return 0
}

// dropStacks forgets the stacks that deep calls have left.
func (i *Instance) dropStacks() {
	if i.stack > 0 {
		clear(i.calls)
		i.module.budget.giveLater(i.stack)
		i.stack = 0
	}
}

// collectAfter is how long the memory of stacks waits, so that it is collected for many at once.
const collectAfter = 500 * time.Millisecond

// giveLater gives back n bytes of Go's heap that nobody refers to any more, once the system has them.
func (b *budget) giveLater(n int64) {
	node := b.of
	node.mu.Lock()
	defer node.mu.Unlock()
	if len(node.dead) == 0 {
		time.AfterFunc(collectAfter, node.collect)
	}
	node.dead[b] += n
}

func (b *budget) collect() {
	b.mu.Lock()
	dead := b.dead
	b.dead = map[*budget]int64{}
	b.mu.Unlock()
	debug.FreeOSMemory()
	for share, n := range dead {
		share.give(n)
	}
}
