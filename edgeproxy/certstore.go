package edgeproxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"sync"

	"github.com/caddyserver/certmagic"
)

// certStorage is certmagic's storage in files that are checked when they are read, with locks in memory: one process owns the directory,
// and lock files that a crash left would hold up the next start.
type certStorage struct {
	certmagic.FileStorage

	mu    sync.Mutex // guards locks
	locks map[string]chan struct{}
}

func newCertStorage(dir string) *certStorage {
	return &certStorage{FileStorage: certmagic.FileStorage{Path: dir}, locks: map[string]chan struct{}{}}
}

// Store implements certmagic.Storage: the value with its SHA-256 before it.
func (s *certStorage) Store(ctx context.Context, key string, value []byte) error {
	sum := sha256.Sum256(value)
	return s.FileStorage.Store(ctx, key, append(sum[:], value...))
}

// Load implements certmagic.Storage. What changed on the disk is not there any more: it is made anew.
func (s *certStorage) Load(ctx context.Context, key string) ([]byte, error) {
	b, err := s.FileStorage.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	if len(b) >= sha256.Size {
		if sum := sha256.Sum256(b[sha256.Size:]); bytes.Equal(sum[:], b[:sha256.Size]) {
			return b[sha256.Size:], nil
		}
	}
	_ = s.FileStorage.Delete(ctx, key) // else it is found again
	return nil, fmt.Errorf("load %s: it changed on the disk: %w", key, fs.ErrNotExist)
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
