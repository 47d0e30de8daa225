package wasip1

import (
	"io/fs"

	"github.com/tetratelabs/wazero/api"
)

// lookupFollow is the lookupflag that a symbolic link at the end of a path is to be followed.
const lookupFollow = 1

// The oflags.
const (
	openCreate = 1 << iota
	openDirectory
	openExclusive
	openTruncate

	openAll = openTruncate<<1 - 1
)

// pathOpen (fd, lookupflags, path, len, oflags, rights, inheriting, fdflags, result).
func pathOpen(s *System, m api.Memory, p []uint64) errno {
	follow, oflags, flags := p[1]&lookupFollow != 0, uint32(p[4]), uint32(p[7])
	rights, inheriting := p[5]&rightsAll, p[6]&rightsAll
	need := rightOpen
	if oflags&openCreate != 0 {
		need |= rightCreateFile
	}
	if oflags&openTruncate != 0 {
		need |= rightPathSetSize
	}
	exclusive := oflags&(openCreate|openExclusive) == openCreate|openExclusive
	t, e := s.resolve(m, p[0], need, p[2], p[3], follow && !exclusive)
	if e != success {
		return e
	}
	if parent := s.at(p[0]); (rights|inheriting)&^parent.inheriting != 0 {
		return notcapable
	}
	if oflags&^openAll != 0 || flags&^flagsAll != 0 || oflags&(openCreate|openDirectory) == openCreate|openDirectory {
		return inval
	}
	if e := openable(t, oflags, rights); e != success {
		return e
	}
	if _, ok := m.Read(uint32(p[8]), 4); !ok {
		return fault
	}
	fd, e := s.vacant()
	if e != success {
		return e
	}
	d := &descriptor{kind: directory, path: t.path, info: t.info, flags: uint16(flags), rights: rights & dirRights, inheriting: inheriting}
	if !t.info.IsDir() {
		f, err := s.config.Files.Open(t.path)
		if err != nil {
			return errnoOf(err)
		}
		d.kind, d.file, d.rights, d.inheriting = file, f, rights&fileRights, 0
	}
	s.fds[fd] = d
	m.WriteUint32Le(uint32(p[8]), uint32(fd))
	return success
}

// openable says whether what a path leads to can be opened in a way.
func openable(t target, oflags uint32, rights uint64) errno {
	switch {
	case t.info == nil && oflags&openCreate == 0, t.info == nil && t.slash:
		return noent
	case t.info == nil:
		return rofs
	case oflags&(openCreate|openExclusive) == openCreate|openExclusive:
		return exist
	case t.info.Mode()&fs.ModeSymlink != 0:
		return loop
	case oflags&openDirectory != 0 && !t.info.IsDir():
		return notdir
	case t.info.IsDir() && (oflags&(openTruncate|openCreate) != 0 || oflags&openDirectory == 0 && rights&rightWrite != 0):
		return isdir
	case t.info.IsDir():
		return success
	case oflags&openTruncate != 0, rights&(rightWrite|rightAllocate) != 0:
		return rofs
	case !t.info.Mode().IsRegular():
		return acces
	}
	return success
}

// pathFilestatGet (fd, lookupflags, path, len, result).
func pathFilestatGet(s *System, m api.Memory, p []uint64) errno {
	t, e := s.existing(m, p[0], rightPathStat, p[2], p[3], p[1]&lookupFollow != 0)
	if e != success {
		return e
	}
	b, ok := m.Read(uint32(p[4]), filestatSize)
	if !ok {
		return fault
	}
	putFilestat(b, t.path, t.info)
	return success
}

// existing is resolve for what has to exist.
func (s *System) existing(m api.Memory, fd, right, ptr, n uint64, follow bool) (target, errno) {
	t, e := s.resolve(m, fd, right, ptr, n, follow)
	if e == success && t.info == nil {
		e = noent
	}
	return t, e
}

// pathReadlink (fd, path, len, buf, len, result). What does not fit is cut off.
func pathReadlink(s *System, m api.Memory, p []uint64) errno {
	t, e := s.existing(m, p[0], rightReadlink, p[1], p[2], false)
	switch {
	case e != success:
		return e
	case t.info.Mode()&fs.ModeSymlink == 0:
		return inval
	}
	to, e := s.readlink(t.path)
	if e != success {
		return e
	}
	b, ok := m.Read(uint32(p[3]), uint32(p[4]))
	if !ok || !m.WriteUint32Le(uint32(p[5]), uint32(min(len(b), len(to)))) {
		return fault
	}
	copy(b, to)
	return success
}

// The rest would change the files. They say what is wrong with their arguments before they say that
// nothing can be changed.

// pathCreateDirectory (fd, path, len).
func pathCreateDirectory(s *System, m api.Memory, p []uint64) errno {
	return s.make(m, p[0], rightCreateDirectory, p[1], p[2])
}

// make is for what makes a new name.
func (s *System) make(m api.Memory, fd, right, ptr, n uint64) errno {
	t, e := s.resolve(m, fd, right, ptr, n, false)
	switch {
	case e != success:
		return e
	case t.info != nil:
		return exist
	}
	return rofs
}

// pathFilestatSetTimes (fd, lookupflags, path, len, read, changed, fstflags).
func pathFilestatSetTimes(s *System, m api.Memory, p []uint64) errno {
	if _, e := s.existing(m, p[0], rightPathSetTimes, p[2], p[3], p[1]&lookupFollow != 0); e != success {
		return e
	}
	if !validTimes(p[6]) {
		return inval
	}
	return rofs
}

// pathLink (old fd, lookupflags, old path, len, new fd, new path, len).
func pathLink(s *System, m api.Memory, p []uint64) errno {
	if _, e := s.existing(m, p[0], rightLinkSource, p[2], p[3], p[1]&lookupFollow != 0); e != success {
		return e
	}
	return s.make(m, p[4], rightLinkTarget, p[5], p[6])
}

// pathRemoveDirectory (fd, path, len).
func pathRemoveDirectory(s *System, m api.Memory, p []uint64) errno {
	t, e := s.existing(m, p[0], rightRemoveDirectory, p[1], p[2], false)
	switch {
	case e != success:
		return e
	case !t.info.IsDir():
		return notdir
	}
	return rofs
}

// pathRename (old fd, old path, len, new fd, new path, len).
func pathRename(s *System, m api.Memory, p []uint64) errno {
	if _, e := s.existing(m, p[0], rightRenameSource, p[1], p[2], false); e != success {
		return e
	}
	if _, e := s.resolve(m, p[3], rightRenameTarget, p[4], p[5], false); e != success {
		return e
	}
	return rofs
}

// pathSymlink (text, len, fd, path, len).
func pathSymlink(s *System, m api.Memory, p []uint64) errno {
	text, ok := m.Read(uint32(p[0]), uint32(p[1]))
	switch {
	case !ok:
		return fault
	case len(text) == 0:
		return noent
	}
	return s.make(m, p[2], rightSymlink, p[3], p[4])
}

// pathUnlinkFile (fd, path, len).
func pathUnlinkFile(s *System, m api.Memory, p []uint64) errno {
	t, e := s.existing(m, p[0], rightUnlink, p[1], p[2], false)
	switch {
	case e != success:
		return e
	case t.info.IsDir():
		return isdir
	}
	return rofs
}
