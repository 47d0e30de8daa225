package bundle

import (
	"errors"
	"hash/crc32"
	"io"
	"sync"
)

// guardBlock is the unit in which a blob that stays on the disk is checked again: reading a byte
// of it means reading all of it.
const guardBlock = 16 << 10

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums collects a CRC-32C for each block of what is written to it. It guards against a disk that
// rots after the digest was checked, not against people.
type sums struct {
	done []uint32
	crc  uint32
	n    int // bytes in the block so far
}

func (s *sums) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		part := rest[:min(len(rest), guardBlock-s.n)]
		s.crc = crc32.Update(s.crc, castagnoli, part)
		if s.n += len(part); s.n == guardBlock {
			s.close()
		}
		rest = rest[len(part):]
	}
	return len(b), nil
}

// close ends the block that is not full, if there is one.
func (s *sums) close() {
	if s.n > 0 {
		s.done = append(s.done, s.crc)
		s.crc, s.n = 0, 0
	}
}

// guard reads a file whose blocks have known sums, and never returns bytes of one that changed.
type guard struct {
	r       io.ReaderAt
	size    int64
	sums    []uint32
	corrupt func() error // called when a block changed; returns the error to report
}

var guardBuffers = sync.Pool{New: func() any { return new([guardBlock]byte) }}

// ReadAt implements io.ReaderAt.
func (g *guard) ReadAt(p []byte, off int64) (int, error) {
	buf := guardBuffers.Get().(*[guardBlock]byte)
	defer guardBuffers.Put(buf)
	done := 0
	for done < len(p) && off < g.size {
		i := off / guardBlock
		block := buf[:min(guardBlock, g.size-i*guardBlock)]
		_, err := g.r.ReadAt(block, i*guardBlock)
		switch {
		case err != nil && !isRot(err) && !errors.Is(err, io.EOF):
			return done, err
		case isRot(err) || crc32.Checksum(block, castagnoli) != g.sums[i]:
			return done, g.corrupt()
		}
		n := copy(p[done:], block[off-i*guardBlock:])
		done, off = done+n, off+int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
