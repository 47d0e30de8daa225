package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
)

// entry is one entry of an archive made by hand.
type entry struct {
	name string
	data string
}

// archive writes entries in our form, whatever they are.
func archive(entries ...entry) []byte {
	var b bytes.Buffer
	for _, e := range entries {
		h, err := header(e.name, int64(len(e.data)))
		if err != nil {
			panic(err)
		}
		b.Write(h[:])
		b.WriteString(e.data)
		b.Write(make([]byte, int(padded(int64(len(e.data))))-len(e.data)))
	}
	b.Write(make([]byte, 2*blockSize))
	return b.Bytes()
}

// foreign writes entries with the standard library, which can do more than we allow.
func foreign(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range append([]tar.Header{{Name: wasmEntry, Size: 1, Mode: 0o644}}, headers...) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var module = entry{wasmEntry, "w"}

func TestReadRefuses(t *testing.T) {
	good := archive(module, entry{"files/a", "a"}, entry{"files/b", strings.Repeat("b", 600)})
	if _, err := Read(bytes.NewReader(good), Limits{}); err != nil {
		t.Fatal(err)
	}
	edit := func(at int, to string) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	const second = 2 * blockSize // header of files/a
	many := []entry{module}
	for i := range 30 {
		many = append(many, entry{fmt.Sprintf("files/%02d/f", i), ""})
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "cut off"},
		{"only the end", archive(), "end of archive"},
		{"no module", archive(entry{"files/a", "a"}), `the first must be "perigee/handler.wasm"`},
		{"module not first", archive(entry{"files/a", "a"}, module), "the first must be"},
		{"module twice", archive(module, module), `only names below "files/"`},
		{"empty module", archive(entry{wasmEntry, ""}), "0 bytes is not 1 to"},
		{"module too large", archive(entry{wasmEntry, strings.Repeat("w", 2001)}), "2001 bytes is not 1 to 2000B"},
		{"other entry", archive(module, entry{"etc/passwd", ""}), `entry "etc/passwd": only names below`},
		{"second entry below perigee", archive(module, entry{"perigee/x", ""}), "only names below"},
		{"files too large", archive(module, entry{"files/a", strings.Repeat("a", 3000)}, entry{"files/b", strings.Repeat("b", 1001)}), "more than 4000B together"},
		{"too many entries", archive(many...), "more than 50 files and directories"},

		{"wrong order", archive(module, entry{"files/b", ""}, entry{"files/a", ""}), "must be sorted"},
		{"same name twice", archive(module, entry{"files/a", "1"}, entry{"files/a", "2"}), "each once"},
		{"case", archive(module, entry{"files/A", ""}, entry{"files/a", ""}), `"A" and "a" differ only in case`},
		{"case, Kelvin", archive(module, entry{"files/k", ""}, entry{"files/\u212a", ""}), "differ only in case"},
		{"case of directories", archive(module, entry{"files/A/x", ""}, entry{"files/a/y", ""}), `"A" and "a" differ only in case`},
		{"file and directory", archive(module, entry{"files/a", ""}, entry{"files/a-b", ""}, entry{"files/a/b", ""}), `"a" is a file and a directory`},

		{"above", archive(module, entry{"files/../x", ""}), "plain relative path"},
		{"above, deep", archive(module, entry{"files/a/../../x", ""}), "plain relative path"},
		{"absolute", archive(module, entry{"files//etc/passwd", ""}), "plain relative path"},
		{"dot", archive(module, entry{"files/./a", ""}), "plain relative path"},
		{"no name", archive(module, entry{"files/", ""}), "plain relative path"},
		{"directory by name", archive(module, entry{"files/a/", ""}), "plain relative path"},
		{"backslash", archive(module, entry{`files/..\x`, ""}), "backslash"},
		{"control character", archive(module, entry{"files/a\nb", ""}), "unprintable"},
		{"not UTF-8", archive(module, entry{"files/\xff", ""}), "UTF-8"},
		{"deep", archive(module, entry{"files/" + strings.Repeat("d/", 33) + "f", ""}), "more than 32 directories"},

		{"symbolic link", foreign(t, tar.Header{Name: "files/a", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), "symbolic link"},
		{"hard link", foreign(t, tar.Header{Name: "files/a", Typeflag: tar.TypeLink, Linkname: wasmEntry}), "hard link"},
		{"directory", foreign(t, tar.Header{Name: "files/", Typeflag: tar.TypeDir, Mode: 0o755}), "a directory"},
		{"device", foreign(t, tar.Header{Name: "files/a", Typeflag: tar.TypeChar}), "a device"},
		{"pipe", foreign(t, tar.Header{Name: "files/a", Typeflag: tar.TypeFifo}), "a pipe"},
		{"pax global", foreign(t, tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}), "a pax header"},
		{"pax", foreign(t, tar.Header{Name: "files/a", Format: tar.FormatPAX, PAXRecords: map[string]string{"comment": "x"}}), "a pax header"},
		{"long name by GNU", foreign(t, tar.Header{Name: "files/" + strings.Repeat("n", 200), Format: tar.FormatGNU}), "a GNU extension"},
		{"sparse by GNU", edit(second+156, "S"), "a GNU extension"},
		{"old type of file", edit(second+156, "\x00"), `of type '\x00'`},
		{"contiguous file", edit(second+156, "7"), "of type '7'"},
		{"mode", foreign(t, tar.Header{Name: "files/a", Mode: 0o755, Format: tar.FormatUSTAR}), "more than a name and a size"},
		{"owner", foreign(t, tar.Header{Name: "files/a", Mode: 0o644, Uid: 1, Format: tar.FormatUSTAR}), "more than a name and a size"},
		{"owner's name", foreign(t, tar.Header{Name: "files/a", Mode: 0o644, Uname: "root", Format: tar.FormatUSTAR}), "more than a name and a size"},
		{"GNU magic", foreign(t, tar.Header{Name: "files/a", Mode: 0o644, Format: tar.FormatGNU}), "not in ustar form"},
		{"checksum", edit(second+148, "000000"), "more than a name and a size"},
		{"bytes behind the name", edit(second+90, "hidden"), "more than a name and a size"},
		{"size in base 256", edit(second+124, "\x80"), "not 11 octal digits"},
		{"size with spaces", edit(second+124, "          1 "), "not 11 octal digits"},
		{"size larger than the rest", archiveClaiming(t, 1000), "cut off"},

		{"padding", edit(second+blockSize+1, "x"), "padding before byte 2048 is not zero"},
		{"cut in the end", good[:len(good)-1], "cut off"},
		{"one block of zeros", good[:len(good)-blockSize], "cut off"},
		{"cut in a file", good[:second+blockSize+1], "cut off"},
		{"byte behind the end", append(bytes.Clone(good), 0), "behind the end"},
		{"archive behind the end", append(bytes.Clone(good), good...), "behind the end"},
		{"entry behind one block of zeros", append(good[:len(good)-blockSize:len(good)-blockSize], good...), "followed by something else"},
		{"compressed", append([]byte{0x1f, 0x8b}, good...), "entry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := Read(bytes.NewReader(tt.b), Limits{Wasm: 2000, Files: 4000, Entries: 50})
			if err == nil || b != nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "read bundle: ") {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// archiveClaiming returns an archive whose last file has fewer bytes than its header says.
func archiveClaiming(t *testing.T, size int64) []byte {
	t.Helper()
	h, err := header("files/a", size)
	if err != nil {
		t.Fatal(err)
	}
	b := archive(module)
	return append(append(b[:len(b)-2*blockSize], h[:]...), "short"...)
}

// TestReadAnyFlip changes each byte of an archive's headers: the contents may change, the form not.
func TestReadAnyFlip(t *testing.T) {
	good := archive(module, entry{"files/a/b", "b"})
	for _, start := range []int{0, 2 * blockSize, 4 * blockSize, 5 * blockSize} {
		for i := range blockSize {
			b := bytes.Clone(good)
			b[start+i] ^= 1
			if _, err := Read(bytes.NewReader(b), Limits{}); err == nil {
				t.Errorf("a flipped bit in byte %d of the block at %d is not noticed", i, start)
			}
		}
	}
}

func TestReadSlowly(t *testing.T) {
	a := packSite(t)
	b, err := Read(iotest.OneByteReader(a.Open()), Limits{})
	if err != nil || b.Digest != a.Digest {
		t.Errorf("byte by byte: got %v", err)
	}
	broken := errors.New("broken")
	if _, err := Read(io.MultiReader(io.LimitReader(a.Open(), 1000), iotest.ErrReader(broken)), Limits{}); !errors.Is(err, broken) {
		t.Errorf("broken source: got %v", err)
	}
}

// TestReadUsesWhatItGot reads a header that claims the largest module, and nothing behind it.
func TestReadUsesWhatItGot(t *testing.T) {
	h, err := header(wasmEntry, int64(MaxWasm))
	if err != nil {
		t.Fatal(err)
	}
	const runs = 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, err := Read(bytes.NewReader(h[:]), Limits{}); err == nil {
			t.Error("accepted")
		}
	}
	runtime.ReadMemStats(&after)
	if perRun := (after.TotalAlloc - before.TotalAlloc) / runs; perRun > 1<<20 {
		t.Errorf("a header of 512 bytes made Read allocate %d bytes", perRun)
	}
}

func FuzzRead(f *testing.F) {
	var site bytes.Buffer
	if _, err := packSite(f).WriteTo(&site); err != nil {
		f.Fatal(err)
	}
	f.Add(site.Bytes())
	f.Add(archive(module))
	f.Add(archive(module, entry{"files/a/b", "b"}, entry{"files/a/c", strings.Repeat("c", 600)}))
	f.Add(foreign(f, tar.Header{Name: "files/a", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Read(bytes.NewReader(b), Limits{})
		if err != nil {
			return
		}
		// What is accepted has one form: its contents packed again are the same bytes.
		entries := []entry{{wasmEntry, string(got.Wasm)}}
		var names []string
		err = fs.WalkDir(got.Files, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(got.Files, path)
			entries = append(entries, entry{filesPrefix + path, string(data)})
			names = append(names, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(entries[1:], func(a, b entry) int { return strings.Compare(a.name, b.name) })
		if !bytes.Equal(archive(entries...), b) {
			t.Fatal("accepted, and packed again it is another archive")
		}
		if len(names) < 20 {
			if err := fstest.TestFS(got.Files, names...); err != nil {
				t.Fatal(err)
			}
		}
	})
}
