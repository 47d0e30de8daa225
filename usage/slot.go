package usage

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/perigee-edge/perigee"
)

const (
	slotSize = 512
	keySize  = 264
	counters = 30
	colSeal  = counters - 1
)

// slot is a row in the file. It stays where it is, and belongs to one key from the moment it is taken.
type slot struct {
	used  atomic.Uint32
	check uint32
	key   [keySize]byte
	count [counters]atomic.Uint64
}

// The layout of the file is that of the type.
var (
	_ [slotSize - unsafe.Sizeof(slot{})]byte
	_ [unsafe.Sizeof(slot{}) - slotSize]byte
	_ [colSeal - columns]byte
)

// slotAt returns a slot of the file's bytes.
func slotAt(file []byte, i int) *slot {
	b := file[headSize+i*slotSize:][:slotSize]
	return (*slot)(unsafe.Pointer(&b[0])) // mappings begin at a page, and sizes are multiples of 8
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// take makes a free slot the key's. A process that dies meanwhile leaves it free. Keys that are too long
// get none.
func (s *slot) take(k Key) bool {
	var b [keySize]byte
	at := 0
	for _, part := range []string{k.Function, string(k.Revision), string(k.Region), k.Caller} {
		if len(part) > 255 || at+1+len(part) > keySize {
			return false
		}
		b[at] = byte(len(part))
		at += 1 + copy(b[at+1:], part)
	}
	for i := range s.count {
		s.count[i].Store(0)
	}
	s.key = b
	s.check = crc32.Checksum(b[:], castagnoli)
	s.used.Store(1)
	return true
}

// owner returns the key of a slot that is taken; damaged says that it can't be read.
func (s *slot) owner() (k Key, taken, damaged bool) {
	switch s.used.Load() {
	case 0:
		return k, false, false
	case 1:
	default:
		return k, false, true
	}
	if s.check != crc32.Checksum(s.key[:], castagnoli) {
		return k, false, true
	}
	var parts [4]string
	rest := s.key[:]
	for i := range parts {
		if len(rest) == 0 || int(rest[0]) >= len(rest) {
			return k, false, true
		}
		n := int(rest[0])
		parts[i], rest = string(rest[1:1+n]), rest[1+n:]
	}
	return Key{parts[0], perigee.RevisionID(parts[1]), perigee.Region(parts[2]), parts[3]}, true, false
}

// free gives the slot back.
func (s *slot) free() {
	s.used.Store(0)
	s.check = 0
}

// add adds what is not zero.
func (s *slot) add(c *Counts, now int64) {
	plus := func(i int, n uint64) {
		if n != 0 {
			s.count[i].Add(n)
		}
	}
	plus(colRequests, c.Requests)
	plus(colErrors, c.Errors)
	plus(colCut, c.Cut)
	plus(colFuel, c.Fuel)
	plus(colWall, c.Wall)
	plus(colGuest, c.Guest)
	plus(colPageMicros, c.PageMicros)
	plus(colBytesIn, c.BytesIn)
	plus(colBytesOut, c.BytesOut)
	plus(colFresh, c.Fresh)
	plus(colImage, c.Image)
	plus(colReset, c.Reset)
	plus(colCold, c.Cold)
	s.raise(colPeakPages, c.PeakPages)
	s.raise(colLast, uint64(max(1, now)))
	if s.count[colFirst].Load() == 0 {
		s.count[colFirst].CompareAndSwap(0, uint64(max(1, now)))
	}
}

func (s *slot) raise(i int, n uint64) {
	for {
		old := s.count[i].Load()
		if n <= old || s.count[i].CompareAndSwap(old, n) {
			return
		}
	}
}

func (s *slot) row(k Key) Row {
	r := Row{Key: k, Other: k == Key{}}
	for i := range colFirst {
		*r.column(i) = s.count[i].Load()
	}
	r.First, r.Last = unixTime(s.count[colFirst].Load()), unixTime(s.count[colLast].Load())
	return r
}

func unixTime(seconds uint64) time.Time { return time.Unix(int64(min(seconds, 1<<40)), 0).UTC() }

// sum is the seal that a row should have.
func (s *slot) sum() uint64 {
	sum := crc32.Checksum(s.key[:], castagnoli)
	var b [8]byte
	for i := range colSeal {
		binary.NativeEndian.PutUint64(b[:], s.count[i].Load())
		sum = crc32.Update(sum, castagnoli, b[:])
	}
	return uint64(sum)
}

// seal makes a change on the disk show. The row must not be added to any more.
func (s *slot) seal() { s.count[colSeal].Store(s.sum()) }

// broken reports whether a sealed row changed.
func (s *slot) broken() bool { return s.count[colSeal].Load() != s.sum() }

// head is the beginning of the file.
type head struct {
	version, slot, slots, sealed uint32
	began                        int64
}

const (
	magic     = "perigee usage\n\x00\x00"
	version   = 1
	headSize  = 4096
	checkedTo = 40
)

func (h head) write(b []byte) {
	copy(b, magic)
	o := binary.NativeEndian
	o.PutUint32(b[16:], h.version)
	o.PutUint32(b[20:], h.slot)
	o.PutUint32(b[24:], h.slots)
	o.PutUint32(b[28:], h.sealed)
	o.PutUint64(b[32:], uint64(h.began))
	o.PutUint32(b[checkedTo:], crc32.Checksum(b[:checkedTo], castagnoli))
}
