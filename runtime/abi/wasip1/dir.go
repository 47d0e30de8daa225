package wasip1

import (
	"cmp"
	"io/fs"
	"math"
	"path"
	"slices"

	"github.com/tetratelabs/wazero/api"
)

// entry is one of a directory.
type entry struct {
	name string
	ino  uint64
	kind byte
}

const direntSize = 24

// fdReaddir (fd, buf, len, cookie, result) writes entries from a position on, as many as fit and the
// beginning of the next; a buffer that is not full says that there are no more. The cookie of an entry is
// its index: files don't change, so it stays valid.
func fdReaddir(s *System, m api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil:
		return badf
	case d.kind != directory:
		return notdir
	case d.rights&rightReaddir == 0:
		return notcapable
	}
	b, ok := m.Read(uint32(p[1]), uint32(p[2]))
	if !ok || !m.WriteUint32Le(uint32(p[4]), 0) {
		return fault
	}
	list, e := s.list(d.path)
	if e != success {
		return e
	}
	used := 0
	for i := min(p[3], math.MaxInt32); i < uint64(len(list)) && used < len(b); i++ {
		var head [direntSize]byte
		le.PutUint64(head[:], i+1)
		le.PutUint64(head[8:], list[i].ino)
		le.PutUint32(head[16:], uint32(len(list[i].name)))
		head[20] = list[i].kind
		used += copy(b[used:], head[:])
		used += copy(b[used:], list[i].name)
	}
	m.WriteUint32Le(uint32(p[4]), uint32(used))
	return success
}

// list returns the entries of a directory. They are kept, so that each directory costs its memory once
// for a request, however often it is read.
func (s *System) list(dir string) ([]entry, errno) {
	if l, ok := s.listings[dir]; ok {
		return l, success
	}
	if e := s.use(); e != success {
		return nil, e
	}
	found, err := fs.ReadDir(s.config.Files, dir)
	if err != nil {
		return nil, errnoOf(err)
	}
	parent := path.Dir(dir)
	l := make([]entry, 0, len(found)+2)
	l = append(l, entry{".", inode(dir), typeDirectory}, entry{"..", inode(parent), typeDirectory})
	for _, f := range found {
		l = append(l, entry{f.Name(), inode(path.Join(dir, f.Name())), typeOf(f.Type())})
	}
	slices.SortFunc(l[2:], func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	if s.listings == nil {
		s.listings = map[string][]entry{}
	}
	s.listings[dir] = l
	return l, success
}
