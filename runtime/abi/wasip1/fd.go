package wasip1

import (
	"math"

	"github.com/tetratelabs/wazero/api"
)

// The sizes of records.
const (
	fdstatSize   = 24
	filestatSize = 64
	prestatSize  = 8
)

// The fdflags.
const (
	flagAppend = 1 << iota
	flagDsync
	flagNonblock
	flagRsync
	flagSync

	flagsAll = flagSync<<1 - 1
)

// fdClose (fd).
func fdClose(s *System, _ api.Memory, p []uint64) errno {
	if s.at(p[0]) == nil {
		return badf
	}
	s.release(uint32(p[0]))
	return success
}

// fdRenumber (from, to): to is closed, and from gets its number. The directory "/" keeps its own: it is
// by number that C libraries know it.
func fdRenumber(s *System, _ api.Memory, p []uint64) errno {
	from, to := s.at(p[0]), s.at(p[1])
	switch {
	case from == nil, to == nil:
		return badf
	case from.preopen, to.preopen:
		return notsup
	case from == to:
		return success
	}
	s.release(uint32(p[1]))
	s.fds[uint32(p[1])], s.fds[uint32(p[0])] = from, nil
	return success
}

// fdPrestatGet (fd, result) is by which a program finds the directories it was given.
func fdPrestatGet(s *System, m api.Memory, p []uint64) errno {
	if d := s.at(p[0]); d == nil || !d.preopen {
		return badf
	}
	b, ok := m.Read(uint32(p[1]), prestatSize)
	if !ok {
		return fault
	}
	clear(b)
	le.PutUint32(b[4:], uint32(len(rootName)))
	return success
}

const rootName = "/"

// fdPrestatDirName (fd, path, len).
func fdPrestatDirName(s *System, m api.Memory, p []uint64) errno {
	if d := s.at(p[0]); d == nil || !d.preopen {
		return badf
	}
	if uint32(p[2]) < uint32(len(rootName)) {
		return nametoolong
	}
	b, ok := m.Read(uint32(p[1]), uint32(len(rootName)))
	if !ok {
		return fault
	}
	copy(b, rootName)
	return success
}

// fdFdstatGet (fd, result).
func fdFdstatGet(s *System, m api.Memory, p []uint64) errno {
	d := s.at(p[0])
	if d == nil {
		return badf
	}
	b, ok := m.Read(uint32(p[1]), fdstatSize)
	if !ok {
		return fault
	}
	clear(b)
	switch d.kind {
	case file:
		b[0] = typeRegular
	case directory:
		b[0] = typeDirectory
	}
	le.PutUint16(b[2:], d.flags)
	le.PutUint64(b[8:], d.rights)
	le.PutUint64(b[16:], d.inheriting)
	return success
}

// fdFdstatSetFlags (fd, flags). Go's runtime makes its standard streams non-blocking when it starts.
// For streams that is accepted and has no effect: reads wait all the same.
func fdFdstatSetFlags(s *System, _ api.Memory, p []uint64) errno {
	d, e := s.need(p[0], rightSetFlags)
	flags := uint32(p[1])
	switch {
	case e != success:
		return e
	case flags&^flagsAll != 0:
		return inval
	case d.stream():
		return success
	case flags&^(flagAppend|flagNonblock) != uint32(d.flags)&^(flagAppend|flagNonblock):
		return notsup // as fcntl, which does not change how a file is synchronised
	}
	d.flags = uint16(flags)
	return success
}

// fdFdstatSetRights (fd, base, inheriting) can only take rights away.
func fdFdstatSetRights(s *System, _ api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil:
		return badf
	case p[1]&^d.rights != 0, p[2]&^d.inheriting != 0:
		return notcapable
	}
	d.rights, d.inheriting = p[1], p[2]
	return success
}

// fdFilestatGet (fd, result).
func fdFilestatGet(s *System, m api.Memory, p []uint64) errno {
	d, e := s.need(p[0], rightStat)
	if e != success {
		return e
	}
	b, ok := m.Read(uint32(p[1]), filestatSize)
	if !ok {
		return fault
	}
	info := d.info
	switch {
	case d.stream():
		clear(b)
		le.PutUint64(b[8:], uint64(d.kind))
		le.PutUint64(b[24:], 1)
		return success
	case info == nil: // the directory "/"
		if info, e = s.stat(d.path); e != success {
			return e
		}
	}
	putFilestat(b, d.path, info)
	return success
}

// fdSeek (fd, delta, whence, result).
func fdSeek(s *System, m api.Memory, p []uint64) errno {
	const set, current, end = 0, 1, 2
	delta, whence := int64(p[1]), uint32(p[2])
	d := s.at(p[0])
	switch {
	case d == nil:
		return badf
	case d.kind == directory && delta == 0 && (whence == set || whence == current): // a rewind
		return putOffset(m, p[3], 0)
	case d.kind == directory:
		return inval
	case !d.seekable():
		return spipe
	case d.rights&rightSeek == 0 && (d.rights&rightTell == 0 || delta != 0 || whence != current):
		return notcapable
	}
	var base int64
	switch whence {
	case set:
	case current:
		base = d.offset
	case end:
		base = d.info.Size()
	default:
		return inval
	}
	if base+delta < 0 { // also where the sum is too large
		return inval
	}
	if e := putOffset(m, p[3], base+delta); e != success {
		return e
	}
	d.offset = base + delta
	return success
}

// fdTell (fd, result).
func fdTell(s *System, m api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil:
		return badf
	case d.kind == directory:
		return putOffset(m, p[1], 0)
	case !d.seekable():
		return spipe
	case d.rights&(rightTell|rightSeek) == 0:
		return notcapable
	}
	return putOffset(m, p[1], d.offset)
}

func putOffset(m api.Memory, ptr uint64, offset int64) errno {
	if !m.WriteUint64Le(uint32(ptr), uint64(offset)) {
		return fault
	}
	return success
}

// fdAdvise (fd, offset, len, advice): there is nothing to be done about it.
func fdAdvise(s *System, _ api.Memory, p []uint64) errno {
	const last = 5 // noreuse
	d := s.at(p[0])
	switch {
	case d == nil, d.kind == directory:
		return badf
	case d.stream():
		return spipe
	case d.rights&rightAdvise == 0:
		return notcapable
	case uint32(p[3]) > last, p[1] > math.MaxInt64, p[2] > math.MaxInt64-p[1]:
		return inval
	}
	return success
}

// fdAllocate (fd, offset, len): no file can be open for writing.
func fdAllocate(s *System, _ api.Memory, p []uint64) errno {
	if d := s.at(p[0]); d != nil && d.stream() {
		return spipe
	}
	return badf
}

// fdDatasync (fd): what can't be changed is always stored.
func fdDatasync(s *System, _ api.Memory, p []uint64) errno { return s.sync(p[0], rightDatasync) }

// fdSync (fd).
func fdSync(s *System, _ api.Memory, p []uint64) errno { return s.sync(p[0], rightSync) }

func (s *System) sync(fd, right uint64) errno {
	d := s.at(fd)
	switch {
	case d == nil:
		return badf
	case d.stream():
		return inval // as fsync of a pipe
	case d.rights&right == 0:
		return notcapable
	}
	return success
}

// fdFilestatSetSize (fd, size).
func fdFilestatSetSize(s *System, _ api.Memory, p []uint64) errno {
	if d := s.at(p[0]); d != nil && d.stream() {
		return inval
	}
	return badf // no file can be open for writing
}

// fdFilestatSetTimes (fd, read, changed, flags).
func fdFilestatSetTimes(s *System, _ api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil:
		return badf
	case !validTimes(p[3]):
		return inval
	case d.stream():
		return notsup
	case d.rights&rightSetTimes == 0:
		return notcapable
	}
	return rofs
}

// validTimes reports whether fstflags say at most one new value for each time.
func validTimes(flags uint64) bool {
	const read, readNow, changed, changedNow = 1, 2, 4, 8
	f := uint32(flags)
	return f <= 15 && f&(read|readNow) != read|readNow && f&(changed|changedNow) != changed|changedNow
}
