package wasmbin

import "encoding/binary"

// encoder is bytes in the making.
type encoder []byte

func (e *encoder) u32(v uint32) { *e = binary.AppendUvarint(*e, uint64(v)) }

// signed appends a signed LEB128.
func (e *encoder) signed(v int64) {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			*e = append(*e, c)
			return
		}
		*e = append(*e, c|0x80)
	}
}

func (e *encoder) name(s string) {
	e.u32(uint32(len(s)))
	*e = append(*e, s...)
}

func (e *encoder) export(k Kind, i uint32) {
	*e = append(*e, byte(k))
	e.u32(i)
}

// section appends a section, unless it is empty.
func (e *encoder) section(id byte, content encoder) {
	if len(content) == 0 {
		return
	}
	*e = append(*e, id)
	e.u32(uint32(len(content)))
	*e = append(*e, content...)
}

// op appends an instruction with an index.
func (e *encoder) op(op byte, index uint32) {
	*e = append(*e, op)
	e.u32(index)
}

// constant appends i32.const or i64.const.
func (e *encoder) constant(op byte, v int64) {
	*e = append(*e, op)
	e.signed(v)
}
