package sandbox

import (
	"encoding/binary"
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

// The bits of an entry of /proc/self/pagemap, which has eight bytes for each frame of the process
// (Documentation/admin-guide/mm/pagemap.rst).
const (
	entryBytes   = 8
	entryFile    = 1 << 61 // the file's own, or shared
	entrySwapped = 1 << 62
	entryPresent = 1 << 63
)

// tracker finds the frames of a memory that were written to: the kernel gave the process its own copy.
type tracker struct {
	pagemap *os.File
	fd      uintptr
	written func(start uint64, size int64, found func(from, to int64)) error
	scans   sync.Pool // of *scan
	reads   sync.Pool // of *[]byte, for entries
}

// openTracker returns an error where the system can't do this.
func openTracker() (*tracker, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	t := &tracker{
		pagemap: f, fd: f.Fd(),
		scans: sync.Pool{New: func() any { return new(scan) }},
		reads: sync.Pool{New: func() any { b := make([]byte, 512*entryBytes); return &b }},
	}
	t.written = t.scan
	probe := make([]byte, 4*frame)
	at := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(probe))))
	if t.scan(at&^(frame-1), frame, func(int64, int64) {}) == nil {
		return t, nil
	}
	t.written = t.read
	if err := t.read(at&^(frame-1), frame, func(int64, int64) {}); err != nil {
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

// scan calls found for each range of frames that are private, present or swapped out, by their
// distance from the start. The kernel may stop anywhere, so the walk goes on from there.
func (t *tracker) scan(start uint64, size int64, found func(from, to int64)) error {
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

// read is scan for kernels that can't. It also finds frames of zeros that were only read, which does no
// harm but costs.
func (t *tracker) read(start uint64, size int64, found func(from, to int64)) error {
	buf := *t.reads.Get().(*[]byte)
	defer t.reads.Put(&buf)
	from := int64(-1) // of the range at hand
	for at := int64(0); at < size; {
		entries := buf[:min(int64(len(buf)), (size-at)/frame*entryBytes)]
		if _, err := t.pagemap.ReadAt(entries, (int64(start)+at)/frame*entryBytes); err != nil {
			return fmt.Errorf("find written frames: %w", err)
		}
		for ; len(entries) > 0; entries, at = entries[entryBytes:], at+frame {
			e := binary.NativeEndian.Uint64(entries)
			private := e&(entryPresent|entrySwapped) != 0 && e&entryFile == 0
			if private && from < 0 {
				from = at
			}
			if !private && from >= 0 {
				found(from, at)
				from = -1
			}
		}
	}
	if from >= 0 {
		found(from, size)
	}
	return nil
}
