package wasip1

import (
	"errors"
	"io"
	"math"

	"github.com/tetratelabs/wazero/api"
)

// The bounds of one read or write. What is left is for the next call, as POSIX allows.
const (
	maxIovecs   = 1024 // IOV_MAX of Linux
	maxTransfer = 1 << 20
	iovecSize   = 8
)

// iovecs is a list of buffers in a guest's memory.
type iovecs struct {
	m    api.Memory
	list []byte
	left int // bytes that may be moved yet
}

// vectors checks the arguments that reads and writes share: a list of buffers and where the number of
// bytes is to be written.
func vectors(m api.Memory, ptr, count, result uint64) (iovecs, errno) {
	if uint32(count) > maxIovecs {
		return iovecs{}, inval
	}
	list, ok := m.Read(uint32(ptr), uint32(count)*iovecSize)
	if !ok || !m.WriteUint32Le(uint32(result), 0) {
		return iovecs{}, fault
	}
	return iovecs{m: m, list: list, left: maxTransfer}, success
}

// next returns the next buffer that is not empty; nil at the end.
func (v *iovecs) next() ([]byte, errno) {
	for len(v.list) > 0 && v.left > 0 {
		ptr, n := le.Uint32(v.list), le.Uint32(v.list[4:])
		v.list = v.list[iovecSize:]
		b, ok := v.m.Read(ptr, n)
		if !ok {
			return nil, fault
		}
		if len(b) > 0 {
			b = b[:min(len(b), v.left)]
			v.left -= len(b)
			return b, success
		}
	}
	return nil, success
}

// fdWrite (fd, iovs, count, result).
func fdWrite(s *System, m api.Memory, p []uint64) errno {
	var to io.Writer
	switch d := s.at(p[0]); {
	case d == nil, d.rights&rightWrite == 0:
		return badf
	case d.kind == stdout:
		to = s.config.Stdout
	default:
		to = s.config.Stderr
	}
	v, e := vectors(m, p[1], p[2], p[3])
	if e != success {
		return e
	}
	written := 0
	for {
		b, e := v.next()
		if e != success {
			return e
		}
		if b == nil {
			break
		}
		if to != nil {
			if _, err := to.Write(b); err != nil {
				return ioError
			}
		}
		written += len(b)
	}
	m.WriteUint32Le(uint32(p[3]), uint32(written))
	return success
}

// fdPwrite (fd, iovs, count, offset, result): no file can be open for writing.
func fdPwrite(s *System, _ api.Memory, p []uint64) errno {
	d := s.at(p[0])
	if d != nil && d.rights&rightWrite != 0 {
		return spipe
	}
	return badf
}

// fdRead (fd, iovs, count, result).
func fdRead(s *System, m api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil, d.rights&rightRead == 0:
		return badf
	case d.kind == stdin:
		return s.readStdin(m, p)
	}
	n, e := d.readVectors(m, p[1], p[2], p[3], d.offset)
	d.offset += n
	return e
}

// fdPread (fd, iovs, count, offset, result).
func fdPread(s *System, m api.Memory, p []uint64) errno {
	d := s.at(p[0])
	switch {
	case d == nil, d.rights&rightRead == 0:
		return badf
	case d.kind == stdin:
		return spipe
	case d.rights&rightSeek == 0:
		return notcapable
	case p[3] > math.MaxInt64:
		return inval
	}
	_, e := d.readVectors(m, p[1], p[2], p[4], int64(p[3]))
	return e
}

// readVectors reads from a file until the buffers are full or the file is at its end.
func (d *descriptor) readVectors(m api.Memory, iovs, count, result uint64, offset int64) (int64, errno) {
	v, e := vectors(m, iovs, count, result)
	if e != success {
		return 0, e
	}
	read := 0
	for {
		b, e := v.next()
		if e != success {
			return 0, e
		}
		if b == nil || int64(read) > math.MaxInt64-offset {
			break
		}
		n, e := d.readAt(b, offset+int64(read))
		if e != success && read == 0 {
			return 0, e
		}
		read += n
		if n < len(b) {
			break
		}
	}
	m.WriteUint32Le(uint32(result), uint32(read))
	return int64(read), success
}

// emptyReads is how often a reader may return nothing before that is an error.
const emptyReads = 100

// readStdin reads what there is, into one buffer: to fill others it might have to wait.
func (s *System) readStdin(m api.Memory, p []uint64) errno {
	v, e := vectors(m, p[1], p[2], p[3])
	if e != success {
		return e
	}
	b, e := v.next()
	if e != success || b == nil || s.config.Stdin == nil {
		return e
	}
	for range emptyReads {
		n, err := s.config.Stdin.Read(b)
		switch {
		case n > 0:
			m.WriteUint32Le(uint32(p[3]), uint32(n))
			return success
		case errors.Is(err, io.EOF):
			return success
		case err != nil:
			return ioError
		}
	}
	return ioError
}
