//go:build unix

package usage

import (
	"fmt"
	"os"
	"syscall"
)

// mapping is a file in memory, shared with the system.
type mapping struct {
	file  *os.File
	bytes []byte
}

func openMapping(path string, size int) (memory, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return &mapping{f, b}, nil
}

func (m *mapping) data() []byte { return m.bytes }

// sync writes changed pages to disk: the file's and the mapping's are the same.
func (m *mapping) sync() error { return m.file.Sync() }

func (m *mapping) close() error {
	err := syscall.Munmap(m.bytes)
	m.bytes = nil
	if e := m.file.Close(); err == nil {
		err = e
	}
	return err
}
