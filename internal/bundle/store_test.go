package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenStore(vfs.OS{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, b []byte) perigee.Digest {
	t.Helper()
	d := digest.Sum(b)
	if err := s.Put(t.Context(), d, int64(len(b)), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return d
}

// small returns a valid archive of its own for each n.
func small(n int) []byte {
	return archive(entry{wasmEntry, fmt.Sprint("module ", n)}, entry{"files/a", strings.Repeat("a", n)})
}

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "bundles")
	s := open(t, dir)
	site := packSite(t)
	if s.Has(site.Digest) {
		t.Error("an empty store has something")
	}
	if _, _, err := s.Open(site.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("open what is not there: %v", err)
	}
	if _, err := s.Load(site.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("load what is not there: %v", err)
	}
	if err := s.Put(t.Context(), site.Digest, site.Size, site.Open()); err != nil {
		t.Fatal(err)
	}
	other := put(t, s, small(1))
	want := []perigee.Digest{site.Digest, other}
	slices.SortFunc(want, func(a, b perigee.Digest) int { return bytes.Compare(a[:], b[:]) })
	if list, err := s.List(); err != nil || !slices.Equal(list, want) {
		t.Errorf("list: got %v, %v, want %v", list, err, want)
	}

	s = open(t, dir) // as after a restart
	b, err := s.Load(site.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if b.Digest != site.Digest || b.Size != site.Size || !bytes.Equal(b.Wasm, site.Wasm) {
		t.Errorf("loaded %s of %d bytes", b.Digest, b.Size)
	}
	checkSite(t, b.Files)
	r, size, err := s.Open(site.Digest)
	if err != nil || size != site.Size {
		t.Fatalf("open: %d bytes, %v", size, err)
	}
	defer r.Close()

	if err := s.Delete(site.Digest); err != nil || s.Has(site.Digest) {
		t.Errorf("delete: %v", err)
	}
	if err := s.Delete(site.Digest); err != nil {
		t.Errorf("delete again: %v", err)
	}
	checkSite(t, b.Files) // still there for those who use it
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, packed(t, site)) {
		t.Errorf("an open reader got %d bytes, %v", len(got), err)
	}
	if list, err := s.List(); err != nil || !slices.Equal(list, []perigee.Digest{other}) {
		t.Errorf("list: got %v, %v", list, err)
	}
}

func TestStorePutRefuses(t *testing.T) {
	s := open(t, t.TempDir())
	b := small(1)
	d, size := digest.Sum(b), int64(len(b))
	ended, cancel := context.WithCancelCause(t.Context())
	shutdown := errors.New("shutdown")
	cancel(shutdown)
	broken := errors.New("broken")
	for _, tt := range []struct {
		name string
		ctx  context.Context
		d    perigee.Digest
		size int64
		r    io.Reader
		want string
		is   error
	}{
		{"other bytes", t.Context(), d, size, bytes.NewReader(small(2)), "the source has b3:", nil},
		{"too few bytes", t.Context(), d, size, bytes.NewReader(b[:len(b)-1]), "ended after", io.ErrUnexpectedEOF},
		{"too many bytes", t.Context(), d, size, io.MultiReader(bytes.NewReader(b), strings.NewReader("x")), "has more than", nil},
		{"other size announced", t.Context(), d, size + 1, bytes.NewReader(b), "ended after", io.ErrUnexpectedEOF},
		{"no size", t.Context(), d, 0, bytes.NewReader(b), "is not that of a bundle", nil},
		{"negative size", t.Context(), d, -1, bytes.NewReader(b), "is not that of a bundle", nil},
		{"huge size", t.Context(), d, 1 << 40, bytes.NewReader(b), "is not that of a bundle", nil},
		{"context ended", ended, d, size, bytes.NewReader(b), "shutdown", shutdown},
		{"source fails", t.Context(), d, size, io.MultiReader(bytes.NewReader(b[:100]), iotest.ErrReader(broken)), "broken", broken},
	} {
		err := s.Put(tt.ctx, tt.d, tt.size, tt.r)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: got %v, want %q in it", tt.name, err, tt.want)
		}
		if s.Has(tt.d) {
			t.Errorf("%s: the store has it", tt.name)
		}
		if left, err := os.ReadDir(filepath.Join(s.dir, tmpDir)); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", tt.name, left, err)
		}
	}
	put(t, s, b)
	if err := s.Put(t.Context(), d, size, iotest.ErrReader(broken)); err != nil {
		t.Errorf("a blob that is there was read again: %v", err)
	}
}

func TestStoreSweeps(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	d := put(t, s, small(1))
	write(t, dir, contents{tmpDir + "/" + name(d) + "-123": "half", "README": "not ours"})
	s = open(t, dir)
	if left, err := os.ReadDir(filepath.Join(dir, tmpDir)); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if list, err := s.List(); err != nil || !slices.Equal(list, []perigee.Digest{d}) {
		t.Errorf("list: got %v, %v", list, err)
	}
}

// damage changes one bit of a blob in place.
func damage(t *testing.T, s *Store, d perigee.Digest, at int64) {
	t.Helper()
	f, err := os.OpenFile(s.blob(d), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

func isQuarantined(t *testing.T, s *Store, d perigee.Digest) bool {
	t.Helper()
	_, err := os.Stat(s.path(corruptDir, name(d)))
	return err == nil && !s.Has(d)
}

// TestStoreNoticesRot flips a bit at every 64th byte, and looks with both ways of reading.
func TestStoreNoticesRot(t *testing.T) {
	s := open(t, t.TempDir())
	b := small(5000)
	d := digest.Sum(b)
	look := map[string]func() (int, error){
		"load": func() (int, error) { _, err := s.Load(d); return 0, err },
		"open": func() (int, error) {
			r, _, err := s.Open(d)
			if err != nil {
				return 0, err
			}
			defer r.Close()
			n, err := io.Copy(io.Discard, r)
			return int(n), err
		},
	}
	for how, look := range look {
		for at := 0; at < len(b); at += 64 {
			put(t, s, b)
			damage(t, s, d, int64(at))
			n, err := look()
			if !errors.Is(err, ErrCorrupt) || n >= len(b) {
				t.Fatalf("%s, byte %d: got %d bytes, %v", how, at, n, err)
			}
			if !isQuarantined(t, s, d) {
				t.Fatalf("%s, byte %d: not quarantined", how, at)
			}
		}
		for _, size := range []int64{0, 1, int64(len(b)) - 1, int64(len(b)) + 1} {
			put(t, s, b)
			if err := os.Truncate(s.blob(d), size); err != nil {
				t.Fatal(err)
			}
			if _, err := look(); !errors.Is(err, ErrCorrupt) || !isQuarantined(t, s, d) {
				t.Fatalf("%s, %d bytes: got %v", how, size, err)
			}
		}
	}
}

// TestStoreNoticesRotLater damages a blob after it was loaded.
func TestStoreNoticesRotLater(t *testing.T) {
	s := open(t, t.TempDir())
	big := strings.Repeat("0123456789abcdef", 10*guardBlock/16)
	b := archive(module, entry{"files/big", big}, entry{"files/small", "s"})
	d := put(t, s, b)
	loaded, err := s.Load(d)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, s, d, 5*guardBlock+100)
	f, err := loaded.Files.Open("big")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if !errors.Is(err, ErrCorrupt) || !strings.HasPrefix(big, string(got)) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if !isQuarantined(t, s, d) {
		t.Error("not quarantined")
	}
	if got, err := fs.ReadFile(loaded.Files, "small"); err != nil || string(got) != "s" {
		t.Errorf("a file that is not damaged: %q, %v", got, err)
	}
	put(t, s, b) // repaired: what the old bundle still finds must not harm the new blob
	if _, err := fs.ReadFile(loaded.Files, "big"); !errors.Is(err, ErrCorrupt) || !s.Has(d) {
		t.Errorf("after the repair: %v, has %v", err, s.Has(d))
	}
	if again, err := s.Load(d); err != nil {
		t.Error(err)
	} else if got, err := fs.ReadFile(again.Files, "big"); err != nil || string(got) != big {
		t.Errorf("loaded again: %d bytes, %v", len(got), err)
	}
}

func TestStoreKeepsFewCorrupt(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range maxCorrupt + 3 {
		d := put(t, s, small(i))
		damage(t, s, d, 600)
		if _, err := s.Load(d); !errors.Is(err, ErrCorrupt) || s.Has(d) {
			t.Fatalf("blob %d: %v", i, err)
		}
	}
	if kept, err := os.ReadDir(s.path(corruptDir)); err != nil || len(kept) != maxCorrupt {
		t.Errorf("kept %d, %v", len(kept), err)
	}
}

// TestStoreLoadBadArchive stores what has its digest and is no archive: nobody's disk is to blame.
func TestStoreLoadBadArchive(t *testing.T) {
	s := open(t, t.TempDir())
	d := put(t, s, archive(module, entry{"files/../x", ""}))
	if _, err := s.Load(d); err == nil || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "plain relative path") {
		t.Errorf("got %v", err)
	}
	if !s.Has(d) {
		t.Error("it is gone")
	}
}

// badSector is a source that the disk can't read any more.
type badSector struct{}

func (badSector) ReadAt([]byte, int64) (int, error) {
	return 0, &fs.PathError{Op: "read", Err: syscall.EIO}
}

func TestUnreadableIsRot(t *testing.T) {
	corrupt := func() error { return ErrCorrupt }
	g := &guard{r: badSector{}, size: 10, sums: []uint32{0}, corrupt: corrupt}
	if n, err := g.ReadAt(make([]byte, 10), 0); n != 0 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("guard: %d, %v", n, err)
	}
	b := &blobReader{r: io.NewSectionReader(badSector{}, 0, 10), h: digest.New(), left: 10, corrupt: corrupt}
	if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("reader: %d, %v", n, err)
	}
	passing := errors.New("passing")
	b = &blobReader{r: iotest.ErrReader(passing), h: digest.New(), left: 10, corrupt: corrupt}
	for range 2 {
		if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, passing) {
			t.Errorf("reader: %d, %v", n, err)
		}
	}
}

// TestGuard compares reads at all kinds of offsets with the source.
func TestGuard(t *testing.T) {
	for _, size := range []int{1, guardBlock - 1, guardBlock, guardBlock + 1, 3*guardBlock + 7} {
		src := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		var blocks sums
		for rest := src; len(rest) > 0; rest = rest[min(len(rest), 1000):] {
			blocks.Write(rest[:min(len(rest), 1000)])
		}
		blocks.close()
		g := &guard{r: bytes.NewReader(src), size: int64(size), sums: blocks.done, corrupt: func() error { return ErrCorrupt }}
		if err := iotest.TestReader(io.NewSectionReader(g, 0, int64(size)), src); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		for _, at := range []int{0, size / 2, size - 1, guardBlock - 1, guardBlock, size, size + 5} {
			for _, n := range []int{0, 1, 100, guardBlock, size + 1} {
				got, want := make([]byte, n), make([]byte, n)
				gotN, gotErr := g.ReadAt(got, int64(at))
				wantN, wantErr := bytes.NewReader(src).ReadAt(want, int64(at))
				if n == 0 {
					wantErr = nil // an empty read tells nothing
				}
				if gotN != wantN || gotErr != wantErr || !bytes.Equal(got, want) {
					t.Errorf("size %d, %d bytes at %d: got %d, %v, want %d, %v", size, n, at, gotN, gotErr, wantN, wantErr)
				}
			}
		}
	}
}

func TestStoreConcurrently(t *testing.T) {
	s := open(t, t.TempDir())
	blobs := [][]byte{small(1), small(2), small(40_000)}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 15 {
				b := blobs[(worker+i)%len(blobs)]
				d := digest.Sum(b)
				if err := s.Put(t.Context(), d, int64(len(b)), bytes.NewReader(b)); err != nil {
					t.Error(err)
				}
				if loaded, err := s.Load(d); err == nil {
					if _, err := fs.ReadFile(loaded.Files, "a"); err != nil {
						t.Error(err)
					}
				} else if !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				if r, _, err := s.Open(d); err == nil {
					if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
						t.Errorf("read %d bytes, %v", len(got), err)
					}
					r.Close()
				} else if !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				if i%5 == 0 {
					if err := s.Delete(d); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkStoreLoad(b *testing.B) {
	s, err := OpenStore(vfs.OS{}, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	blob := archive(entry{wasmEntry, strings.Repeat("w", 8<<20)}, entry{"files/a", strings.Repeat("a", 8<<20)})
	d := digest.Sum(blob)
	if err := s.Put(b.Context(), d, int64(len(blob)), bytes.NewReader(blob)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(blob)))
	for b.Loop() {
		if _, err := s.Load(d); err != nil {
			b.Fatal(err)
		}
	}
}
