package wasmbin

// The instructions of bulk memory operations, after opPrefixFC, and what works on their operands.
const (
	opMemoryInit = 8
	opMemoryCopy = 10
	opMemoryFill = 11

	opMemorySize = 0x3f
	opI32GtU     = 0x4b
	opI32LeU     = 0x4d
	opI64GtU     = 0x56
	opI32Add     = 0x6a
	opI32Sub     = 0x6b
	opI64Shl     = 0x86

	pageShift = 16
)

// bulkMemory is a bulk operation on memory that is done by a function of its own, since it may be long.
type bulkMemory struct {
	op      byte
	segment uint32 // of memory.init
}

// chunked returns the index of the function that does an operation.
func (w *rewriter) chunked(b bulkMemory) uint32 {
	i, ok := w.chunkedBy[b]
	if !ok {
		i = w.entered + 1 + uint32(len(w.chunkedOps))
		w.chunkedOps = append(w.chunkedOps, b)
		w.chunkedBy[b] = i
	}
	return i
}

// largeSegments finds the passive segments that are longer than a chunk.
func (w *rewriter) largeSegments() {
	n := w.enter(secData)
	for i := range n {
		flags := w.u32()
		if flags == 2 {
			w.u32()
		}
		if flags != 1 {
			w.constExpr()
		}
		size := w.u32()
		w.skip(size)
		if flags == 1 && size > bulkChunk {
			w.large[i] = size
		}
	}
}

// chunkedHelper is the body of (to, from or value, length: i32) -> (): the operation in chunks, each of which
// is paid before. An operation that does not fit traps before it has changed anything, so it is not divided.
func (w *rewriter) chunkedHelper(b bulkMemory) encoder {
	const to, from, length = 0, 1, 2
	e := encoder{0, opLoop, emptyType, opBlock, emptyType}
	do := func() {
		e = append(e, opPrefixFC, b.op)
		switch b.op {
		case opMemoryInit:
			e.u32(b.segment)
			e = append(e, 0)
		case opMemoryCopy:
			e = append(e, 0, 0)
		case opMemoryFill:
			e = append(e, 0)
		}
	}
	unless := func(local uint32, size func()) { // leaves the block if what begins at a local ends beyond size
		e.op(opLocalGet, local)
		e = append(e, opI64ExtendU)
		e.op(opLocalGet, length)
		e = append(e, opI64ExtendU, opI64Add)
		size()
		e = append(e, opI64GtU)
		e.op(opBrIf, 0)
	}
	move := func(op byte, local uint32) {
		e.op(opLocalGet, local)
		e.constant(opI32Const, bulkChunk)
		e = append(e, op)
		e.op(opLocalSet, local)
	}
	memory := func() {
		e = append(e, opMemorySize, 0, opI64ExtendU)
		e.constant(opI64Const, pageShift)
		e = append(e, opI64Shl)
	}

	e.op(opLocalGet, length)
	e.constant(opI32Const, bulkChunk)
	e = append(e, opI32LeU)
	e.op(opBrIf, 0)
	unless(to, memory)
	switch b.op {
	case opMemoryCopy:
		unless(from, memory)
	case opMemoryInit:
		unless(from, func() { e.constant(opI64Const, int64(w.large[b.segment])) })
	}
	e.constant(opI32Const, bulkChunk)
	e.op(opCall, w.bulk)
	move(opI32Sub, length)
	if b.op == opMemoryCopy { // upwards from behind: what is still to be read must not be written over
		e.op(opLocalGet, to)
		e.op(opLocalGet, from)
		e = append(e, opI32GtU, opIf, emptyType)
		for _, local := range []uint32{to, from} {
			e.op(opLocalGet, local)
			e.op(opLocalGet, length)
			e = append(e, opI32Add)
		}
		e.constant(opI32Const, bulkChunk)
		do()
		e.op(opBr, 2)
		e = append(e, opEnd)
	}
	e.op(opLocalGet, to)
	e.op(opLocalGet, from)
	e.constant(opI32Const, bulkChunk)
	do()
	move(opI32Add, to)
	if b.op != opMemoryFill {
		move(opI32Add, from)
	}
	e.op(opBr, 1)
	e = append(e, opEnd)

	w.payLength(&e, length)
	e.op(opLocalGet, to)
	e.op(opLocalGet, from)
	e.op(opLocalGet, length)
	do()
	return append(e, opEnd, opEnd)
}
