package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/perigee-edge/perigee/internal/mutant"
	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFS holds the real file system and the one of the tests to the same expectations.
func TestFS(t *testing.T) {
	for name, fsys := range map[string]vfs.FS{"os": vfs.OS{}, "simdisk": simdisk.New()} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
			if _, err := fsys.Create(file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("create without the directory: %v", err)
			}
			must(t, fsys.MkdirAll(dir))
			must(t, fsys.MkdirAll(dir))
			for what, err := range map[string]error{
				"append": second(fsys.Append(file)), "open": second(fsys.Open(file)), "remove": fsys.Remove(file), "rename": fsys.Rename(file, other), "stat": second(fsys.Stat(file)),
			} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s of what is not there: %v", what, err)
				}
			}
			f, err := fsys.Create(file)
			must(t, err)
			for _, part := range []string{"hello ", "world"} {
				_, err = io.WriteString(f, part)
				must(t, err)
			}
			must(t, f.Truncate(8))
			_, err = io.WriteString(f, "!")
			must(t, err)
			must(t, f.Sync())
			must(t, f.Close())
			f, err = fsys.Append(file)
			must(t, err)
			_, err = io.WriteString(f, "?")
			must(t, err)
			must(t, f.Close())
			if b, err := vfs.ReadFile(fsys, file, 10); err != nil || string(b) != "hello wo!?" {
				t.Errorf("read %q, %v", b, err)
			}
			if _, err := vfs.ReadFile(fsys, file, 9); err == nil {
				t.Error("a file above the limit is read")
			}
			r, err := fsys.Open(file)
			must(t, err)
			var b [4]byte
			if n, err := r.ReadAt(b[:], 8); n != 2 || err != io.EOF || string(b[:2]) != "!?" {
				t.Errorf("read at 8: %d, %v", n, err)
			}
			if _, err := r.Write(b[:]); err == nil {
				t.Error("a file that is open for reading is written")
			}
			before, err := r.Stat()
			must(t, err)
			must(t, fsys.Rename(file, other))
			after, err := fsys.Stat(other)
			must(t, err)
			if !vfs.SameFile(before, after) || after.Size() != 10 || !after.Mode().IsRegular() || after.Mode().Perm() != 0o600 {
				t.Errorf("after the rename: %v, %d bytes", after.Mode(), after.Size())
			}
			must(t, vfs.Replace(fsys, other, []byte("new")))
			now, err := fsys.Stat(other)
			must(t, err)
			if vfs.SameFile(before, now) {
				t.Error("a file that was replaced is still the same")
			}
			must(t, r.Close())
			must(t, vfs.Replace(fsys, file, nil))
			list, err := fsys.ReadDir(dir)
			if err != nil || len(list) != 2 || list[0].Name() != "file" || list[1].Name() != "other" || list[0].IsDir() {
				t.Errorf("listed %v, %v", list, err)
			}
			must(t, fsys.Remove(file))
			must(t, fsys.SyncDir(dir))
			if free, err := fsys.Free(dir); err != nil || free <= 0 {
				t.Errorf("%d bytes free, %v", free, err)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// TestReplaceCut cuts the power at every step of a Replace: the old content is there, or the new, and the
// new one if Replace had returned.
func TestReplaceCut(t *testing.T) {
	old, now := bytes.Repeat([]byte("o"), 2000), bytes.Repeat([]byte("n"), 1500)
	for cutAt := 1; cutAt < 20; cutAt++ {
		for seed := range uint64(40) {
			d := simdisk.New()
			must(t, d.MkdirAll("/n"))
			must(t, vfs.Replace(d, "/n/f", old))
			d.CutAt = d.Steps() + cutAt
			err := vfs.Replace(d, "/n/f", now)
			got := d.Crash(rand.New(rand.NewPCG(seed, uint64(cutAt)))).Get("/n/f")
			if !bytes.Equal(got, now) && (err == nil || !bytes.Equal(got, old)) {
				t.Fatalf("cut at %d, seed %d: %d bytes %.3q, replaced: %v", cutAt, seed, len(got), got, err)
			}
		}
	}
}

// TestReplaceFull replaces on a full disk: the old content stays, and the attempt takes no room.
func TestReplaceFull(t *testing.T) {
	d := simdisk.New()
	must(t, d.MkdirAll("/n"))
	must(t, vfs.Replace(d, "/n/f", []byte("old")))
	d.SetRoom(10)
	if err := vfs.Replace(d, "/n/f", make([]byte, 100)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("replace on a full disk: %v", err)
	}
	if files := d.Files(); len(files) != 1 || string(d.Get("/n/f")) != "old" {
		t.Errorf("left %v, %q", files, d.Get("/n/f"))
	}
}

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
