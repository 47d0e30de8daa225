package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/perigee-edge/perigee"
)

// contents maps paths to what is in the files.
type contents map[string]string

func write(t *testing.T, dir string, c contents) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(c)) {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(c[path]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var site = contents{
	"hello.wasm":                   "\x00asm and more",
	"public/index.html":            "<h1>hello</h1>",
	"public/a-b.txt":               "sorts before a/",
	"public/a/x.txt":               strings.Repeat("x", 1000),
	"public/a/empty":               "",
	"public/.well-known/größe.txt": "words",
	"public/" + strings.Repeat("d", 90) + "/" + strings.Repeat("f", 90): "a name in two parts",
	"not-packed.txt": "",
}

func siteManifest() *perigee.Manifest {
	m := valid()
	m.Files = "public/"
	return &m
}

func packSite(t testing.TB) *Archive {
	t.Helper()
	dir := t.TempDir()
	for path, text := range site {
		full := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Pack(dir, siteManifest())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func packed(t testing.TB, a *Archive) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := a.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPackIsRead(t *testing.T) {
	a := packSite(t)
	b, err := Read(a.Open(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if b.Digest != a.Digest || b.Size != a.Size || string(b.Wasm) != site["hello.wasm"] || string(a.Wasm) != site["hello.wasm"] {
		t.Errorf("archive %s of %d bytes, read as %s of %d bytes, wasm %q and %q", a.Digest, a.Size, b.Digest, b.Size, a.Wasm, b.Wasm)
	}
	checkSite(t, b.Files)
}

// checkSite holds a file system against site.
func checkSite(t *testing.T, fsys fs.FS) {
	t.Helper()
	var want []string
	for path, text := range site {
		name, ok := strings.CutPrefix(path, "public/")
		if !ok {
			continue
		}
		want = append(want, name)
		if got, err := fs.ReadFile(fsys, name); err != nil || string(got) != text {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if err := fstest.TestFS(fsys, want...); err != nil {
		t.Error(err)
	}
	if _, err := fs.Stat(fsys, "not-packed.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file outside the directory: %v", err)
	}
	f, err := fsys.Open("a/x.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.(io.ReadSeeker); !ok {
		t.Error("files do not seek, so http.FileServerFS can't serve them")
	}
}

// TestPackIsDeterministic pins the digest, since digests name bundles for ever.
func TestPackIsDeterministic(t *testing.T) {
	const want = "b3:bdf394cc6c0efb33b702cca262cbf69ff42ed9d6b4d661094ee3c73ba9e914ac"
	first, second := packSite(t), packSite(t)
	if first.Digest != second.Digest {
		t.Errorf("two packings of the same files differ: %s, %s", first.Digest, second.Digest)
	}
	if got := first.Digest.String(); got != want {
		t.Errorf("the archive format changed: got %s, want %s", got, want)
	}
}

// TestPackIsUstar reads an archive with the standard library.
func TestPackIsUstar(t *testing.T) {
	r := tar.NewReader(packSite(t).Open())
	var names []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 || h.PAXRecords != nil {
			t.Errorf("header %+v", h)
		}
		names = append(names, h.Name)
	}
	if len(names) != len(site)-1 || names[0] != wasmEntry || !slices.IsSorted(names[1:]) {
		t.Errorf("entries: %q", names)
	}
}

// TestHeader compares our headers with those of the standard library.
func TestHeader(t *testing.T) {
	long := strings.Repeat("d", 155) + "/" + strings.Repeat("f", 100)
	for _, name := range []string{"a", "files/a.txt", strings.Repeat("a", 100), "d/" + strings.Repeat("f", 99), "d/" + strings.Repeat("f", 100), long, "a/" + long[2:]} {
		for _, size := range []int64{0, 1, 511, 512, 1 << 30} {
			var b bytes.Buffer
			if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
				t.Fatal(err)
			}
			got, err := header(name, size)
			if err != nil || !bytes.Equal(got[:], b.Bytes()) {
				t.Errorf("header of %s, %d bytes: %v\ngot  %q\nwant %q", name, size, err, got, b.Bytes())
			}
		}
	}
	for _, name := range []string{"", strings.Repeat("a", 101), strings.Repeat("a", 101) + "/", "d/" + strings.Repeat("f", 101), "/" + strings.Repeat("f", 100), strings.Repeat("d", 156) + "/f"} {
		if _, err := header(name, 0); err == nil {
			t.Errorf("header of %q: no error", name)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string, m *perigee.Manifest)
		want   string
	}{
		{"no wasm", func(_ *testing.T, _ string, m *perigee.Manifest) { m.Wasm = "x.wasm" }, "there is no x.wasm: build it first"},
		{"not built", func(_ *testing.T, _ string, m *perigee.Manifest) { m.Wasm, m.Build = "x.wasm", "make" }, "run the build command of the manifest first (make)"},
		{"empty wasm", func(t *testing.T, dir string, _ *perigee.Manifest) { write(t, dir, contents{"hello.wasm": ""}) }, "hello.wasm is empty"},
		{"wasm is a directory", func(_ *testing.T, _ string, m *perigee.Manifest) { m.Wasm = "public" }, "public is a directory"},
		{"wasm is a link", func(t *testing.T, dir string, m *perigee.Manifest) {
			m.Wasm = "l.wasm"
			must(t, os.Symlink("hello.wasm", filepath.Join(dir, "l.wasm")))
		}, "l.wasm is a symbolic link"},
		{"wasm too large", func(t *testing.T, dir string, _ *perigee.Manifest) {
			must(t, os.Truncate(filepath.Join(dir, "hello.wasm"), int64(MaxWasm)+1))
		}, "the most is 64MiB"},
		{"wasm behind a link out", func(t *testing.T, dir string, m *perigee.Manifest) {
			m.Wasm = "out/hello.wasm"
			other := t.TempDir()
			write(t, other, contents{"hello.wasm": "x"})
			must(t, os.Symlink(other, filepath.Join(dir, "out")))
		}, "escapes"},
		{"no files", func(_ *testing.T, _ string, m *perigee.Manifest) { m.Files = "static" }, "files: "},
		{"files is a file", func(_ *testing.T, _ string, m *perigee.Manifest) { m.Files = "hello.wasm" }, "hello.wasm is a file: name a directory"},
		{"files is a link", func(t *testing.T, dir string, m *perigee.Manifest) {
			m.Files = "l"
			must(t, os.Symlink("public", filepath.Join(dir, "l")))
		}, "l is a symbolic link"},
		{"link", func(t *testing.T, dir string, _ *perigee.Manifest) {
			must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "public/a/link")))
		}, "public/a/link is a symbolic link: a bundle holds only regular files"},
		{"pipe", func(t *testing.T, dir string, _ *perigee.Manifest) {
			must(t, syscall.Mkfifo(filepath.Join(dir, "public/pipe"), 0o600))
		}, "public/pipe is a pipe"},
		{"socket", func(t *testing.T, dir string, _ *perigee.Manifest) {
			t.Chdir(dir) // the path of a socket is short
			l, err := net.Listen("unix", "public/socket")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "public/socket is a socket"},
		{"case", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{"public/INDEX.html": ""})
		}, `"INDEX.html" and "index.html" differ only in case`},
		{"case of a directory", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{"public/A/y": ""})
		}, `differ only in case`},
		{"backslash", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{`public/a\b`: ""})
		}, "backslash"},
		{"not UTF-8", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{"public/a\xff": ""})
		}, `"public/a\xff"`},
		{"name too long", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{"public/" + strings.Repeat("n", 101): ""})
		}, "too long for the archive"},
		{"too deep", func(t *testing.T, dir string, _ *perigee.Manifest) {
			write(t, dir, contents{"public/" + strings.Repeat("d/", maxDepth+1) + "f": ""})
		}, "more than 32 directories"},
		{"files too large", func(t *testing.T, dir string, _ *perigee.Manifest) {
			must(t, os.Truncate(filepath.Join(dir, "public/index.html"), int64(MaxFiles)))
		}, "more than 256MiB together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, m := t.TempDir(), siteManifest()
			write(t, dir, site)
			tt.change(t, dir, m)
			_, err := Pack(dir, m)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "pack hello: ") {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestPackWithoutFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, contents{"hello.wasm": "w"})
	m := valid()
	a, err := Pack(dir, &m)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size != minArchive {
		t.Errorf("the smallest archive has %d bytes, want %d", a.Size, minArchive)
	}
	b, err := Read(a.Open(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(b.Files); err != nil {
		t.Error(err)
	}
}

// TestEntriesLimit counts files and the directories they make.
func TestEntriesLimit(t *testing.T) {
	tree := newTree(Limits{})
	for i := range MaxEntries / 2 {
		if err := tree.add(fmt.Sprintf("%05d/f", i), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.add("z", 0, 0); err == nil || !strings.Contains(err.Error(), "more than 10000 files and directories") {
		t.Errorf("one more: got %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
