package edgeproxy

import (
	"context"
	"sync"

	"github.com/caddyserver/certmagic"
)

// certStorage is certmagic's storage in files, with locks in memory: one process owns the directory,
// and lock files that a crash left would hold up the next start.
type certStorage struct {
	certmagic.FileStorage

	mu    sync.Mutex // guards locks
	locks map[string]chan struct{}
}

func newCertStorage(dir string) *certStorage {
	return &certStorage{FileStorage: certmagic.FileStorage{Path: dir}, locks: map[string]chan struct{}{}}
}

// Lock waits until nobody has the lock of that name, or ctx ends.
func (s *certStorage) Lock(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		held, ok := s.locks[name]
		if !ok {
			s.locks[name] = make(chan struct{}) // closed by Unlock
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TryLock takes the lock if nobody has it.
func (s *certStorage) TryLock(_ context.Context, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.locks[name]; ok {
		return false, nil
	}
	s.locks[name] = make(chan struct{})
	return true, nil
}

// Unlock gives the lock back.
func (s *certStorage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.locks[name]; ok {
		delete(s.locks, name)
		close(held)
	}
	return nil
}
