package sandbox

import (
	"fmt"
	"sync"

	"github.com/tetratelabs/wazero/experimental"
)

// budget is the memory that all guests may have together.
type budget struct {
	mu    sync.Mutex
	free  int64
	dead  int64 // taken by what is to be collected
	taken func(delta int64)

	dropIdle func() // gives back what is kept without need
}

// take takes n bytes, or nothing. What is idle gives way if need be.
func (b *budget) take(n int64) bool {
	if b.try(n) {
		return true
	}
	b.dropIdle()
	return b.try(n)
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

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.taken(-n)
}

// memory is the linear memory of one instance: an address range of its limit, of which what the guest
// has grown to is accessible. It never moves. It belongs to the request and not to the engine, which
// would free it while host functions still hold it.
type memory struct {
	space  space
	limit  int64
	size   int64   // what the guest has
	taken  int64   // of the budget; at least size
	budget *budget // of the node
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
			m.denied = fmt.Sprintf("it asked for %d KiB of memory and the node's memory budget is taken", n>>10)
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
