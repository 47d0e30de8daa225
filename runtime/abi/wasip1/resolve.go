package wasip1

import (
	"bytes"
	"io/fs"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/tetratelabs/wazero/api"
)

// The bounds of paths, as Linux has them.
const (
	maxPath  = 4096
	maxName  = 255
	maxLinks = 40
)

// target is what a path leads to.
type target struct {
	path  string      // as fs.FS knows it
	info  fs.FileInfo // nil: there is nothing, but its directory exists
	slash bool        // the path demands a directory
}

// resolve finds what a path in the guest's memory leads to, from a directory that has the right. A
// symbolic link at its end is followed only if that is asked for. It never leaves the directory.
func (s *System) resolve(m api.Memory, fd, right, ptr, n uint64, follow bool) (target, errno) {
	d := s.at(fd)
	switch {
	case d == nil:
		return target{}, badf
	case d.kind != directory:
		return target{}, notdir
	case d.rights&right != right:
		return target{}, notcapable
	}
	name, e := pathArg(m, ptr, n)
	if e != success {
		return target{}, e
	}
	t := target{path: d.path}
	if e := s.walk(&t, d.path, name, follow); e != success {
		return target{}, e
	}
	if t.info == nil {
		if t.info, e = s.stat(t.path); e == noent {
			return t, s.parent(t.path)
		}
	}
	if e == success && t.slash && !t.info.IsDir() {
		e = notdir
	}
	return t, e
}

// pathArg reads a path and checks what needs no files for it.
func pathArg(m api.Memory, ptr, n uint64) (string, errno) {
	if uint32(n) > maxPath {
		return "", nametoolong
	}
	b, ok := m.Read(uint32(ptr), uint32(n))
	switch {
	case !ok:
		return "", fault
	case len(b) == 0:
		return "", noent
	case bytes.IndexByte(b, 0) >= 0:
		return "", inval
	case !utf8.Valid(b):
		return "", ilseq
	case b[0] == '/':
		return "", notcapable
	}
	return string(b), success
}

// walk goes along a path, name by name. Without symbolic links only ".." needs a look at the files
// before the end.
func (s *System) walk(t *target, base, rest string, follow bool) errno {
	links := 0
	depth := 0
	for rest != "" {
		var name string
		var more bool
		name, rest, more = strings.Cut(rest, "/")
		rest = strings.TrimLeft(rest, "/")
		t.slash = more || name == "." || name == ".."
		switch {
		case name == "." || name == "":
			continue
		case name == "..":
			if depth == 0 {
				return notcapable
			}
			if e := s.needDir(t.path); e != success {
				return e
			}
			t.path, t.info = path.Dir(t.path), nil
			depth--
			continue
		case len(name) > maxName:
			return nametoolong
		}
		t.path, t.info = path.Join(t.path, name), nil
		depth++
		if s.links == nil {
			continue
		}
		info, e := s.lstat(t.path)
		switch {
		case e == noent && rest == "":
			return success
		case e != success:
			return e
		case info.Mode()&fs.ModeSymlink == 0 && rest != "" && !info.IsDir():
			return notdir
		case info.Mode()&fs.ModeSymlink == 0, rest == "" && !more && !follow:
			t.info = info
			continue
		}
		if links++; links > maxLinks {
			return loop
		}
		to, e := s.readlink(t.path)
		switch {
		case e != success:
			return e
		case to == "":
			return noent
		case to[0] == '/':
			return notcapable
		case len(to) > maxPath:
			return nametoolong
		}
		t.path, t.info = path.Dir(t.path), nil
		depth--
		if more {
			to += "/"
		}
		rest = to + rest
	}
	return success
}

// parent says why there is nothing at a path: success if its directory exists.
func (s *System) parent(name string) errno {
	for result := success; name != "."; result = noent {
		name = path.Dir(name)
		info, e := s.stat(name)
		switch {
		case e == noent:
			continue
		case e != success:
			return e
		case !info.IsDir():
			return notdir
		}
		return result
	}
	return noent
}

func (s *System) needDir(name string) errno {
	info, e := s.stat(name)
	if e == success && !info.IsDir() {
		e = notdir
	}
	if e == noent && s.parent(name) == notdir {
		e = notdir
	}
	return e
}

// use counts one use of the files.
func (s *System) use() errno {
	if s.config.Files == nil {
		return noent
	}
	if s.lookups == maxLookups {
		return mfile
	}
	s.lookups++
	return success
}

func (s *System) stat(name string) (fs.FileInfo, errno) {
	if e := s.use(); e != success {
		return nil, e
	}
	info, err := fs.Stat(s.config.Files, name)
	return info, errnoOf(err)
}

func (s *System) lstat(name string) (fs.FileInfo, errno) {
	if e := s.use(); e != success {
		return nil, e
	}
	info, err := s.links.Lstat(name)
	return info, errnoOf(err)
}

func (s *System) readlink(name string) (string, errno) {
	if s.links == nil {
		return "", inval
	}
	if e := s.use(); e != success {
		return "", e
	}
	to, err := s.links.ReadLink(name)
	return to, errnoOf(err)
}
