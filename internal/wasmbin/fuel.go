package wasmbin

// The instructions that the rewriter adds or looks for.
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opEnd          = 0x0b
	opBr           = 0x0c
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opLocalGet     = 0x20
	opLocalSet     = 0x21
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opTableSet     = 0x26
	opI32Const     = 0x41
	opI64Const     = 0x42
	opI32LtS       = 0x48
	opI64LtS       = 0x53
	opI64GtS       = 0x55
	opI32Add       = 0x6a
	opI32Sub       = 0x6b
	opI64Add       = 0x7c
	opI64Sub       = 0x7d
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
	opRefFunc      = 0xd2

	emptyType = 0x40
)

// code returns the new code section.
func (w *rewriter) code() encoder {
	n := w.enter(secCode)
	sectionEnd := w.end
	out := make(encoder, 0, (w.end-w.pos)*3/2)
	out.u32(n + 2)
	var body encoder
	for i := range int(n) {
		size := w.u32()
		w.end = w.pos + int(size)
		f := metered{rewriter: w, typ: w.types[w.funcs[w.imported+i]]}
		body = f.rewrite(body[:0], w.scratch[:0])
		w.scratch = f.out
		out.u32(uint32(len(body)))
		out = append(out, body...)
		w.end = sectionEnd
	}
	for _, helper := range []encoder{w.flushHelper(), w.bulkHelper()} {
		out.u32(uint32(len(helper)))
		out = append(out, helper...)
	}
	return out
}

// flushHelper is the body of (i64) -> (): pay.
func (w *rewriter) flushHelper() encoder {
	e := encoder{0} // no locals
	w.pay(&e, func() { e.op(opLocalGet, 0) })
	return append(e, opEnd)
}

// bulkHelper is the body of (i32) -> (): pay for the length of a bulk operation.
func (w *rewriter) bulkHelper() encoder {
	e := encoder{0}
	w.pay(&e, func() {
		e.op(opLocalGet, 0)
		e = append(e, opI64ExtendU)
		e.constant(opI64Const, bulkShift)
		e = append(e, opI64ShrU)
	})
	return append(e, opEnd)
}

// pay takes what amount pushes from the fuel, and asks for more when that was too much.
func (w *rewriter) pay(e *encoder, amount func()) {
	e.op(opGlobalGet, w.fuel)
	amount()
	*e = append(*e, opI64Sub)
	e.op(opGlobalSet, w.fuel)
	e.op(opGlobalGet, w.fuel)
	e.constant(opI64Const, 0)
	*e = append(*e, opI64LtS, opIf, emptyType)
	e.op(opGlobalGet, w.fuel)
	e.op(opCall, w.refill)
	e.op(opGlobalSet, w.fuel)
	*e = append(*e, opEnd)
}

// metered is one function on its way.
type metered struct {
	*rewriter
	typ    FuncType
	locals uint32 // parameters and locals that it had; the next is the sum of what it spends
	out    encoder

	open    int   // blocks that are open, without the function itself
	pending int64 // cost of the instructions since the last addition to the sum
	copied  int   // up to where the input is in out
	control bool  // it has more than one basic block
	summed  bool  // the sum has been set
	calls   bool  // it calls functions that are defined
	leaves  bool  // it is left by other ways than its end
	bulks   bool  // it has bulk operations: a local after the sum holds their length
}

// rewrite appends the function to out and returns it. The reader is at its locals, and then behind it.
func (f *metered) rewrite(out, scratch encoder) encoder {
	size := f.left()
	f.out = scratch
	f.locals = uint32(len(f.typ.Params))
	groups := f.u32()
	at := f.pos
	for range groups {
		f.locals += f.u32()
		f.pos++
	}
	declared := f.b[at:f.pos]
	f.copied = f.pos
	for f.open >= 0 {
		f.instruction()
	}

	added := uint32(0)
	if f.control || f.bulks {
		added = 1
	}
	if f.bulks {
		added = 2
	}
	out.u32(groups + added)
	out = append(out, declared...)
	if added > 0 {
		out = append(out, 1, byte(I64))
	}
	if added > 1 {
		out = append(out, 1, byte(I32))
	}
	load := weight(uint64(f.locals), size)
	if f.calls {
		f.takeDepth(&out, opI32Sub, load)
		out.op(opGlobalGet, f.depth)
		out.constant(opI32Const, 0)
		out = append(out, opI32LtS, opIf, emptyType)
		out.op(opCall, f.tooDeep)
		out = append(out, opEnd)
	}
	if f.leaves {
		f.wrap(&out)
	}
	out = append(out, f.out...)
	if f.leaves {
		out = append(out, opEnd)
	}
	if f.calls {
		f.takeDepth(&out, opI32Add, load)
	}
	f.pay(&out, func() {
		if f.control {
			out.op(opLocalGet, f.locals)
		} else {
			out.constant(opI64Const, f.pending)
		}
	})
	return append(out, opEnd)
}

// wrap opens a block around the whole function. Branches to the function's own label now end the block,
// without a change to their index, and so do returns.
func (f *metered) wrap(out *encoder) {
	*out = append(*out, opBlock)
	switch r := f.typ.Results; len(r) {
	case 0:
		*out = append(*out, emptyType)
	case 1:
		*out = append(*out, byte(r[0]))
	default:
		out.signed(int64(f.typeOf(FuncType{Results: r})))
	}
}

func (f *metered) takeDepth(out *encoder, op byte, n int64) {
	out.op(opGlobalGet, f.depth)
	out.constant(opI32Const, n)
	*out = append(*out, op)
	out.op(opGlobalSet, f.depth)
}

// copyTo copies the input up to a place.
func (f *metered) copyTo(at int) {
	f.out = append(f.out, f.b[f.copied:at]...)
	f.copied = at
}

// sum adds what is pending to the sum, before the instruction at a place. The first addition in a
// function is before its first branch, and nothing returns to it: there the sum is known to be 0.
func (f *metered) sum(at int) {
	f.control = true
	first := !f.summed
	f.summed = true
	if f.pending == 0 {
		return
	}
	f.copyTo(at)
	if !first {
		f.out.op(opLocalGet, f.locals)
	}
	f.out.constant(opI64Const, f.pending)
	if !first {
		f.out = append(f.out, opI64Add)
	}
	f.out.op(opLocalSet, f.locals)
	f.pending = 0
}

// instruction reads one instruction, counts it, and puts before it what it needs.
func (f *metered) instruction() {
	at := f.pos
	op := f.byte()
	kind := opcodes[op]
	switch kind {
	case block:
		f.openBlock(at, op)
		return
	case elseOp:
		f.sum(at)
		return
	case endOp:
		f.close(at)
		return
	case prefixFC:
		f.pending += costInstruction
		f.prefixed(at)
		return
	case callOp:
		f.pending += costCall
		callee := f.u32()
		f.calls = f.calls || callee >= f.refill
		f.index(at, op, callee)
		return
	case refFunc:
		f.pending += costInstruction
		f.index(at, op, f.u32())
		return
	}
	f.pending += costInstruction
	switch op {
	case opUnreachable:
		f.pending = 0 // nobody is left to pay
	case opBr, opBr + 1:
		f.sum(at)
		f.label()
	case opBr + 2:
		f.sum(at)
		for n := f.u32(); ; n-- {
			f.label()
			if n == 0 {
				break
			}
		}
	case opReturn:
		f.sum(at)
		f.leaves = true
		f.copyTo(at)
		f.out.op(opBr, uint32(f.open))
		f.copied = f.pos
	case opCallIndirect:
		f.pending += costCall
		f.calls = true
		f.u32()
		f.u32()
	case opMemoryGrow:
		f.pending += costGrow
		f.pos++
	default:
		f.result.MutatesTables = f.result.MutatesTables || op == opTableSet
		f.immediates(kind)
	}
}

// label reads a label.
func (f *metered) label() {
	if int(f.u32()) == f.open {
		f.leaves = true
	}
}

// index replaces the function index of the instruction at a place.
func (f *metered) index(at int, op byte, i uint32) {
	f.copyTo(at)
	f.out.op(op, f.function(i))
	f.copied = f.pos
}

// openBlock reads block, loop or if. Nothing branches to the beginning of a block or an if.
func (f *metered) openBlock(at int, op byte) {
	if op == opIf {
		f.pending += costInstruction
	}
	if op != opBlock {
		f.sum(at)
	}
	f.open++
	f.signed(33)
	if op != opLoop {
		return
	}
	f.copyTo(f.pos)
	f.out.op(opLocalGet, f.locals)
	f.out.constant(opI64Const, flushAt)
	f.out = append(f.out, opI64GtS, opIf, emptyType)
	f.out.op(opLocalGet, f.locals)
	f.out.op(opCall, f.flush)
	f.out.constant(opI64Const, 0)
	f.out.op(opLocalSet, f.locals)
	f.out = append(f.out, opEnd)
}

// close reads an end. That of the function is not copied. A function of one basic block keeps its cost in
// pending.
func (f *metered) close(at int) {
	if f.open > 0 || f.control {
		f.sum(at)
	}
	f.open--
	if f.open < 0 {
		f.copyTo(at)
	}
}

// prefixed reads an instruction after 0xfc. Those that work on lengths have it on top of the stack.
func (f *metered) prefixed(at int) {
	op := f.u32()
	switch op {
	case 8: // memory.init
		f.result.passiveSegments = true
	case 9: // data.drop
		f.result.passiveSegments, f.result.DropsSegments = true, true
		f.u32()
		return
	case 12, 14, 15, 17: // table.init, copy, grow, fill
		f.result.MutatesTables = true
	case 13: // elem.drop
		f.result.DropsSegments = true
		f.u32()
		return
	case 10, 11: // memory.copy, memory.fill
	case 16: // table.size
		f.u32()
		return
	default: // conversions
		return
	}
	f.u32()
	if op == 8 || op == 10 || op == 12 || op == 14 {
		f.u32()
	}
	f.bulks = true
	f.copyTo(at)
	f.out.op(opLocalTee, f.locals+1)
	f.out.op(opLocalGet, f.locals+1)
	f.out.op(opCall, f.bulk)
}

// immediates skips what follows the other instructions.
func (f *metered) immediates(kind imm) {
	switch kind {
	case local, global, tableIdx:
		f.u32()
	case i32Const:
		f.signed(32)
	case i64Const:
		f.signed(64)
	case f32Const:
		f.pos += 4
	case f64Const:
		f.pos += 8
	case refNull, memZero:
		f.pos++
	case selectTypes:
		f.pos += 2 // one type
	case memArg, memArg2, memArg4, memArg8, memArg16:
		f.u32()
		f.u32()
	case prefixFD:
		f.vector()
	}
}

func (f *metered) vector() {
	switch kind := vectors[f.u32()]; kind {
	case memArg, memArg2, memArg4, memArg8, memArg16:
		f.immediates(memArg)
	case v128Const, shuffle:
		f.pos += 16
	case lane2, lane4, lane8, lane16:
		f.pos++
	case memLane, memLane16, memLane32, memLane64:
		f.immediates(memArg)
		f.pos++
	}
}
