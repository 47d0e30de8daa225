package wasmbin

// point is an instruction that branches, is branched to, or is not copied as it is. The instructions after
// the last point and up to this one, which run together, are its segment.
type point struct {
	at, next int // where the instruction is, and what follows it
	op       byte
	index    uint32 // label or function; of a bulk operation: the function that does it, 0 = none
	cost     int64  // of the segment
	charge   int64  // what is paid when the segment begins
	inner    bool   // a loop without loops in it
	loop     bool   // an end: of a loop
	unpaid   bool   // an end: nobody who comes here has paid for what follows
	last     bool   // an end: of the function
}

// opened is a block that is open.
type opened struct {
	at     int // its point
	loops  int // how many loops are open, with itself
	loop   int // the point of the last of them
	unpaid bool
}

// scan finds the points of a function and returns what all its instructions cost together.
func (f *metered) scan() (total int64) {
	f.points, f.opened = f.points[:0], f.opened[:0]
	cost := int64(0)
	for {
		p := point{at: f.pos}
		p.op = f.byte()
		more, found := f.step(&p)
		cost += more
		if !found {
			continue
		}
		p.next, p.cost = f.pos, cost
		f.points = append(f.points, p)
		total, cost = total+cost, 0
		if p.last {
			return total
		}
	}
}

// step reads one instruction, and returns what it costs and whether it is a point.
func (f *metered) step(p *point) (cost int64, found bool) {
	kind := opcodes[p.op]
	switch kind {
	case block:
		f.signed(33)
		f.open(p)
		if p.op == opIf {
			return costInstruction, true
		}
		return 0, true
	case elseOp:
		return 0, true
	case endOp:
		f.close(p)
		return 0, true
	case label:
		p.index = f.u32()
		f.branch(p.index, false)
		return costInstruction, true
	case brTable:
		for n := f.u32() + 1; n > 0; n-- {
			f.branch(f.u32(), true)
		}
		return costInstruction, true
	case callOp:
		p.index = f.u32()
		f.calls = f.calls || p.index >= f.refill
		f.calledFor(f.types[f.funcs[p.index]])
		return costInstruction + costCall, true
	case callIndirect:
		f.calls = true
		f.calledFor(f.types[f.u32()])
		f.u32()
		return costInstruction + costCall, false
	case refFunc:
		p.index = f.u32()
		return costInstruction, true
	case prefixFC:
		bulk := f.prefixed(p)
		f.bulks = f.bulks || bulk && p.index == 0
		return costInstruction, bulk
	}
	f.immediates(kind)
	switch p.op {
	case opReturn:
		f.leaves = true
		return costInstruction, true
	case opUnreachable:
		return costInstruction, true
	case opMemoryGrow:
		return costInstruction + costGrow, false
	case opTableSet:
		f.result.MutatesTables = true
	}
	return costInstruction, false
}

// calledFor notes the results of a call.
func (f *metered) calledFor(t FuncType) { f.results += max(0, len(t.Results)-1) }

func (f *metered) open(p *point) {
	b := opened{at: len(f.points)}
	if n := len(f.opened); n > 0 {
		b.loops, b.loop = f.opened[n-1].loops, f.opened[n-1].loop
	}
	if p.op == opLoop {
		if b.loops > 0 {
			f.points[b.loop].inner = false
		}
		f.loops, p.inner = true, true
		b.loops++
		b.loop = b.at
	}
	f.opened = append(f.opened, b)
}

func (f *metered) close(p *point) {
	top := len(f.opened) - 1
	if top < 0 {
		p.last = true
		return
	}
	b := f.opened[top]
	f.opened = f.opened[:top]
	p.loop = f.points[b.at].op == opLoop
	p.unpaid = b.unpaid && !p.loop
}

// branch notes a branch to a label, by a table or not. What follows the label is not paid before a branch by
// a table, which has too many ways, nor in each turn of a loop that is left once.
func (f *metered) branch(i uint32, table bool) {
	top := len(f.opened) - 1
	if int(i) > top {
		f.leaves = true
		return
	}
	b := &f.opened[top-int(i)]
	b.unpaid = b.unpaid || table || b.loops < f.opened[top].loops
}

// prefixed reads an instruction after 0xfc and reports whether it works on a length. Tables and small segments
// are done with in no time; what works on memory is left to a function that does it in chunks.
func (f *metered) prefixed(p *point) bool {
	op := f.u32()
	switch op {
	case opMemoryInit:
		f.result.passiveSegments = true
		segment := f.u32()
		if f.pos++; f.large[segment] > 0 {
			p.index = f.chunked(bulkMemory{opMemoryInit, segment})
		}
		return true
	case opMemoryCopy, opMemoryFill:
		if f.pos++; op == opMemoryCopy {
			f.pos++
		}
		p.index = f.chunked(bulkMemory{op: byte(op)})
		return true
	case 9: // data.drop
		f.result.passiveSegments, f.result.DropsSegments = true, true
		f.u32()
		return false
	case 12, 14, 15, 17: // table.init, copy, grow, fill
		f.result.MutatesTables = true
	case 13: // elem.drop
		f.result.DropsSegments = true
		f.u32()
		return false
	case 16: // table.size
		f.u32()
		return false
	default: // conversions
		return false
	}
	f.u32()
	if op == 12 || op == 14 {
		f.u32()
	}
	return true
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
