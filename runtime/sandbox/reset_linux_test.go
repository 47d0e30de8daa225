package sandbox

import (
	"bytes"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestTrackerFindsAll writes to more ranges of frames than the kernel reports at once, in the image and
// behind its end, and checks that all are restored.
func TestTrackerFindsAll(t *testing.T) {
	tracker, err := openTracker()
	if err != nil {
		t.Skipf("this kernel can't tell: %v", err)
	}
	defer tracker.close()
	t.Run("scan", func(t *testing.T) { findsAll(t, tracker) })
	tracker.written = tracker.read
	t.Run("read", func(t *testing.T) { findsAll(t, tracker) })
}

func findsAll(t *testing.T, tracker *tracker) {
	want := make([]byte, 2000*frame/pageBytes*pageBytes)
	for at := 0; at < len(want); at += 3 * frame {
		want[at] = byte(at>>12) | 1
	}
	img, err := readyImage(want)
	if err != nil {
		t.Fatal(err)
	}
	defer img.close()
	b := newBudget(1<<30, func(int64) {}, func() {})
	m, err := newMemory(1<<26, 0, b)
	if err != nil {
		t.Fatal(err)
	}
	defer m.release()
	if err := m.space.load(img); err != nil {
		t.Fatal(err)
	}
	got := m.Reallocate(uint64(len(want) + 600*frame))
	want = append(want, make([]byte, 600*frame)...)
	for turn := range 3 {
		for at := turn; at < len(got); at += 2 * frame {
			got[at] = 0xaa
		}
		if bytes.Equal(got, want) {
			t.Fatal("nothing was written")
		}
		if err := tracker.restore(got, img); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("turn %d: the memory is not what it was", turn)
		}
	}
}

// TestTrackerOnGrowingStacks asks the kernel from new goroutines at every depth of the stack, so that
// some of their stacks grow, and move, at the worst moment.
func TestTrackerOnGrowingStacks(t *testing.T) {
	tr, err := openTracker()
	if err != nil {
		t.Skipf("this kernel can't tell: %v", err)
	}
	defer tr.close()
	const size = 64 * frame
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	for i := 0; i < size; i += 2 * frame {
		mem[i] = 1 // every second frame: as many ranges as can be
	}
	start := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem))))
	for depth := range 1000 {
		var wg sync.WaitGroup
		wg.Go(func() {
			nest(depth, func() {
				n := 0
				err := tr.scan(start, size, func(from, to int64) {
					if from != int64(n)*2*frame || to-from != frame {
						t.Errorf("depth %d: range %d to %d", depth, from, to)
					}
					n++
				})
				if err != nil || n != size/frame/2 {
					t.Errorf("depth %d: %d ranges, %v", depth, n, err)
				}
			})
		})
		wg.Wait()
	}
}

// nest calls f with some more of the stack in use for each level.
//
//go:noinline
func nest(depth int, f func()) {
	if depth == 0 {
		f()
		return
	}
	nest(depth-1, f)
}
