package usage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"
)

// memory has the bytes of a table's file.
type memory interface {
	data() []byte
	sync() error // puts them on disk
	close() error
}

// copied is memory of this process, which sync writes to a file: for systems that can't map files, and for a
// file that could not be made yet.
type copied struct {
	path  string
	file  *os.File // nil = it is not made yet
	words []uint64 // what the bytes are of, since slots need 8-byte alignment
}

func newCopied(path string, size int) *copied {
	return &copied{path: path, words: make([]uint64, size/8)}
}

func (m *copied) data() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.words))), len(m.words)*8)
}

func (m *copied) sync() error {
	if m.file == nil {
		return m.make()
	}
	if _, err := m.file.WriteAt(m.data(), 0); err != nil {
		return err
	}
	return m.file.Sync()
}

// make gives the bytes their file. One that somebody else made meanwhile stays as it is.
func (m *copied) make() error {
	if _, err := os.Lstat(m.path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make usage file: %s is not to be replaced (%v): what is counted goes there after a restart", m.path, err)
	}
	tmp := m.path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(m.data())
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = replace(tmp, m.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(tmp))
	}
	m.file = f
	return nil
}

func (m *copied) close() error {
	m.words = nil
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}
