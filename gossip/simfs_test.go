package gossip

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// simFS is a file system in memory whose power can be cut before any step. It keeps what was synced
// apart from what was only written, for the content of files and for their names.
type simFS struct {
	mu      sync.Mutex
	names   map[string]*simFile // as programs see them
	durable map[string]*simFile // as they would be after a power cut
	steps   int                 // changes so far
	cutAt   int                 // the power fails instead of this step; 0 = never
	room    int                 // bytes that files may have together; 0 = no limit
	fail    func(op string) error
}

type simFile struct {
	data   []byte
	synced []byte
}

var errPower = errors.New("power is off")

func newSimFS() *simFS {
	return &simFS{names: map[string]*simFile{}, durable: map[string]*simFile{}}
}

// step counts a change and says whether it may happen.
func (s *simFS) step(op string) error {
	s.steps++
	if s.cutAt > 0 && s.steps >= s.cutAt {
		return errPower
	}
	if s.fail != nil {
		return s.fail(op)
	}
	return nil
}

func (s *simFS) ReadFile(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.names[name]; f != nil {
		return slices.Clone(f.data), nil
	}
	return nil, fs.ErrNotExist
}

func (s *simFS) Create(name string) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("create"); err != nil {
		return nil, err
	}
	f := &simFile{}
	s.names[name] = f
	return &simHandle{fs: s, file: f}, nil
}

func (s *simFS) Append(name string) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("append"); err != nil {
		return nil, err
	}
	f := s.names[name]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return &simHandle{fs: s, file: f}, nil
}

func (s *simFS) Rename(oldname, newname string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("rename"); err != nil {
		return err
	}
	f := s.names[oldname]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(s.names, oldname)
	s.names[newname] = f
	return nil
}

func (s *simFS) SyncDir(string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.step("syncdir"); err != nil {
		return err
	}
	s.durable = map[string]*simFile{}
	for name, f := range s.names {
		s.durable[name] = f
	}
	return nil
}

func (s *simFS) MkdirAll(string) error { return nil }

func (s *simFS) used() (n int) {
	for _, f := range s.names {
		n += len(f.data)
	}
	return n
}

// crash returns the file system as the next start finds it: names as they were last synced or as
// they are, contents as they were last synced and any part of what was written since, in which
// blocks that never reached the disk read as zeros.
func (s *simFS) crash(rng *rand.Rand) *simFS {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.durable
	if rng.IntN(2) == 0 {
		names = s.names
	}
	after := newSimFS()
	for name, f := range names {
		data := slices.Clone(f.synced)
		if len(f.data) > len(data) && slices.Equal(f.data[:len(data)], data) {
			tail := slices.Clone(f.data[len(data):][:rng.IntN(len(f.data)-len(data)+1)])
			if rng.IntN(4) == 0 && len(tail) > 0 {
				clear(tail[rng.IntN(len(tail)):])
			}
			data = append(data, tail...)
		}
		kept := &simFile{data: data, synced: slices.Clone(data)}
		after.names[name], after.durable[name] = kept, kept
	}
	return after
}

type simHandle struct {
	fs   *simFS
	file *simFile
}

// Write may write a part before the power fails or the disk is full, as real ones do.
func (h *simHandle) Write(b []byte) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("write"); err != nil {
		n := len(b) / 2
		h.file.data = append(h.file.data, b[:n]...)
		return n, err
	}
	if h.fs.room > 0 && h.fs.used()+len(b) > h.fs.room {
		n := max(0, h.fs.room-h.fs.used())
		h.file.data = append(h.file.data, b[:n]...)
		return n, syscall.ENOSPC
	}
	h.file.data = append(h.file.data, b...)
	return len(b), nil
}

func (h *simHandle) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("sync"); err != nil {
		return err
	}
	h.file.synced = slices.Clone(h.file.data)
	return nil
}

func (h *simHandle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.fs.step("truncate"); err != nil {
		return err
	}
	h.file.data = h.file.data[:min(size, int64(len(h.file.data)))]
	return nil
}

func (h *simHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return h.fs.step("close")
}
