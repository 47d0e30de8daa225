package wasmbin

// imm says what follows an opcode.
type imm byte

// The kinds of immediates. bad is the zero value, so that a byte missing from a table is refused.
const (
	bad imm = iota
	none
	block
	elseOp
	endOp
	label
	brTable
	callOp
	callIndirect
	local
	global
	tableIdx
	i32Const
	i64Const
	f32Const
	f64Const
	refNull
	refFunc
	selectTypes
	memZero // memory.size, memory.grow: one byte 0
	memArg  // + the alignment's logarithm: memArg+0 is 1 byte, memArg+4 is 16
	memArg2
	memArg4
	memArg8
	memArg16
	lane2 // a lane index below 2, 4, 8, 16, or 16 indices below 32
	lane4
	lane8
	lane16
	shuffle
	v128Const
	memLane // a memory argument and a lane: memLane+0 is of 8 bits, memLane+3 of 64
	memLane16
	memLane32
	memLane64
	prefixFC
	prefixFD
	exceptions // refused by name from here on
	tailCalls
	gc
	threads
)

func (i imm) proposal() string {
	return [...]string{"exceptions", "tail-calls", "gc", "threads"}[i-exceptions]
}

// span fills table[from:to+1].
func span(t *[256]imm, from, to int, i imm) {
	for op := from; op <= to; op++ {
		t[op] = i
	}
}

// opcodes is the table of one-byte instructions.
var opcodes = func() (t [256]imm) {
	t[0x00], t[0x01] = none, none // unreachable, nop
	span(&t, 0x02, 0x04, block)   // block, loop, if
	t[0x05], t[0x0b] = elseOp, endOp
	span(&t, 0x06, 0x0a, exceptions) // try, catch, throw, rethrow, throw_ref
	t[0x0c], t[0x0d] = label, label  // br, br_if
	t[0x0e], t[0x0f] = brTable, none
	t[0x10], t[0x11] = callOp, callIndirect
	t[0x12], t[0x13] = tailCalls, tailCalls
	t[0x14], t[0x15] = gc, tailCalls // call_ref, return_call_ref
	t[0x18], t[0x19], t[0x1f] = exceptions, exceptions, exceptions
	t[0x1a], t[0x1b], t[0x1c] = none, none, selectTypes
	span(&t, 0x20, 0x22, local)
	span(&t, 0x23, 0x24, global)
	span(&t, 0x25, 0x26, tableIdx)
	for i, log := range []int{2, 3, 2, 3, 0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 3, 2, 3, 0, 1, 0, 1, 2} {
		t[0x28+i] = memArg + imm(log) // i32.load … i64.store32
	}
	t[0x3f], t[0x40] = memZero, memZero
	t[0x41], t[0x42], t[0x43], t[0x44] = i32Const, i64Const, f32Const, f64Const
	span(&t, 0x45, 0xc4, none) // comparisons, arithmetic, conversions, sign extension
	t[0xd0], t[0xd1], t[0xd2] = refNull, none, refFunc
	span(&t, 0xd3, 0xd6, gc) // ref.eq, ref.as_non_null, br_on_null …
	t[0xfb], t[0xfc], t[0xfd], t[0xfe] = gc, prefixFC, prefixFD, threads
	return t
}()

// vectors is the table of instructions after 0xfd.
var vectors = func() (t [256]imm) {
	span(&t, 0x0e, 0xff, none)
	for i, log := range []int{4, 3, 3, 3, 3, 3, 3, 0, 1, 2, 3, 4} {
		t[i] = memArg + imm(log) // v128.load … v128.store
	}
	t[0x0c], t[0x0d] = v128Const, shuffle
	span(&t, 0x15, 0x17, lane16)
	span(&t, 0x18, 0x1a, lane8)
	span(&t, 0x1b, 0x1c, lane4)
	span(&t, 0x1d, 0x1e, lane2)
	span(&t, 0x1f, 0x20, lane4)
	span(&t, 0x21, 0x22, lane2)
	for i := range 4 {
		t[0x54+i] = memLane + imm(i) // load lane
		t[0x58+i] = memLane + imm(i) // store lane
	}
	t[0x5c], t[0x5d] = memArg4, memArg8 // load zero
	for _, gap := range []int{0x9a, 0xa2, 0xa5, 0xa6, 0xaf, 0xb0, 0xb2, 0xb3, 0xb4, 0xbb, 0xc2, 0xc5, 0xc6, 0xcf, 0xd0, 0xd2, 0xd3, 0xd4, 0xe2, 0xee} {
		t[gap] = bad
	}
	return t
}()
