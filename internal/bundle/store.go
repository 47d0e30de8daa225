package bundle

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// ErrNotFound is returned for a blob that the store does not have.
var ErrNotFound = errors.New("not in the bundle store")

// ErrCorrupt is returned for a blob that no longer has its digest. The store does not have it any
// more: fetch it again.
var ErrCorrupt = errors.New("changed on the disk, so it was taken out of the bundle store")

// Store keeps archives in a directory, each under its digest. The layout is in the package comment.
type Store struct {
	dir   string
	fs    vfs.FS
	mu    sync.Mutex    // held while a blob comes or goes, so that only the damaged one is quarantined
	temps atomic.Uint64 // files made in tmp
	trees trees

	coming map[perigee.Digest]*Partial // guarded by mu
}

const (
	tmpDir     = "tmp"
	partialDir = "partial"
	corruptDir = "corrupt"
	maxCorrupt = 8 // blobs kept for the operator to look at
)

// OpenStore opens the store in dir, makes it if it is not there, and removes what a process that
// died left half written.
func OpenStore(fsys vfs.FS, dir string) (*Store, error) {
	s := &Store{dir: dir, fs: fsys, coming: map[perigee.Digest]*Partial{}}
	for _, sub := range []string{tmpDir, partialDir, corruptDir} {
		if err := fsys.MkdirAll(s.path(sub)); err != nil {
			return nil, fmt.Errorf("open bundle store %s: %w", dir, err)
		}
	}
	left, err := fsys.ReadDir(s.path(tmpDir))
	if err != nil {
		return nil, fmt.Errorf("open bundle store %s: %w", dir, err)
	}
	for _, e := range left {
		_ = fsys.Remove(s.path(tmpDir, e.Name())) // else the next start tries again
	}
	return s, nil
}

// Put stores the blob that r has, if it has this digest and size, and returns once it would
// survive a power cut. If the store has it already, r is not read. It stops between reads when ctx
// ends. On error the store is as before.
func (s *Store) Put(ctx context.Context, d perigee.Digest, size int64, r io.Reader) error {
	if err := s.put(ctx, d, size, r); err != nil {
		return fmt.Errorf("store bundle %s: %w", d, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, d perigee.Digest, size int64, r io.Reader) error {
	if size < minArchive || size > maxArchive {
		return fmt.Errorf("a size of %d bytes is not that of a bundle: %d to %d", size, minArchive, maxArchive)
	}
	if s.Has(d) {
		// Another Put may have renamed it and not come to the sync yet.
		return s.syncNames()
	}
	temp := s.path(tmpDir, fmt.Sprintf("%s-%d", name(d), s.temps.Add(1)))
	f, err := s.fs.Create(temp)
	if err != nil {
		return err
	}
	err = copyVerified(ctx, f, d, size, r)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		s.mu.Lock()
		err = s.fs.Rename(temp, s.blob(d))
		s.mu.Unlock()
	}
	if err != nil {
		return errors.Join(err, s.fs.Remove(temp))
	}
	return s.syncNames()
}

// Open returns a reader of a blob and its size. The reader verifies: if the blob changed, the last
// read returns ErrCorrupt in place of the last bytes, so that nobody gets all of it, and the blob
// is taken out of the store. A reader that is open outlives Delete.
func (s *Store) Open(d perigee.Digest) (io.ReadCloser, int64, error) {
	f, size, err := s.open(d)
	if err != nil {
		return nil, 0, err
	}
	b := &blobReader{r: f, h: digest.New(), left: size, want: d, corrupt: func() error { return s.quarantine(d, f) }}
	return struct {
		io.Reader
		io.Closer
	}{b, f}, size, nil
}

// Load reads a blob as a bundle. The module is in memory; the files stay on the disk, are verified
// again each time they are read, and can be read after Delete. The disk space of a deleted blob is
// free once its last Bundle is garbage.
func (s *Store) Load(d perigee.Digest) (*Bundle, error) {
	f, size, err := s.open(d)
	if err != nil {
		return nil, err
	}
	b, err := s.load(d, f, size)
	if err != nil {
		f.Close()
		return nil, err
	}
	return b, nil
}

func (s *Store) load(d perigee.Digest, f vfs.File, size int64) (*Bundle, error) {
	corrupt := func() error { return s.quarantine(d, f) }
	h, blocks := digest.New(), new(sums)
	r := io.TeeReader(bufio.NewReaderSize(f, 128<<10), io.MultiWriter(h, blocks))
	scan := scanner{r: r, tree: newTree(Limits{})}
	scanErr := scan.scan()
	// Whether the disk or the author is to blame, only the digest of all of it tells.
	switch _, err := io.Copy(io.Discard, r); {
	case isRot(err) || isRot(scanErr):
		return nil, corrupt()
	case err != nil:
		return nil, fmt.Errorf("load bundle %s: %w", d, err)
	case digest.Of(h) != d:
		return nil, corrupt()
	case scanErr != nil:
		return nil, fmt.Errorf("load bundle %s: %w", d, scanErr)
	}
	blocks.close()
	content := &guard{r: f, size: size, sums: blocks.done, corrupt: corrupt}
	wasm := make([]byte, scan.wasmSize)
	if _, err := content.ReadAt(wasm, blockSize); err != nil {
		return nil, fmt.Errorf("load bundle %s: %w", d, err)
	}
	return &Bundle{Digest: d, Size: size, Wasm: wasm, Files: &files{scan.tree.nodes, content}}, nil
}

// Has reports whether the store has a blob, without reading it.
func (s *Store) Has(d perigee.Digest) bool {
	info, err := s.fs.Stat(s.blob(d))
	return err == nil && info.Mode().IsRegular()
}

// Delete removes a blob. Removing one that is not there is no error.
func (s *Store) Delete(d perigee.Digest) error {
	if err := s.fs.Remove(s.blob(d)); err != nil && !vfs.NotExist(err) {
		return fmt.Errorf("delete bundle %s: %w", d, err)
	}
	if err := s.syncNames(); err != nil {
		return fmt.Errorf("delete bundle %s: %w", d, err)
	}
	return nil
}

// List returns the digests of all blobs, sorted.
func (s *Store) List() ([]perigee.Digest, error) {
	entries, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var list []perigee.Digest
	for _, e := range entries {
		d, err := perigee.ParseDigest("b3:" + e.Name())
		if err == nil && e.Name() == name(d) && e.Type().IsRegular() { // else one of the directories, or not ours
			list = append(list, d)
		}
	}
	return list, nil
}

func (s *Store) open(d perigee.Digest) (vfs.File, int64, error) {
	f, err := s.fs.Open(s.blob(d))
	if vfs.NotExist(err) {
		return nil, 0, fmt.Errorf("open bundle %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open bundle %s: %w", d, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open bundle %s: %w", d, err)
	}
	return f, info.Size(), nil
}

// quarantine takes the blob that f reads out of the store, and returns ErrCorrupt. It keeps the
// first few for the operator. If the store has another file for d by now, that one stays.
func (s *Store) quarantine(d perigee.Digest, f vfs.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := fmt.Errorf("bundle %s: %w", d, ErrCorrupt)
	bad, statErr := f.Stat()
	now, nowErr := s.fs.Stat(s.blob(d))
	if statErr != nil || nowErr != nil || !vfs.SameFile(bad, now) {
		return err // gone already
	}
	move := func() error { return s.fs.Remove(s.blob(d)) }
	if kept, readErr := s.fs.ReadDir(s.path(corruptDir)); readErr == nil && len(kept) < maxCorrupt {
		move = func() error { return s.fs.Rename(s.blob(d), s.path(corruptDir, name(d))) }
	}
	return errors.Join(err, move(), s.syncNames())
}

// syncNames makes what came to the store and what went last.
func (s *Store) syncNames() error { return s.fs.SyncDir(s.dir) }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}
func (s *Store) blob(d perigee.Digest) string { return s.path(name(d)) }

// name is the file name of a blob.
func name(d perigee.Digest) string { return hex.EncodeToString(d[:]) }
