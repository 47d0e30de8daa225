//go:build !unix

package usage

import (
	"os"
	"unsafe"
)

// mapping is a copy of a file, which sync writes back.
type mapping struct {
	file  *os.File
	words []uint64 // what bytes is of, since slots need 8-byte alignment
	bytes []byte
}

func openMapping(path string, size int) (mapping, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return mapping{}, err
	}
	m := mapping{file: f, words: make([]uint64, size/8)}
	m.bytes = unsafe.Slice((*byte)(unsafe.Pointer(&m.words[0])), size)
	if _, err := f.ReadAt(m.bytes, 0); err != nil {
		f.Close()
		return mapping{}, err
	}
	return m, nil
}

func (m *mapping) sync() error {
	if _, err := m.file.WriteAt(m.bytes, 0); err != nil {
		return err
	}
	return m.file.Sync()
}

func (m *mapping) close() error {
	m.words, m.bytes = nil, nil
	return m.file.Close()
}
