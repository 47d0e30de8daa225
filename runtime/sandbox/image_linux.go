package sandbox

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// content is an image in a file without a name, so that instances map it and the kernel copies a frame
// when one is written to.
type content struct {
	fd   int
	view []byte // of the file; read only
}

func (c *content) open(size int64) error {
	fd, err := unix.MemfdCreate("perigee-image", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make an image: %w", err)
	}
	c.fd = fd
	if err := unix.Ftruncate(fd, size); err != nil {
		c.close()
		return fmt.Errorf("make an image of %d bytes: %w", size, err)
	}
	return nil
}

func (c *content) write(at int64, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(c.fd, b, at)
		if err != nil {
			return fmt.Errorf("fill an image: %w", err)
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// seal ends the writing.
func (img *image) seal() (err error) {
	if img.resident == 0 {
		return nil
	}
	if img.view, err = unix.Mmap(img.fd, 0, int(img.resident), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		img.close()
		return fmt.Errorf("map an image: %w", err)
	}
	return nil
}

func (c *content) close() {
	if c.view != nil {
		_ = unix.Munmap(c.view)
		c.view = nil
	}
	_ = unix.Close(c.fd)
}

// load puts an image at the beginning of a space that was just reserved.
func (s *space) load(img *image) error {
	_ = unix.Madvise(s.all, unix.MADV_NOHUGEPAGE) // one byte would change 2 MiB; a kernel without them refuses it
	if img.resident == 0 {
		return nil
	}
	at := unsafe.Pointer(unsafe.SliceData(s.all))
	if _, err := unix.MmapPtr(img.fd, 0, at, uintptr(img.resident), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED|unix.MAP_NORESERVE); err != nil {
		return fmt.Errorf("map an image: %w", err)
	}
	_ = unix.Madvise(s.all[:img.resident], unix.MADV_NOHUGEPAGE)
	s.size = img.resident
	return nil
}
