package bundle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// Partial is a blob of which some slices are here. Each was verified before it was counted, so that they
// may come from anybody, and go on to others before the blob is complete. It is safe for concurrent use.
type Partial struct {
	store *Store
	want  perigee.Digest
	size  int64
	name  string
	read  vfs.File

	mu    sync.Mutex      // guards the fields below
	write vfs.File        // nil once closed
	end   int64           // of what was written
	at    map[int]written // where each slice is
	order []int           // the slices, as they came
	news  chan struct{}   // closed when a slice comes, and at the end
	err   error           // why nothing more comes
}

// written is a place in the file.
type written struct {
	offset int64
	length int
}

// entryHead is what stands before each slice in the file: its index and its length, little endian.
const entryHead = 8

var errClosed = errors.New("it is not fetched any more")

// Partial opens the blob that is coming, with the slices of an earlier try that are still good. There is
// one for a digest at a time. Close it, or Commit it.
func (s *Store) Partial(d perigee.Digest, size int64) (*Partial, error) {
	p, err := s.partial(d, size)
	if err != nil {
		return nil, fmt.Errorf("store slices of bundle %s: %w", d, err)
	}
	return p, nil
}

func (s *Store) partial(d perigee.Digest, size int64) (*Partial, error) {
	if size < minArchive || size > maxArchive {
		return nil, fmt.Errorf("a size of %d bytes is not that of a bundle: %d to %d", size, minArchive, maxArchive)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.coming[d] != nil {
		return nil, errors.New("they are coming already")
	}
	p := &Partial{store: s, want: d, size: size, name: s.path(partialDir, name(d)), at: map[int]written{}, news: make(chan struct{})}
	if err := p.open(); err != nil {
		return nil, err
	}
	s.coming[d] = p
	return p, nil
}

// open opens the file, and makes it if there is none.
func (p *Partial) open() (err error) {
	p.write, err = p.store.fs.Append(p.name)
	if vfs.NotExist(err) {
		p.write, err = p.store.fs.Create(p.name)
	}
	if err != nil {
		return err
	}
	if p.read, err = p.store.fs.Open(p.name); err == nil {
		p.resume()
		err = p.write.Truncate(p.end)
	}
	if err != nil {
		p.write.Close()
		if p.read != nil {
			p.read.Close()
		}
	}
	return err
}

// resume finds the slices that are in the file, up to the first that is not whole and right: nothing was
// synced, so their proofs alone say what they are.
func (p *Partial) resume() {
	for len(p.order) < p.Count() {
		var head [entryHead]byte
		if _, err := p.read.ReadAt(head[:], p.end); err != nil {
			return
		}
		i, length := int(binary.LittleEndian.Uint32(head[:])), int(binary.LittleEndian.Uint32(head[4:]))
		if length > digest.MaxSealed {
			return
		}
		w := written{p.end + entryHead, length}
		if _, known := p.at[i]; known {
			return
		}
		if _, _, err := p.slice(i, w); err != nil {
			return
		}
		p.noteLocked(i, w)
	}
}

// noteLocked counts a slice. The caller holds mu, or is the only one who knows p.
func (p *Partial) noteLocked(i int, w written) {
	p.at[i], p.end = w, w.offset+int64(w.length)
	p.order = append(p.order, i)
}

// Count returns how many slices the blob has.
func (p *Partial) Count() int { return digest.Slices(p.size) }

// After returns the slices that are here beyond the first n, in the order of their coming, and a channel
// that is closed once there are more. The error says that no more will come.
func (p *Partial) After(n int) ([]int, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.order[min(n, len(p.order)):]), p.news, p.err
}

// Add verifies a sealed slice and keeps it. One that is here already changes nothing. The error wraps
// digest.ErrSlice if it is not what it is said to be.
func (p *Partial) Add(i int, sealed []byte) error {
	if _, err := digest.Unseal(sealed, p.want, p.size, i); err != nil {
		return fmt.Errorf("bundle %s: %w", p.want, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.at[i]; known || p.write == nil {
		return p.err
	}
	entry := binary.LittleEndian.AppendUint32(make([]byte, 0, entryHead+len(sealed)), uint32(i))
	entry = append(binary.LittleEndian.AppendUint32(entry, uint32(len(sealed))), sealed...)
	if _, err := p.write.Write(entry); err != nil {
		return fmt.Errorf("store a slice of bundle %s: %w", p.want, errors.Join(err, p.write.Truncate(p.end)))
	}
	p.noteLocked(i, written{p.end + entryHead, len(sealed)})
	close(p.news)
	p.news = make(chan struct{})
	return nil
}

// sealed returns a slice with its proof.
func (p *Partial) sealed(i int) ([]byte, error) {
	p.mu.Lock()
	w, ok := p.at[i]
	ok = ok && p.write != nil
	p.mu.Unlock()
	if !ok {
		return nil, ErrNotFound
	}
	_, sealed, err := p.slice(i, w)
	return sealed, err
}

// slice reads a slice and verifies it.
func (p *Partial) slice(i int, w written) (content, sealed []byte, err error) {
	sealed = make([]byte, w.length)
	if _, err := p.read.ReadAt(sealed, w.offset); err != nil {
		return nil, nil, err
	}
	content, err = digest.Unseal(sealed, p.want, p.size, i)
	return content, sealed, err
}

// Commit makes a blob of the slices, which must all be here, and closes. It returns once the blob would
// survive a power cut.
func (p *Partial) Commit(ctx context.Context) error {
	err := p.store.Put(ctx, p.want, p.size, &joined{p: p})
	if err == nil {
		err = p.discard(nil)
	}
	return err
}

// joined reads the slices in their order.
type joined struct {
	p    *Partial
	next int
	rest []byte
}

func (j *joined) Read(b []byte) (int, error) {
	if len(j.rest) == 0 {
		if j.next == j.p.Count() {
			return 0, io.EOF
		}
		j.p.mu.Lock()
		w, ok := j.p.at[j.next]
		j.p.mu.Unlock()
		if !ok {
			return 0, fmt.Errorf("slice %d of %d is missing", j.next, j.p.Count())
		}
		content, _, err := j.p.slice(j.next, w)
		if err != nil {
			return 0, errors.Join(err, j.p.discard(err)) // the file is damaged: the next try begins anew
		}
		j.rest = content
		j.next++
	}
	n := copy(b, j.rest)
	j.rest = j.rest[n:]
	return n, nil
}

// Close ends the coming of slices. Those that are here stay for the next try. It may be called after Commit.
func (p *Partial) Close() error { return p.finish(errClosed, false) }

// discard closes and removes the file. err is why nothing more comes; nil = all is here.
func (p *Partial) discard(err error) error { return p.finish(err, true) }

func (p *Partial) finish(why error, remove bool) (err error) {
	p.store.mu.Lock()
	if p.store.coming[p.want] == p {
		delete(p.store.coming, p.want)
	}
	p.store.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.write == nil {
		return nil
	}
	err = errors.Join(p.write.Close(), p.read.Close())
	p.write, p.err = nil, why
	if why == nil {
		p.err = io.EOF
	}
	close(p.news)
	if remove {
		err = errors.Join(err, p.store.fs.Remove(p.name))
	}
	return err
}

// Coming returns the blob of which slices are coming, or nil.
func (s *Store) Coming(d perigee.Digest) *Partial {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.coming[d]
}

// Slice returns a slice with its proof, of a blob that is here or coming. The error wraps ErrNotFound for
// one that is not here.
func (s *Store) Slice(d perigee.Digest, i int) ([]byte, error) {
	f, size, err := s.open(d)
	if errors.Is(err, ErrNotFound) {
		p := s.Coming(d)
		if p == nil {
			return nil, err
		}
		sealed, err := p.sealed(i)
		if err != nil {
			return nil, fmt.Errorf("slice %d of bundle %s: %w", i, d, err)
		}
		return sealed, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sealed, err := s.seal(d, f, size, i)
	if err != nil {
		return nil, fmt.Errorf("slice %d of bundle %s: %w", i, d, err)
	}
	return sealed, nil
}

// seal reads a slice of a blob and proves it. What changed on the disk comes out as ErrCorrupt.
func (s *Store) seal(d perigee.Digest, f vfs.File, size int64, i int) ([]byte, error) {
	if i < 0 || i >= digest.Slices(size) {
		return nil, ErrNotFound
	}
	tree, err := s.trees.of(d, func() ([]byte, error) {
		tree, got, err := digest.Tree(io.NewSectionReader(f, 0, size), size)
		if isRot(err) || err == nil && got != d {
			err = s.quarantine(d, f)
		}
		return tree, err
	})
	if err != nil {
		return nil, err
	}
	at, length := digest.Span(size, i)
	slice := make([]byte, length)
	if _, err := f.ReadAt(slice, at); isRot(err) || errors.Is(err, io.EOF) {
		return nil, s.quarantine(d, f)
	} else if err != nil {
		return nil, err
	}
	sealed, err := digest.Seal(slice, tree, i)
	if err == nil {
		_, err = digest.Unseal(sealed, d, size, i)
	}
	if errors.Is(err, digest.ErrSlice) {
		return nil, s.quarantine(d, f)
	}
	return sealed, err
}

// maxTrees is how many trees are kept, of a few KiB each (at most 160).
const maxTrees = 32

// trees keeps those of the blobs that were asked for last. It is safe for concurrent use.
type trees struct {
	mu   sync.Mutex // guards last; held while a tree is computed, which happens once for each blob
	last []treeOf
}

type treeOf struct {
	d    perigee.Digest
	tree []byte
}

func (t *trees) of(d perigee.Digest, compute func() ([]byte, error)) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.last {
		if e.d == d {
			return e.tree, nil
		}
	}
	tree, err := compute()
	if err != nil {
		return nil, err
	}
	t.last = append(t.last, treeOf{d, tree})
	t.last = t.last[max(0, len(t.last)-maxTrees):]
	return tree, nil
}

// Forget removes the slices of tries that ended, but for those of blobs that are needed.
func (s *Store) Forget(needed func(perigee.Digest) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := s.fs.ReadDir(s.path(partialDir))
	if err != nil {
		return fmt.Errorf("list the slices of bundles: %w", err)
	}
	var errs []error
	for _, e := range entries {
		d, err := perigee.ParseDigest("b3:" + e.Name())
		if err == nil && (s.coming[d] != nil || needed(d)) {
			continue
		}
		if err := s.fs.Remove(s.path(partialDir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("remove the slices of bundle %s: %w", e.Name(), err))
		}
	}
	return errors.Join(errs...)
}
