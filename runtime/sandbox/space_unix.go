//go:build unix

package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// space is a range of addresses that becomes memory as it grows.
type space struct {
	all  []byte
	size int64
}

func reserve(limit int64) (space, error) {
	b, err := unix.Mmap(-1, 0, int(limit), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return space{}, fmt.Errorf("reserve %d bytes of addresses: %w", limit, err)
	}
	return space{all: b}, nil
}

func (s *space) grow(size int64) ([]byte, error) {
	if size > s.size {
		if err := unix.Mprotect(s.all[s.size:size], unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil, err
		}
		s.size = size
	}
	return s.all[:size:len(s.all)], nil
}

func (s *space) release() {
	if s.all != nil {
		_ = unix.Munmap(s.all)
		s.all = nil
	}
}
