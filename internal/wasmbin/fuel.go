package wasmbin

// The instructions that the rewriter adds or looks for.
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
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
	opI64LtS       = 0x53
	opI64GtS       = 0x55
	opI64LeS       = 0x57
	opI64GeS       = 0x59
	opI64Add       = 0x7c
	opI64Sub       = 0x7d
	opI64Or        = 0x84
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
	opRefFunc      = 0xd2
	opPrefixFC     = 0xfc

	emptyType = 0x40
)

// code returns the functions of the new code section.
func (w *rewriter) code() encoder {
	n := w.enter(secCode)
	sectionEnd := w.end
	out := make(encoder, 0, (w.end-w.pos)*3/2)
	var body encoder
	for i := range int(n) {
		size := w.u32()
		w.end = w.pos + int(size)
		f := metered{rewriter: w, typ: w.types[w.funcs[w.imported+i]], out: body[:0]}
		f.read()
		body = f.write()
		out.u32(uint32(len(body)))
		out = append(out, body...)
		w.end = sectionEnd
	}
	helpers := []encoder{w.flushHelper(), w.bulkHelper(), w.enterHelper()}
	for _, b := range w.chunkedOps {
		helpers = append(helpers, w.chunkedHelper(b))
	}
	for _, helper := range helpers {
		out.u32(uint32(len(helper)))
		out = append(out, helper...)
	}
	return out
}

// flushHelper is the body of (i64) -> (): pay.
func (w *rewriter) flushHelper() encoder {
	e := encoder{0} // no locals
	w.pay(&e, func() { e.op(opLocalGet, 0) })
	w.refillIfNone(&e)
	return append(e, opEnd)
}

// bulkHelper is the body of (i32) -> (): pay for the length of a bulk operation.
func (w *rewriter) bulkHelper() encoder {
	e := encoder{0}
	w.payLength(&e, 0)
	return append(e, opEnd)
}

// payLength pays for the length of a bulk operation, which is in a local.
func (w *rewriter) payLength(e *encoder, local uint32) {
	w.pay(e, func() {
		e.op(opLocalGet, local)
		*e = append(*e, opI64ExtendU)
		e.constant(opI64Const, bulkShift)
		*e = append(*e, opI64ShrU)
	})
	w.refillIfNone(e)
}

// enterHelper is the body of () -> (), called by a function that finds fuel or depth below zero.
func (w *rewriter) enterHelper() encoder {
	e := encoder{0}
	e.op(opGlobalGet, w.depth)
	e.constant(opI64Const, 0)
	e = append(e, opI64LtS, opIf, emptyType)
	e.op(opGlobalGet, w.depth)
	e.op(opCall, w.deeper)
	e.op(opGlobalSet, w.depth)
	e = append(e, opEnd)
	w.refillIfNone(&e)
	return append(e, opEnd)
}

// pay takes what amount pushes from the fuel.
func (w *rewriter) pay(e *encoder, amount func()) { w.change(e, w.fuel, opI64Sub, amount) }

// change adds to a global, or takes from it, what amount pushes.
func (w *rewriter) change(e *encoder, global uint32, op byte, amount func()) {
	e.op(opGlobalGet, global)
	amount()
	*e = append(*e, op)
	e.op(opGlobalSet, global)
}

func (w *rewriter) refillIfNone(e *encoder) {
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
	out    encoder
	copied int // up to where the input is in out

	size     int    // of its body
	locals   uint32 // parameters and locals that it had
	groups   uint32 // how many groups of locals are declared
	declared []byte // the groups
	cost     int64  // of all its instructions
	results  int    // of all its calls, beyond the first of each
	loops    bool   // it has loops
	calls    bool   // it calls functions that are defined
	leaves   bool   // it is left by other ways than its end
	bulks    bool   // it has bulk operations that are done where they stand
	sum      uint32 // the local with the sum, if it has loops
	lengths  uint32 // the local for the length of a bulk operation, if it has one
}

// read reads the function and decides what is paid where. The reader is at its locals, and then behind it.
func (f *metered) read() {
	f.size = f.left()
	f.locals = uint32(len(f.typ.Params))
	f.groups = f.u32()
	at := f.pos
	for range f.groups {
		f.locals += f.u32()
		f.pos++
	}
	f.declared = f.b[at:f.pos]
	f.copied = f.pos
	f.cost = f.scan()
	f.charges()
}

// write appends the function to out and returns it.
func (f *metered) write() encoder {
	added := encoder{}
	if f.loops {
		f.sum = f.locals
		added = append(added, 1, byte(I64))
	}
	if f.bulks {
		f.lengths = f.locals + uint32(len(added)/2)
		added = append(added, 1, byte(I32))
	}
	f.out.u32(f.groups + uint32(len(added)/2))
	f.out = append(append(f.out, f.declared...), added...)

	load := weight(uint64(f.locals), f.size, f.results)
	around := f.begin(load)
	f.emit(around > 0)
	if around == 2 {
		f.out = append(f.out, opElse)
		f.out.op(opCall, f.entered)
		f.out.op(opBr, 1)
	}
	for range around {
		f.out = append(f.out, opEnd)
	}
	if f.loops {
		f.pay(&f.out, func() { f.out.op(opLocalGet, f.sum) })
	}
	if f.calls {
		f.change(&f.out, f.depth, opI64Add, func() { f.out.constant(opI64Const, load) })
	}
	return append(f.out, opEnd)
}

// begin pays for the first instructions, takes from the depth, and sees whether either is used up. It returns
// how many blocks it opened around the rest. Branches to the function's own label end the innermost, without a
// change to their index, and so do returns.
func (f *metered) begin(load int64) (around int) {
	switch first := f.points[0].charge; {
	case first == 0:
	case f.loops:
		f.out.constant(opI64Const, first)
		f.out.op(opLocalSet, f.sum)
	default:
		f.spend(first)
	}
	if f.calls {
		f.change(&f.out, f.depth, opI64Sub, func() { f.out.constant(opI64Const, load) })
	}
	switch {
	case !f.loops && !f.calls && f.cost <= freeLeaf:
		return 0
	case f.loops:
		f.look(opI64LtS)
		f.out = append(f.out, emptyType)
		f.out.op(opCall, f.entered)
		f.out = append(f.out, opEnd)
		if !f.leaves {
			return 0
		}
		f.out = append(f.out, opBlock)
		f.resultType()
		return 1
	}
	// A function without loops is dear to enter: as in guard, it meets no join.
	f.out = append(f.out, opLoop)
	f.resultType()
	f.look(opI64GeS)
	f.resultType()
	return 2
}

// look begins an if that is entered when fuel or depth are below zero.
func (f *metered) look(op byte) {
	f.out.op(opGlobalGet, f.fuel)
	if f.calls {
		f.out.op(opGlobalGet, f.depth)
		f.out = append(f.out, opI64Or)
	}
	f.out.constant(opI64Const, 0)
	f.out = append(f.out, op, opIf)
}

// resultType appends the type of a block with the function's results.
func (f *metered) resultType() {
	switch r := f.typ.Results; len(r) {
	case 0:
		f.out = append(f.out, emptyType)
	case 1:
		f.out = append(f.out, byte(r[0]))
	default:
		f.out.signed(int64(f.typeOf(FuncType{Results: r})))
	}
}

// emit copies the instructions and puts in what they pay.
func (f *metered) emit(wrapped bool) {
	open, shifted := uint32(0), uint32(0) // blocks that are open; the number of the innermost loop that is, 0 = none
	// label gives a label's index: the body of an innermost loop has become an arm within it.
	label := func(i uint32) uint32 {
		if shifted != 0 && open-i <= shifted && i <= open {
			return i + 1
		}
		return i
	}
	for i := range f.points {
		p := &f.points[i]
		if i > 0 && p.charge != 0 {
			f.copyTo(f.points[i-1].next)
			f.spend(p.charge)
		}
		switch p.op {
		case opBlock, opIf:
			open++
		case opLoop:
			open++
			f.copyTo(p.next)
			if f.guard(p); p.inner {
				shifted = open
			}
		case opEnd:
			f.copyTo(p.at)
			if open == 0 {
				return // its own end comes later
			}
			if open == shifted {
				f.again()
				shifted = 0
			}
			open--
		case opBr, opBrIf:
			f.copyTo(p.at)
			f.out.op(p.op, label(p.index))
			f.copied = p.next
		case opBrTable:
			if shifted != 0 {
				f.copyTo(p.at + 1)
				labels := reader{b: f.b, pos: f.copied, end: p.next}
				n := labels.u32()
				f.out.u32(n)
				for range n + 1 {
					f.out.u32(label(labels.u32()))
				}
				f.copied = p.next
			}
		case opReturn:
			if wrapped {
				f.copyTo(p.at)
				f.out.op(opBr, label(open))
				f.copied = p.next
			}
		case opCall, opRefFunc:
			f.copyTo(p.at)
			f.out.op(p.op, f.function(p.index))
			f.copied = p.next
		case opPrefixFC: // the length is on top of the stack
			f.copyTo(p.at)
			if p.index != 0 {
				f.out.op(opCall, p.index)
				f.copied = p.next
				continue
			}
			f.out.op(opLocalTee, f.lengths)
			f.out.op(opLocalGet, f.lengths)
			f.out.op(opCall, f.bulk)
		}
	}
}

// guard begins a turn of a loop. An innermost loop has its body in the first arm of an if: the engine lays
// out a loop that meets no join on its way, and the flush, by which rest begins the turn again, behind it.
func (f *metered) guard(p *point) {
	f.out.op(opLocalGet, f.sum)
	f.out.constant(opI64Const, flushAt)
	if p.inner {
		f.out = append(f.out, opI64LeS, opIf)
		f.out = append(f.out, f.b[p.at+1:p.next]...)
		return
	}
	f.out = append(f.out, opI64GtS, opIf, emptyType)
	f.flushSum()
	f.out = append(f.out, opEnd)
}

// again ends the body of an innermost loop.
func (f *metered) again() {
	f.out = append(f.out, opElse)
	f.flushSum()
	f.out.op(opBr, 1)
	f.out = append(f.out, opEnd)
}

func (f *metered) flushSum() {
	f.out.op(opLocalGet, f.sum)
	f.out.op(opCall, f.flush)
	f.out.constant(opI64Const, 0)
	f.out.op(opLocalSet, f.sum)
}

// spend adds to what was spent.
func (f *metered) spend(n int64) {
	if !f.loops {
		f.pay(&f.out, func() { f.out.constant(opI64Const, n) })
		return
	}
	f.out.op(opLocalGet, f.sum)
	f.out.constant(opI64Const, n)
	f.out = append(f.out, opI64Add)
	f.out.op(opLocalSet, f.sum)
}

// copyTo copies the input up to a place.
func (f *metered) copyTo(at int) {
	f.out = append(f.out, f.b[f.copied:at]...)
	f.copied = at
}
