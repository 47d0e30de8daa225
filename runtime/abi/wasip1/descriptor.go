package wasip1

import (
	"hash/fnv"
	"io"
	"io/fs"
	"time"
)

// kind says what a descriptor is of.
type kind uint8

const (
	closed kind = iota
	stdin
	stdout
	stderr
	file
	directory
)

// descriptor is one entry of the table of open files. What it reads of a file is found by its own
// offset, so nothing is kept in the host's file but what that needs.
type descriptor struct {
	kind       kind
	preopen    bool
	flags      uint16 // fdflags
	rights     uint64
	inheriting uint64

	path   string // of a file or directory, as fs.FS knows it
	file   fs.File
	info   fs.FileInfo
	offset int64 // of the next fd_read
	pos    int64 // where the host's file stands, if it has only that
}

func (d *descriptor) stream() bool { return d.kind == stdin || d.kind == stdout || d.kind == stderr }

// seekable reports whether a file can be read in any order.
func (d *descriptor) seekable() bool {
	_, at := d.file.(io.ReaderAt)
	_, seek := d.file.(io.Seeker)
	return d.kind == file && (at || seek)
}

// readAt reads once.
func (d *descriptor) readAt(b []byte, offset int64) (int, errno) {
	if offset >= d.info.Size() {
		return 0, success
	}
	var n int
	var err error
	switch f := d.file.(type) {
	case io.ReaderAt:
		n, err = f.ReadAt(b, offset)
	case io.ReadSeeker:
		if d.pos != offset {
			if d.pos, err = f.Seek(offset, io.SeekStart); err != nil {
				return 0, errnoOf(err)
			}
		}
		n, err = f.Read(b)
		d.pos += int64(n)
	default:
		if d.pos != offset {
			return 0, spipe
		}
		n, err = f.Read(b)
		d.pos += int64(n)
	}
	if n > 0 || err == io.EOF {
		return n, success
	}
	return 0, errnoOf(err)
}

// at returns the descriptor of a number, or nil.
func (s *System) at(fd uint64) *descriptor {
	if n := uint64(uint32(fd)); n < uint64(len(s.fds)) {
		return s.fds[n]
	}
	return nil
}

// need returns the descriptor of a number that has all of some rights.
func (s *System) need(fd, rights uint64) (*descriptor, errno) {
	d := s.at(fd)
	switch {
	case d == nil:
		return nil, badf
	case d.rights&rights != rights:
		return nil, notcapable
	}
	return d, success
}

// vacant returns the lowest number that is free.
func (s *System) vacant() (int, errno) {
	for i, d := range s.fds {
		if d == nil {
			return i, success
		}
	}
	if len(s.fds) >= s.config.MaxOpens {
		return 0, mfile
	}
	s.fds = append(s.fds, nil)
	return len(s.fds) - 1, success
}

// release closes the descriptor of a number.
func (s *System) release(fd uint32) {
	if f := s.fds[fd].file; f != nil {
		_ = f.Close() // it was only read
	}
	s.fds[fd] = nil
}

// The types of files.
const (
	typeUnknown   = 0
	typeDirectory = 3
	typeRegular   = 4
	typeSymlink   = 7
)

func typeOf(mode fs.FileMode) byte {
	switch mode.Type() {
	case 0:
		return typeRegular
	case fs.ModeDir:
		return typeDirectory
	case fs.ModeSymlink:
		return typeSymlink
	}
	return typeUnknown
}

// inode numbers a file by its path, so that it is the same for each node, request and way to ask.
func inode(path string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, path)
	return h.Sum64() | 1 // 0 would mean an entry that is gone
}

// device is the one that all files are on.
const device = 1

// putFilestat writes a filestat record.
func putFilestat(b []byte, path string, info fs.FileInfo) {
	clear(b)
	le.PutUint64(b, device)
	le.PutUint64(b[8:], inode(path))
	b[16] = typeOf(info.Mode())
	le.PutUint64(b[24:], 1) // links
	le.PutUint64(b[32:], uint64(info.Size()))
	var t uint64
	if m := info.ModTime(); m.After(time.Unix(0, 0)) {
		t = uint64(m.UnixNano())
	}
	for _, at := range []int{40, 48, 56} { // read, changed, status changed
		le.PutUint64(b[at:], t)
	}
}
