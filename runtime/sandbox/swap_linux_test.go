package sandbox

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestSwappedFrames checks that what a user wrote is found, and undone, also after the kernel has moved
// it to swap space.
func TestSwappedFrames(t *testing.T) {
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil || bytes.Count(swaps, []byte("\n")) < 2 {
		t.Skip("this machine has no swap space")
	}
	tracker, err := openTracker()
	if err != nil {
		t.Skipf("this kernel can't tell: %v", err)
	}
	defer tracker.close()
	want := make([]byte, 64*pageBytes)
	for at := 0; at < len(want)/2; at += 2 * frame {
		want[at] = byte(at>>12) | 1
	}
	img, err := readyImage(want)
	if err != nil {
		t.Fatal(err)
	}
	defer img.close()
	for name, written := range map[string]func(uint64, int64, func(int64, int64)) error{"scan": tracker.scan, "read": tracker.read} {
		tracker.written = written
		m, err := newMemory(1<<26, 0, newBudget(1<<30, func(int64) {}, func() {}))
		if err != nil {
			t.Fatal(err)
		}
		defer m.release()
		if err := m.space.load(img); err != nil {
			t.Fatal(err)
		}
		got := m.Reallocate(uint64(len(want)))
		for at := 0; at < len(got); at += frame {
			got[at+7] = 0xaa
		}
		if err := unix.Madvise(got, unix.MADV_PAGEOUT); err != nil {
			t.Skipf("this kernel does not page out on demand: %v", err)
		}
		if n := swapped(t, got); n < len(got)/frame/2 {
			t.Skipf("only %d of %d frames were swapped out", n, len(got)/frame)
		}
		if err := tracker.restore(got, img); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the memory is not what it was", name)
		}
	}
}

// swapped counts the frames of b that are in swap space.
func swapped(t *testing.T, b []byte) (n int) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	entries := make([]byte, len(b)/frame*entryBytes)
	if _, err := f.ReadAt(entries, int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))/frame*entryBytes); err != nil {
		t.Fatal(err)
	}
	for ; len(entries) > 0; entries = entries[entryBytes:] {
		if binary.NativeEndian.Uint64(entries)&entrySwapped != 0 {
			n++
		}
	}
	return n
}
