package bundle

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// big returns an archive of some slices.
func big(rng *rand.Rand) []byte {
	b := make([]byte, 4*digest.SliceSize+rng.IntN(digest.SliceSize))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return archive(entry{wasmEntry, "module"}, entry{"files/a", string(b)})
}

// sealAll returns all slices of a blob, with their proofs.
func sealAll(t *testing.T, b []byte) (all [][]byte) {
	t.Helper()
	s := open(t, t.TempDir())
	d := put(t, s, b)
	for i := range digest.Slices(int64(len(b))) {
		sealed, err := s.Slice(d, i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sealed)
	}
	return all
}

// TestPartial: slices in any order make a blob; what is not one is refused; what is here goes on to
// others before the blob is complete, and is still here after a restart.
func TestPartial(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	b := big(rng)
	d, size, all := digest.Sum(b), int64(len(b)), sealAll(t, b)
	dir := t.TempDir()
	s := open(t, dir)
	partial := func() *Partial {
		t.Helper()
		p, err := s.Partial(d, size)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := partial()
	if _, err := s.Partial(d, size); err == nil {
		t.Error("two tries have one file")
	}
	if _, err := s.Partial(d, 1); err == nil {
		t.Error("a size of 1 is taken for that of a bundle")
	}
	order := rng.Perm(len(all))
	for _, i := range order[:2] {
		if err := p.Add(i, all[i]); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Slice(d, i); err != nil || !bytes.Equal(got, all[i]) {
			t.Errorf("slice %d does not go on: %v", i, err)
		}
	}
	if err := p.Add(order[2], all[order[3]]); !errors.Is(err, digest.ErrSlice) {
		t.Errorf("a slice at another's place: %v", err)
	}
	if _, err := s.Slice(d, order[2]); !errors.Is(err, ErrNotFound) {
		t.Errorf("a slice that is not here: %v", err)
	}
	if err := p.Commit(t.Context()); err == nil || s.Has(d) {
		t.Errorf("a blob that lacks slices was committed: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.After(0); err == nil {
		t.Error("what is closed says that more will come")
	}
	if err := p.Add(order[2], all[order[2]]); err == nil {
		t.Error("what is closed takes slices")
	}
	// A crash leaves half an entry, and rot another.
	name := filepath.Join(dir, partialDir, name(d))
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte{byte(order[2]), 0, 0, 0, 99, 0, 0, 0, 'x'})
	f.Close()

	s = open(t, dir) // as after a restart
	p = partial()
	if got, _, err := p.After(0); err != nil || !slices.Equal(got, order[:2]) {
		t.Errorf("after a restart %v are here, want %v: %v", got, order[:2], err)
	}
	_, news, _ := p.After(2)
	for _, i := range append(order[2:], order[0]) {
		if err := p.Add(i, all[i]); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-news:
	default:
		t.Error("nobody is told of new slices")
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, _, err := p.After(2); !errors.Is(err, io.EOF) || !slices.Equal(got, order[2:]) {
		t.Errorf("in the end: %v, %v", got, err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) || !s.Has(d) || s.Coming(d) != nil {
		t.Errorf("after the commit: %v", err)
	}
	if _, err := s.Load(d); err != nil {
		t.Error(err)
	}
}

// TestPartialRot: an entry that rots is never taken for the slice, whether the try goes on or begins anew.
func TestPartialRot(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 0))
	b := big(rng)
	d, size, all := digest.Sum(b), int64(len(b)), sealAll(t, b)
	dir := t.TempDir()
	s := open(t, dir)
	p, err := s.Partial(d, size)
	if err != nil {
		t.Fatal(err)
	}
	for i, sealed := range all {
		if err := p.Add(i, sealed); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, partialDir, name(d))
	rotten, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rotten[2*entryHead+len(all[0])+99] ^= 1
	if err := os.WriteFile(file, rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Slice(d, 1); !errors.Is(err, digest.ErrSlice) {
		t.Errorf("serve a rotten slice: %v", err)
	}
	again := open(t, t.TempDir())
	if err := os.WriteFile(again.path(partialDir, name(d)), rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := again.Partial(d, size)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := q.After(0); len(got) != 1 {
		t.Errorf("%v are taken from a file whose second is rotten", got)
	}
	if err := p.Commit(t.Context()); !errors.Is(err, digest.ErrSlice) || s.Has(d) {
		t.Errorf("commit with a rotten slice: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the rotten file stays: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := again.Forget(func(perigee.Digest) bool { return true }); err != nil || len(listed(t, again)) != 1 {
		t.Errorf("slices that are needed were removed: %v", err)
	}
	if err := again.Forget(func(perigee.Digest) bool { return false }); err != nil || len(listed(t, again)) != 0 {
		t.Errorf("slices that nothing needs stay: %v", err)
	}
}

func listed(t *testing.T, s *Store) []os.DirEntry {
	t.Helper()
	e, err := os.ReadDir(s.path(partialDir))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestPartialPowerCut: whatever a power cut leaves, the next try takes only slices that are right, and
// ends with the blob.
func TestPartialPowerCut(t *testing.T) {
	b := big(rand.New(rand.NewPCG(3, 0)))
	d, size, all := digest.Sum(b), int64(len(b)), sealAll(t, b)
	kept := 0
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 1))
		disk := simdisk.New()
		disk.CutAt = 4 + rng.IntN(30)
		fill := func(s *Store) error {
			p, err := s.Partial(d, size)
			if err != nil {
				return err
			}
			defer p.Close()
			here, _, _ := p.After(0)
			kept += len(here)
			for _, i := range rng.Perm(len(all)) {
				if err := p.Add(i, all[i]); err != nil {
					return err
				}
			}
			return p.Commit(t.Context())
		}
		s, err := OpenStore(disk, "/node/bundles")
		if err == nil {
			_ = fill(s) // the cut may end it
		}
		after := disk.Crash(rng)
		if s, err = OpenStore(after, "/node/bundles"); err != nil {
			t.Fatal(err)
		}
		if err := fill(s); err != nil {
			t.Fatalf("power cut %d: the next try: %v", seed, err)
		}
		if _, err := s.Load(d); err != nil {
			t.Fatalf("power cut %d: %v", seed, err)
		}
	}
	if kept == 0 {
		t.Error("no try found anything of the one before")
	}
}

// TestSliceRot: a blob that rotted is not passed on, whichever byte it was.
func TestSliceRot(t *testing.T) {
	b := big(rand.New(rand.NewPCG(4, 0)))
	for _, before := range []bool{true, false} { // before its tree is known, and after
		dir := t.TempDir()
		s := open(t, dir)
		d := put(t, s, b)
		if !before {
			if _, err := s.Slice(d, 0); err != nil {
				t.Fatal(err)
			}
		}
		bad := bytes.Clone(b)
		bad[2*digest.SliceSize+5] ^= 4
		if err := os.WriteFile(filepath.Join(dir, name(d)), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Slice(d, 2); !errors.Is(err, ErrCorrupt) || s.Has(d) {
			t.Errorf("a rotten slice, tree not known: %v: %v", before, err)
		}
	}
	s := open(t, t.TempDir())
	if _, err := s.Slice(put(t, s, b), 99); !errors.Is(err, ErrNotFound) {
		t.Errorf("a slice beyond the end: %v", err)
	}
}
