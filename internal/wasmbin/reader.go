package wasmbin

import (
	"fmt"
	"unicode/utf8"
)

// reader reads b[pos:end]. What it can't read it reports by fail, which Check recovers: a module has
// a hundred thousand places to fail, and one place to say so.
type reader struct {
	b        []byte
	pos, end int
}

func (r *reader) fail(at int, rule, format string, args ...any) {
	panic(&Error{Rule: rule, Offset: at, Detail: fmt.Sprintf(format, args...)})
}

func (r *reader) left() int { return r.end - r.pos }

func (r *reader) byte() byte {
	if r.pos >= r.end {
		r.fail(r.pos, "truncated", "expected one more byte")
	}
	c := r.b[r.pos]
	r.pos++
	return c
}

func (r *reader) bytes(n uint32) []byte {
	if int64(n) > int64(r.left()) {
		r.fail(r.pos, "truncated", "%d bytes are claimed and %d are left", n, r.left())
	}
	s := r.b[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return s
}

func (r *reader) skip(n uint32) { r.bytes(n) }

// u32 reads an unsigned LEB128 of at most 32 bits.
func (r *reader) u32() uint32 {
	at := r.pos
	if at < r.end && r.b[at] < 0x80 { // nearly all are one byte
		r.pos++
		return uint32(r.b[at])
	}
	var v uint32
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if shift == 28 && c > 0x0f {
			r.fail(at, "leb128", "an unsigned integer does not fit 32 bits")
		}
		v |= uint32(c&0x7f) << shift
		if c < 0x80 {
			return v
		}
	}
}

// signed reads a signed LEB128 of the given width: 32, 33 or 64.
func (r *reader) signed(bits int) int64 {
	at := r.pos
	var v int64
	for shift := 0; ; shift += 7 {
		c := r.byte()
		if rest := bits - shift; rest < 7 {
			// The last byte: the bits beyond the width must all equal the sign.
			high := int8(c<<1) >> rest
			if c >= 0x80 || (high != 0 && high != -1) {
				r.fail(at, "leb128", "a signed integer does not fit %d bits", bits)
			}
		}
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if shift+7 < 64 && c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
}

// count reads how many items follow, each of at least size bytes, and holds it against a limit.
func (r *reader) count(l limit, size int) uint32 {
	at := r.pos
	n := r.u32()
	if int64(n)*int64(size) > int64(r.left()) {
		r.fail(at, "count", "%d %s are claimed and %d bytes are left", n, l.what, r.left())
	}
	r.hold(at, l, uint64(n))
	return n
}

// hold refuses a number above a limit.
func (r *reader) hold(at int, l limit, n uint64) {
	if n > l.max {
		r.fail(at, l.rule, "%d %s; at most %d are accepted, since %s", n, l.what, l.max, l.why)
	}
}

func (r *reader) name() string {
	at := r.pos
	n := r.u32()
	if int64(n) > int64(r.left()) {
		r.fail(at, "truncated", "a name of %d bytes is claimed and %d are left", n, r.left())
	}
	r.hold(at, maxName, uint64(n))
	s := r.bytes(n)
	if !utf8.Valid(s) {
		r.fail(at, "utf8", "a name is not UTF-8")
	}
	return string(s)
}
