package sandbox

import (
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero/experimental"
)

// budget is the memory that all guests of a node may have together, or of that the share of one module.
type budget struct {
	size  int64
	of    *budget           // whose share it is; nil = it is the node's
	taken func(delta int64) // called with each change

	dropIdle func() // gives back what is kept without need

	mu   sync.Mutex // guards free and dead
	free int64
	dead map[*budget]int64 // taken by what is to be collected, by share; of the node's only
}

func newBudget(size int64, taken func(delta int64), dropIdle func()) *budget {
	return &budget{size: size, taken: taken, dropIdle: dropIdle, free: size, dead: map[*budget]int64{}}
}

// share is what one module may have: all but a quarter, so that who takes what it can get leaves the
// others some.
func (b *budget) share(dropIdle func()) *budget {
	s := newBudget(b.size-b.size/4, func(int64) {}, dropIdle)
	s.of = b
	return s
}

// take takes n bytes, or nothing. What is idle gives way if need be.
func (b *budget) take(n int64) bool {
	if !b.try(n) {
		b.dropIdle()
		if !b.try(n) {
			return false
		}
	}
	if b.of == nil || b.of.take(n) {
		return true
	}
	b.put(n)
	return false
}

func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false
	}
	b.free -= n
	b.taken(n)
	return true
}

func (b *budget) put(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.taken(-n)
}

func (b *budget) give(n int64) {
	b.put(n)
	if b.of != nil {
		b.of.give(n)
	}
}

// memory is the linear memory of one instance: an address range of its limit, of which what the guest
// has grown to is accessible. It never moves. It belongs to the request and not to the engine, which
// would free it while host functions still hold it.
type memory struct {
	space  space
	limit  int64
	size   int64   // what the guest has
	taken  int64   // of the budget; at least size
	budget *budget // of the module
	denied string  // why the guest was denied growth; "" if it never was
}

// newMemory reserves addresses for limit bytes, of which the budget has already given taken.
func newMemory(limit, taken int64, b *budget) (*memory, error) {
	s, err := reserve(limit)
	return &memory{space: s, limit: limit, taken: taken, budget: b}, err
}

// Allocate is called once, when the instance is made.
func (m *memory) Allocate(uint64, uint64) experimental.LinearMemory { return m }

// Reallocate grows the memory to size bytes, or returns nil: for the guest, memory.grow fails.
func (m *memory) Reallocate(size uint64) []byte {
	n := int64(size)
	if n > m.limit {
		m.denied = fmt.Sprintf("it asked for %d KiB of memory and limits.memory is %d KiB", n>>10, m.limit>>10)
		return nil
	}
	if more := n - m.taken; more > 0 {
		if !m.budget.take(more) {
			m.denied = fmt.Sprintf("it asked for %d KiB of memory and %v", n>>10, ErrMemory)
			return nil
		}
		m.taken = n
	}
	b, err := m.space.grow(n)
	if err != nil {
		m.denied = fmt.Sprintf("it asked for %d KiB of memory and the system has none: %v", n>>10, err)
		return nil
	}
	m.size = n
	return b
}

// Free does nothing: see release.
func (m *memory) Free() {}

// release returns everything. The instance must not run any more.
func (m *memory) release() {
	m.space.release()
	m.budget.give(m.taken)
}
