package wasip1_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// The numbers of errors, as the description of the snapshot has them.
const (
	acces, badf, exist, fault, ilseq, inval, ioError, isdir, loop, mfile = 2, 8, 20, 21, 25, 28, 29, 31, 32, 33
	nametoolong, noent, nosys, notdir, notsock, notsup, rofs             = 37, 44, 52, 54, 57, 58, 69
	spipe, notcapable                                                    = 70, 76
)

const (
	create, dir, exclusive, truncate = 1, 2, 4, 8
	root                             = 3
)

func site() fstest.MapFS {
	t := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return fstest.MapFS{
		"a.txt":       {Data: []byte("0123456789"), ModTime: t},
		"sub/b.txt":   {Data: []byte("bee")},
		"sub/c.txt":   {Data: []byte("sea")},
		"sub/deep/d":  {Data: []byte("dee")},
		"to-a":        {Data: []byte("a.txt"), Mode: fs.ModeSymlink},
		"to-sub":      {Data: []byte("sub"), Mode: fs.ModeSymlink},
		"sub/to-up":   {Data: []byte("../a.txt"), Mode: fs.ModeSymlink},
		"out":         {Data: []byte("../../etc/passwd"), Mode: fs.ModeSymlink},
		"sub/out":     {Data: []byte("../../etc/passwd"), Mode: fs.ModeSymlink},
		"absolute":    {Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink},
		"circle":      {Data: []byte("circle2"), Mode: fs.ModeSymlink},
		"circle2":     {Data: []byte("circle"), Mode: fs.ModeSymlink},
		"dangling":    {Data: []byte("nothing"), Mode: fs.ModeSymlink},
		"pipe":        {Mode: fs.ModeNamedPipe},
		"ünïcode.txt": {Data: []byte("u")},
	}
}

// noLinks hides that a file system has symbolic links.
type noLinks struct{ fs.FS }

// TestPaths opens paths with flags from the directory "/", in a file system with links and in one
// without.
func TestPaths(t *testing.T) {
	g := newGuest(t, wasip1.Config{})
	long := strings.Repeat("x", 256)
	for _, tc := range []struct {
		path   string
		oflags uint64
		rights uint64
		want   uint32
	}{
		{"a.txt", 0, readRight, 0},
		{"./a.txt", 0, readRight, 0},
		{"sub/../a.txt", 0, readRight, 0},
		{"sub//deep/.././/b.txt", 0, readRight, 0},
		{"ünïcode.txt", 0, readRight, 0},
		{".", 0, readRight, 0},
		{".", dir, readRight, 0},
		{"sub/", 0, readRight, 0},
		{"sub/deep/..", dir, readRight, 0},
		{"a.txt", create, readRight, 0},
		{"sub", dir, readRight | writeRight, 0},

		{"", 0, readRight, noent},
		{"nothing", 0, readRight, noent},
		{"nothing/x", 0, readRight, noent},
		{"nothing/..", 0, readRight, noent},
		{"a.txt/x", 0, readRight, notdir},
		{"a.txt/x/y", 0, readRight, notdir},
		{"a.txt/..", 0, readRight, notdir},
		{"a.txt/x/..", 0, readRight, notdir},
		{"a.txt/", 0, readRight, notdir},
		{"a.txt/.", 0, readRight, notdir},
		{"a.txt", dir, readRight, notdir},
		{"..", 0, readRight, notcapable},
		{"../a.txt", 0, readRight, notcapable},
		{"sub/../..", 0, readRight, notcapable},
		{"sub/../../root/a.txt", 0, readRight, notcapable},
		{"/a.txt", 0, readRight, notcapable},
		{"//", 0, readRight, notcapable},
		{"a\x00b", 0, readRight, inval},
		{"a\xff", 0, readRight, ilseq},
		{long, 0, readRight, nametoolong},
		{"sub/" + long + "/..", 0, readRight, nametoolong},
		{strings.Repeat("a/", 2049), 0, readRight, nametoolong},

		{"a.txt", 0, readRight | writeRight, rofs},
		{"a.txt", truncate, readRight, rofs},
		{"a.txt", create | truncate, writeRight, rofs},
		{"a.txt", create | exclusive, readRight, exist},
		{"sub", create | exclusive, readRight, exist},
		{"new", create, readRight, rofs},
		{"new", create | exclusive, writeRight, rofs},
		{"sub/new", create, readRight, rofs},
		{"new/", create, readRight, noent},
		{"nothing/new", create, readRight, noent},
		{"a.txt/new", create, readRight, notdir},
		{"sub", create, readRight, isdir},
		{"sub", truncate, readRight, isdir},
		{"sub", 0, writeRight, isdir},
		{"sub", create | dir, readRight, inval},
		{"a.txt", 16, readRight, inval},
		{"pipe", 0, readRight, acces},
	} {
		for name, files := range map[string]fs.FS{"links": site(), "no links": noLinks{site()}} {
			g.sys.Reset(wasip1.Config{Files: files})
			ptr, n := g.put(tc.path)
			if got := g.call("path_open", root, 1, ptr, n, tc.oflags, tc.rights, 0, 0, 64); got != tc.want {
				t.Errorf("%s: open %.40q with %d, rights %#x: errno %d, want %d", name, tc.path, tc.oflags, tc.rights, got, tc.want)
			}
			if g.sys.Pristine() != (tc.want != 0) {
				t.Errorf("%s: open %.40q: pristine is %v", name, tc.path, g.sys.Pristine())
			}
		}
	}
}

// TestLinks follows symbolic links, and does not.
func TestLinks(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	for _, tc := range []struct {
		path     string
		follow   uint32 // errno of opening what it leads to
		nofollow uint32 // and of opening itself
		text     string // what it holds, if it is a link
	}{
		{"to-a", 0, loop, "a.txt"},
		{"to-sub", 0, loop, "sub"},
		{"to-sub/", 0, 0, ""},
		{"to-sub/b.txt", 0, 0, ""},
		{"to-sub/to-up", 0, loop, "../a.txt"},
		{"to-sub/../a.txt", 0, 0, ""},
		{"to-a/", notdir, notdir, ""},
		{"to-a/x", notdir, notdir, ""},
		{"out", notcapable, loop, "../../etc/passwd"},
		{"sub/out", notcapable, loop, "../../etc/passwd"},
		{"absolute", notcapable, loop, "/etc/passwd"},
		{"absolute/x", notcapable, notcapable, ""},
		{"circle", loop, loop, "circle2"},
		{"dangling", noent, loop, "nothing"},
	} {
		ptr, n := g.put(tc.path)
		g.want(tc.follow, "path_open", root, 1, ptr, n, 0, readRight, 0, 0, 64)
		g.want(tc.nofollow, "path_open", root, 0, ptr, n, 0, readRight, 0, 0, 64)
		if tc.text != "" {
			g.want(0, "path_readlink", root, ptr, n, 8192, 100, 64)
			if got := string(g.bytes(8192, g.u32(64))); got != tc.text {
				t.Errorf("%s holds %q", tc.path, got)
			}
			g.want(0, "path_readlink", root, ptr, n, 8192, 2, 64)
			if g.u32(64) != 2 {
				t.Errorf("a link in 2 bytes is %d long", g.u32(64))
			}
			g.want(0, "path_filestat_get", root, 0, ptr, n, 8192)
			if g.bytes(8208, 1)[0] != 7 {
				t.Errorf("%s: type %d", tc.path, g.bytes(8208, 1)[0])
			}
		} else if tc.nofollow == 0 {
			g.want(inval, "path_readlink", root, ptr, n, 8192, 100, 64)
		}
	}
	ptr, n := g.put("dangling") // a link that leads to nothing exists itself
	g.want(exist, "path_open", root, 1, ptr, n, create|exclusive, readRight, 0, 0, 64)
	g.want(rofs, "path_open", root, 1, ptr, n, create, readRight, 0, 0, 64)
}

// TestLinksOfTheSystem follows links that the host would follow out of the directory.
func TestLinksOfTheSystem(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.WriteFile(outside+"/secret", []byte("secret"), 0o600),
		os.Symlink(outside+"/secret", inside+"/direct"),
		os.Symlink(outside, inside+"/dir"),
		os.Symlink("../"+outside[strings.LastIndexByte(outside, '/')+1:]+"/secret", inside+"/relative"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g := newGuest(t, wasip1.Config{Files: os.DirFS(inside)})
	for _, path := range []string{"direct", "dir", "dir/secret", "dir/../secret", "relative", "dir/"} {
		ptr, n := g.put(path)
		g.want(notcapable, "path_open", root, 1, ptr, n, 0, readRight, 0, 0, 64)
		g.want(notcapable, "path_filestat_get", root, 1, ptr, n, 8192)
	}
}

// TestBelowDirectory opens from a directory that was opened.
func TestBelowDirectory(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	sub := g.open(root, "sub", dir)
	if got := g.read(g.open(sub, "b.txt", 0), 100); got != "bee" {
		t.Errorf("%q", got)
	}
	if got := g.read(g.open(sub, "deep/../deep/d", 0), 100); got != "dee" {
		t.Errorf("%q", got)
	}
	ptr, n := g.put("../a.txt") // it exists, and is not below
	g.want(notcapable, "path_open", sub, 1, ptr, n, 0, readRight, 0, 0, 64)
	ptr, n = g.put("to-up")
	g.want(notcapable, "path_open", sub, 1, ptr, n, 0, readRight, 0, 0, 64)
	f := g.open(root, "a.txt", 0)
	g.want(notdir, "path_open", f, 1, ptr, n, 0, readRight, 0, 0, 64)
	g.want(notdir, "path_open", 1, 1, ptr, n, 0, readRight, 0, 0, 64)
	g.want(badf, "path_open", 99, 1, ptr, n, 0, readRight, 0, 0, 64)
}

// reader and seeker are files with fewer methods.
type reader struct{ fs.File }
type seeker struct {
	fs.File
	io.Seeker
}

type fewer struct {
	fs.FS
	wrap func(fs.File) fs.File
}

func (f fewer) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return f.wrap(file), nil
}

// TestRead reads, from files that can do all, that can only seek, and that can only be read.
func TestRead(t *testing.T) {
	for name, files := range map[string]fs.FS{
		"all":  site(),
		"seek": fewer{site(), func(f fs.File) fs.File { return seeker{f, f.(io.Seeker)} }},
		"read": fewer{site(), func(f fs.File) fs.File { return reader{f} }},
	} {
		g := newGuest(t, wasip1.Config{Files: files})
		f := g.open(root, "a.txt", 0)
		if got := g.read(f, 3) + "|" + g.read(f, 0) + "|" + g.read(f, 3); got != "012||345" {
			t.Errorf("%s: %q", name, got)
		}
		ptr, n := g.iovec(4)
		if name == "read" {
			g.want(spipe, "fd_seek", f, 0, 0, 64)
			g.want(spipe, "fd_tell", f, 64)
			g.want(spipe, "fd_pread", f, ptr, n, 1, 64)
			continue
		}
		g.want(0, "fd_pread", f, ptr, n, 8, 64)
		if got := string(g.bytes(8192, g.u32(64))); got != "89" {
			t.Errorf("%s: at 8: %q", name, got)
		}
		g.want(0, "fd_pread", f, ptr, n, 1<<40, 64)
		if g.u32(64) != 0 {
			t.Errorf("%s: %d bytes behind the end", name, g.u32(64))
		}
		if got := g.read(f, 100) + g.read(f, 100); got != "6789" {
			t.Errorf("%s: %q after fd_pread", name, got)
		}
		g.want(inval, "fd_pread", f, ptr, n, 1<<63, 64)
		for _, tc := range []struct {
			delta  int64
			whence uint64
			errno  uint32
			want   uint64
		}{
			{0, 1, 0, 10}, {4, 0, 0, 4}, {-1, 1, 0, 3}, {-10, 2, 0, 0}, {5, 2, 0, 15}, {1<<63 - 1, 0, 0, 1<<63 - 1},
			{1, 1, inval, 1<<63 - 1}, {-1, 0, inval, 1<<63 - 1}, {-11, 2, inval, 1<<63 - 1}, {0, 3, inval, 1<<63 - 1}, {2, 0, 0, 2},
		} {
			g.want(tc.errno, "fd_seek", f, uint64(tc.delta), tc.whence, 64)
			g.want(0, "fd_tell", f, 72)
			if g.u64(72) != tc.want {
				t.Errorf("%s: seek %d from %d: at %d, want %d", name, tc.delta, tc.whence, g.u64(72), tc.want)
			}
		}
		if got := g.read(f, 3); got != "234" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestVectors scatters a read over several buffers.
func TestVectors(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	f := g.open(root, "a.txt", 0)
	for i, v := range [][2]uint32{{8192, 2}, {0xffff_ffff, 0}, {8300, 0}, {8400, 5}, {8500, 50}} {
		g.mod.Memory().WriteUint32Le(512+8*uint32(i), v[0])
		g.mod.Memory().WriteUint32Le(516+8*uint32(i), v[1])
	}
	g.want(fault, "fd_read", f, 512, 2, 64) // even an empty buffer has to be in memory
	g.mod.Memory().WriteUint32Le(520, 0)
	g.want(0, "fd_read", f, 512, 5, 64)
	if got := fmt.Sprintf("%d %s %s %s", g.u32(64), g.bytes(8192, 2), g.bytes(8400, 5), g.bytes(8500, 3)); got != "10 01 23456 789" {
		t.Error(got)
	}
	g.want(inval, "fd_read", f, 512, 1025, 64)
	g.want(fault, "fd_read", f, 2*65536-8, 2, 64)
	g.want(fault, "fd_read", f, 512, 5, 2*65536-3)
	ptr, n := g.iovec(2 * 65536)
	g.want(fault, "fd_read", f, ptr, n, 64)
	g.want(0, "fd_read", f, ptr, 0, 64)
}

// TestReaddir reads a directory in one go, in pieces, and again.
func TestReaddir(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	sub := g.open(root, "sub", dir)
	names := func(size uint32, cookie uint64) (out []string, next uint64) {
		t.Helper()
		g.want(0, "fd_readdir", sub, 8192, uint64(size), cookie, 64)
		b := g.bytes(8192, g.u32(64))
		for len(b) >= 24 && len(b) >= 24+int(le.Uint32(b[16:])) {
			n := le.Uint32(b[16:])
			out = append(out, fmt.Sprint(string(b[24:24+n]), ":", b[20]))
			next = le.Uint64(b)
			b = b[24+n:]
		}
		return out, next
	}
	want := ".:3 ..:3 b.txt:4 c.txt:4 deep:3 out:7 to-up:7"
	all, last := names(4096, 0)
	if got := strings.Join(all, " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if more, _ := names(4096, last); len(more) > 0 {
		t.Errorf("after the end: %v", more)
	}
	for _, cookie := range []uint64{1 << 31, 1 << 63, 1<<64 - 1} {
		if more, _ := names(4096, cookie); len(more) > 0 {
			t.Errorf("from %d: %v", cookie, more)
		}
	}
	var pieces []string
	for cookie := uint64(0); ; {
		some, next := names(40, cookie)
		if len(some) == 0 {
			break
		}
		pieces, cookie = append(pieces, some...), next
	}
	if got := strings.Join(pieces, " "); got != want {
		t.Errorf("in pieces: %s", got)
	}
	g.want(0, "fd_readdir", sub, 8192, 10, 0, 64)
	if g.u32(64) != 10 {
		t.Errorf("a buffer of 10 bytes has %d", g.u32(64))
	}
	g.want(notdir, "fd_readdir", 0, 8192, 100, 0, 64)
	g.want(notdir, "fd_readdir", g.open(root, "a.txt", 0), 8192, 100, 0, 64)
	g.want(0, "fd_seek", sub, 0, 0, 64)
	g.want(inval, "fd_seek", sub, 1, 0, 64)

	// The number of a file is the same wherever it is asked for.
	g.want(0, "fd_readdir", sub, 8192, 4096, 2, 64)
	ino := g.u64(8200)
	ptr, n := g.put("sub/b.txt")
	g.want(0, "path_filestat_get", root, 1, ptr, n, 8192)
	f := g.open(root, "to-sub/b.txt", 0)
	g.want(0, "fd_filestat_get", f, 16384)
	if g.u64(8200) != ino || g.u64(16392) != ino || ino == 0 {
		t.Errorf("inodes %d %d %d", ino, g.u64(8200), g.u64(16392))
	}
}

// TestFilestat reads what is known of files.
func TestFilestat(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site()})
	ptr, n := g.put("a.txt")
	g.want(0, "path_filestat_get", root, 1, ptr, n, 8192)
	b := g.bytes(8192, 64)
	g.want(0, "fd_filestat_get", g.open(root, "a.txt", 0), 8192)
	if !bytes.Equal(b, g.bytes(8192, 64)) {
		t.Errorf("%x by path, %x by descriptor", b, g.bytes(8192, 64))
	}
	mtime := uint64(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).UnixNano())
	if le.Uint64(b) != 1 || b[16] != 4 || le.Uint64(b[24:]) != 1 || le.Uint64(b[32:]) != 10 || le.Uint64(b[40:]) != mtime || le.Uint64(b[48:]) != mtime {
		t.Errorf("filestat %x", b)
	}
	g.want(0, "fd_filestat_get", root, 8192)
	if b := g.bytes(8192, 64); b[16] != 3 || le.Uint64(b[40:]) != 0 {
		t.Errorf("filestat of / %x", b)
	}
	for fd := range uint64(3) {
		g.want(0, "fd_filestat_get", fd, 8192)
	}
	g.want(fault, "fd_filestat_get", root, 2*65536-63)
	g.want(fault, "path_filestat_get", root, 1, ptr, n, 2*65536-63)
	g.want(badf, "fd_filestat_get", 77, 8192)
}

// TestNothingCanBeWritten calls all that would change files.
func TestNothingCanBeWritten(t *testing.T) {
	files := site()
	g := newGuest(t, wasip1.Config{Files: files})
	f := g.open(root, "a.txt", 0)
	ptr, n := g.iovec(3)
	g.want(badf, "fd_write", f, ptr, n, 64)
	g.want(badf, "fd_write", root, ptr, n, 64)
	g.want(badf, "fd_pwrite", f, ptr, n, 0, 64)
	g.want(spipe, "fd_pwrite", 1, ptr, n, 0, 64)
	g.want(badf, "fd_allocate", f, 0, 10)
	g.want(badf, "fd_filestat_set_size", f, 0)
	g.want(inval, "fd_filestat_set_size", 1, 0)
	g.want(rofs, "fd_filestat_set_times", f, 1, 1, 5)
	g.want(inval, "fd_filestat_set_times", f, 1, 1, 3)
	g.want(inval, "fd_filestat_set_times", f, 1, 1, 16)
	g.want(0, "fd_sync", f)
	g.want(0, "fd_datasync", f)
	g.want(inval, "fd_sync", 1)
	type paths struct {
		path                                           string
		mkdir, unlink, rmdir, times, rename, link, sym uint32
	}
	for _, tc := range []paths{
		{"a.txt", exist, rofs, notdir, rofs, rofs, exist, exist},
		{"sub", exist, isdir, rofs, rofs, rofs, exist, exist},
		{"new", rofs, noent, noent, noent, noent, rofs, rofs},
		{"new/", rofs, noent, noent, noent, noent, rofs, rofs},
		{"nothing/new", noent, noent, noent, noent, noent, noent, noent},
		{"a.txt/new", notdir, notdir, notdir, notdir, notdir, notdir, notdir},
		{"../new", notcapable, notcapable, notcapable, notcapable, notcapable, notcapable, notcapable},
		{"to-a", exist, rofs, notdir, rofs, rofs, exist, exist},
	} {
		g.mod.Memory().WriteString(2048, "sub/b.txt")
		ptr, n := g.put(tc.path)
		g.want(tc.mkdir, "path_create_directory", root, ptr, n)
		g.want(tc.unlink, "path_unlink_file", root, ptr, n)
		g.want(tc.rmdir, "path_remove_directory", root, ptr, n)
		g.want(tc.times, "path_filestat_set_times", root, 0, ptr, n, 1, 1, 5)
		g.want(tc.rename, "path_rename", root, ptr, n, root, 2048, 9)
		g.want(tc.link, "path_link", root, 0, 2048, 9, root, ptr, n)
		g.want(tc.sym, "path_symlink", 2048, 9, root, ptr, n)
	}
}

// TestRights takes rights away, and sees what is left.
func TestRights(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site(), Stdin: strings.NewReader("x")})
	f := g.open(root, "a.txt", 0)
	g.want(0, "fd_fdstat_get", f, 8192)
	b := g.bytes(8192, 24)
	const given = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<7 | 1<<21 | 1<<23 | 1<<27
	if b[0] != 4 || le.Uint64(b[8:]) != given || le.Uint64(b[16:]) != 0 {
		t.Errorf("fdstat %x", b)
	}
	g.want(notcapable, "fd_fdstat_set_rights", f, given|writeRight, 0)
	g.want(notcapable, "fd_fdstat_set_rights", f, given, 1)
	g.want(0, "fd_fdstat_set_rights", f, readRight, 0)
	g.want(notcapable, "fd_fdstat_set_rights", f, given, 0)
	ptr, n := g.iovec(2)
	g.want(0, "fd_read", f, ptr, n, 64)
	g.want(notcapable, "fd_pread", f, ptr, n, 0, 64)
	g.want(notcapable, "fd_seek", f, 0, 0, 64)
	g.want(notcapable, "fd_tell", f, 64)
	g.want(notcapable, "fd_filestat_get", f, 8192)
	g.want(notcapable, "fd_sync", f)
	g.want(notcapable, "fd_datasync", f)
	g.want(notcapable, "fd_advise", f, 0, 0, 0)
	g.want(notcapable, "fd_filestat_set_times", f, 0, 0, 0)
	g.want(notcapable, "fd_fdstat_set_flags", f, 0)
	g.want(0, "fd_fdstat_set_rights", f, 0, 0)
	g.want(badf, "fd_read", f, ptr, n, 64)

	g.want(0, "fd_fdstat_get", 1, 8192)
	if b := g.bytes(8192, 24); b[0] != 0 || le.Uint64(b[8:])&(writeRight|readRight) != writeRight || le.Uint16(b[2:]) != 0 {
		t.Errorf("fdstat of standard output %x", b)
	}
	g.want(0, "fd_close", f)
	if !g.sys.Pristine() {
		t.Error("not pristine with all closed")
	}
	g.want(0, "fd_fdstat_set_rights", 0, 0, 0)
	g.want(badf, "fd_read", 0, ptr, n, 64)
	if g.sys.Pristine() {
		t.Error("pristine with fewer rights")
	}
	sub := g.open(root, "sub", dir)
	g.want(0, "fd_fdstat_set_rights", sub, 1<<13, readRight) // open, to read
	ptr, n = g.put("b.txt")
	g.want(notcapable, "path_open", sub, 1, ptr, n, 0, readRight|1<<2, 0, 0, 64)
	g.want(notcapable, "path_open", sub, 1, ptr, n, create, readRight, 0, 0, 64)
	g.want(notcapable, "path_filestat_get", sub, 1, ptr, n, 8192)
	g.want(notcapable, "fd_readdir", sub, 8192, 100, 0, 64)
	g.want(0, "path_open", sub, 1, ptr, n, 0, readRight, 0, 0, 64)
	g.want(0, "fd_fdstat_set_rights", root, 0, 0)
	g.want(notcapable, "path_open", root, 1, ptr, n, 0, readRight, 0, 0, 64)
}

// TestFlags sets flags.
func TestFlags(t *testing.T) {
	const appended, dsync, nonblock = 1, 2, 4
	g := newGuest(t, wasip1.Config{Files: site()})
	f := g.open(root, "a.txt", 0)
	for fd := range uint64(3) { // as Go's runtime does when it starts
		g.want(0, "fd_fdstat_set_flags", fd, nonblock)
		g.want(0, "fd_fdstat_get", fd, 8192)
		if flags := g.bytes(8194, 1)[0]; flags != 0 {
			t.Errorf("flags of %d: %d", fd, flags)
		}
	}
	g.want(0, "fd_fdstat_set_flags", f, nonblock|appended)
	g.want(0, "fd_fdstat_get", f, 8192)
	if flags := g.bytes(8194, 1)[0]; flags != nonblock|appended {
		t.Errorf("flags of a file: %d", flags)
	}
	g.want(notsup, "fd_fdstat_set_flags", f, dsync)
	g.want(inval, "fd_fdstat_set_flags", f, 32)
	g.want(badf, "fd_fdstat_set_flags", 50, 0)
	g.want(inval, "fd_advise", f, 0, 0, 6)
	g.want(inval, "fd_advise", f, 1<<63, 0, 0)
	g.want(0, "fd_advise", f, 0, 10, 5)
	g.want(badf, "fd_advise", root, 0, 0, 0)
	g.want(spipe, "fd_advise", 1, 0, 0, 0)
	g.want(spipe, "fd_seek", 1, 0, 0, 64)
	g.want(spipe, "fd_tell", 0, 64)
	g.want(spipe, "fd_allocate", 1, 0, 1)
}

// TestTable closes, renumbers and uses up descriptors.
func TestTable(t *testing.T) {
	g := newGuest(t, wasip1.Config{Files: site(), MaxOpens: 8})
	var opened []uint64
	for range 4 {
		opened = append(opened, g.open(root, "a.txt", 0))
	}
	if fmt.Sprint(opened) != "[4 5 6 7]" {
		t.Errorf("opened %v", opened)
	}
	ptr, n := g.put("a.txt")
	g.want(mfile, "path_open", root, 1, ptr, n, 0, readRight, 0, 0, 64)
	g.want(0, "fd_close", 5)
	g.want(badf, "fd_close", 5)
	g.want(badf, "fd_renumber", 4, 5)
	g.want(badf, "fd_renumber", 5, 4)
	g.want(notsup, "fd_renumber", root, 4)
	g.want(notsup, "fd_renumber", 4, root)
	g.want(0, "fd_renumber", 4, 4)
	if got := g.read(6, 5); got != "01234" {
		t.Error(got)
	}
	g.want(0, "fd_renumber", 6, 4)
	g.want(badf, "fd_close", 6)
	if got := g.read(4, 5); got != "56789" {
		t.Error(got)
	}
	g.want(0, "fd_renumber", 4, 1) // standard output is a file now
	g.want(badf, "fd_write", 1, ptr, 0, 64)
	g.want(0, "fd_close", 2)
	if fd := g.open(root, "sub", dir); fd != 2 {
		t.Errorf("the lowest free number is 2, got %d", fd)
	}
	for _, fd := range []uint64{8, 1 << 31, 1<<32 - 1} {
		g.want(badf, "fd_close", fd)
	}

	g.want(0, "fd_prestat_get", root, 8192)
	if g.u64(8192) != 1<<32 {
		t.Errorf("prestat %x", g.u64(8192))
	}
	g.want(0, "fd_prestat_dir_name", root, 8192, 1)
	if string(g.bytes(8192, 1)) != "/" {
		t.Error("the directory is not /")
	}
	g.want(nametoolong, "fd_prestat_dir_name", root, 8192, 0)
	g.want(badf, "fd_prestat_get", 2, 8192)
	g.want(badf, "fd_prestat_get", 4, 8192)
	g.want(badf, "fd_prestat_dir_name", 4, 8192, 9)
	g.want(0, "fd_close", root)
	g.want(badf, "fd_prestat_get", root, 8192)

	g.sys.Reset(wasip1.Config{Files: site()})
	if !g.sys.Pristine() {
		t.Error("not pristine after Reset")
	}
	if fd := g.open(root, "a.txt", 0); fd != 4 {
		t.Errorf("after Reset the first file is %d", fd)
	}
	g.sys.Reset(wasip1.Config{})
	g.want(badf, "fd_prestat_get", root, 8192)
	if !g.sys.Pristine() {
		t.Error("not pristine without files")
	}
}

// counted counts what is open.
type counted struct {
	fs.FS
	open, total int
}

type countedFile struct {
	fs.File
	of *counted
}

func (c *counted) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err == nil {
		c.open++
		c.total++
		f = &countedFile{f, c}
	}
	return f, err
}

func (c *counted) ReadDir(name string) ([]fs.DirEntry, error) {
	c.total++
	return fs.ReadDir(c.FS, name)
}

func (f *countedFile) Close() error {
	f.of.open--
	return f.File.Close()
}

// TestBounds opens files without end: how many are open and how often the host is asked are bounded, and
// all are closed at the end.
func TestBounds(t *testing.T) {
	files := &counted{FS: site()}
	g := newGuest(t, wasip1.Config{Files: files})
	for i := range 20_000 {
		if e := g.call("fd_readdir", root, 8192, 4096, 0, 64); e != 0 {
			t.Fatalf("reading a directory for the %dth time: errno %d", i+1, e)
		}
	}
	if files.total > 1 {
		t.Errorf("the directory was read %d times", files.total)
	}
	ptr, n := g.put("sub/b.txt")
	opened := 0
	for g.call("path_open", root, 1, ptr, n, 0, readRight, 0, 0, 64) == 0 {
		opened++
	}
	if opened != 1020 || files.open != 1020 {
		t.Errorf("%d files were opened, %d are open", opened, files.open)
	}
	for i := 0; ; i++ {
		if e := g.call("path_filestat_get", root, 1, ptr, n, 8192); e == mfile {
			break
		} else if i > 10_000 {
			t.Fatalf("%d looks, errno %d", i, e)
		}
	}
	if files.total > 12_000 {
		t.Errorf("the host opened %d files", files.total)
	}
	g.want(0, "fd_close", 5)
	g.want(0, "fd_renumber", 6, 7)
	if files.open != 1018 {
		t.Errorf("%d files are open after two were closed", files.open)
	}
	g.sys.Close()
	if files.open != 0 {
		t.Errorf("%d files are still open", files.open)
	}
	if g.sys.Pristine() {
		t.Error("pristine when closed")
	}
}
