package runtime

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl PAGEMAP_SCAN of /proc/self/pagemap, Linux 6.7 and later (linux/fs.h): it lists the ranges of
// frames of certain kinds.
const (
	pagemapScan = 0xc0606610

	frameFile    = 1 << 2 // unchanged: the file's own
	framePresent = 1 << 3
	frameSwapped = 1 << 4
	frameZero    = 1 << 5 // the kernel's frame of zeros
)

type scanArgs struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, mask, anyOf, result                           uint64
}

type frameRange struct {
	start, end uint64
	_          uint64 // the kinds
}

// scan is what the kernel reads and writes during one call. It lives on the heap and never on a stack,
// which the Go runtime may move while the kernel has an address in it.
type scan struct {
	args   scanArgs
	ranges [128]frameRange
}

// tracker finds the frames of a memory that were written to: the kernel gave the process its own copy.
type tracker struct {
	pagemap *os.File
	fd      uintptr
	scans   sync.Pool // of *scan
}

// openTracker returns an error where the system can't do this.
func openTracker() (*tracker, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	t := &tracker{pagemap: f, fd: f.Fd(), scans: sync.Pool{New: func() any { return new(scan) }}}
	probe := make([]byte, 4*frame)
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(probe))))
	if err := t.written(at&^(frame-1), frame, func(int64, int64) {}); err != nil {
		_ = f.Close()
		return nil, err
	}
	return t, nil
}

func (t *tracker) close() { _ = t.pagemap.Close() }

// restore makes a memory what it was when the image was loaded into it, and what has grown behind the
// image zero.
func (t *tracker) restore(b []byte, img *image) error {
	if len(b) == 0 {
		return nil
	}
	return t.written(uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), int64(len(b)), func(from, to int64) {
		img.restore(b[from:to], from)
	})
}

// written calls found for each range of frames that are private, present or swapped out, by their
// distance from the start. The kernel may stop anywhere, so the walk goes on from there.
func (t *tracker) written(start uint64, size int64, found func(from, to int64)) error {
	sc := t.scans.Get().(*scan)
	defer t.scans.Put(sc)
	end := start + uint64(size)
	for at := start; at < end; {
		sc.args = scanArgs{
			size: uint64(unsafe.Sizeof(scanArgs{})), start: at, end: end,
			vec: uint64(uintptr(unsafe.Pointer(&sc.ranges))), vecLen: uint64(len(sc.ranges)),
			inverted: frameFile | frameZero, mask: frameFile | frameZero, anyOf: framePresent | frameSwapped,
			result: framePresent | frameSwapped,
		}
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, t.fd, pagemapScan, uintptr(unsafe.Pointer(&sc.args)))
		if errno != 0 {
			return fmt.Errorf("find written frames: %w", errno)
		}
		for _, r := range sc.ranges[:n] {
			found(int64(r.start-start), int64(r.end-start))
		}
		if sc.args.walkEnd <= at {
			return errors.New("find written frames: the walk does not advance")
		}
		at = sc.args.walkEnd
	}
	return nil
}
