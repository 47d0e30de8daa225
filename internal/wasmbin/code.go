package wasmbin

const (
	opIf   = 0x04
	opElse = 0x05

	opMemoryGrow = 0x40
)

func (c *checker) codeSection() {
	n := c.count(maxFunctions, 3)
	if int(n) != c.out.Functions {
		c.fail(c.pos, "section", "%d functions are declared and %d have code", c.out.Functions, n)
	}
	sectionEnd := c.end
	allLocals, most := uint64(0), maxAllLocals(c.left())
	for i := range int(n) {
		at := c.pos
		size := c.u32()
		if int64(size) > int64(c.left()) {
			c.fail(at, "truncated", "a function of %d bytes is claimed and %d are left", size, c.left())
		}
		c.hold(at, maxBody, uint64(size))
		c.end = c.pos + int(size)
		allLocals += c.body(at, c.types[c.funcs[c.imported+i]])
		c.hold(at, most, allLocals)
		c.end = sectionEnd
		c.out.Code += int(size)
		c.out.LargestBody = max(c.out.LargestBody, int(size))
	}
	c.bodies = int(n)
}

// body reads one function: its locals, whose number it returns, then instructions up to the end that
// closes it.
func (c *checker) body(at int, t FuncType) uint64 {
	locals := uint64(len(t.Params))
	for groups := c.count(maxLocals, 2); groups > 0; groups-- {
		at := c.pos
		locals += uint64(c.u32())
		c.hold(at, maxLocals, locals)
		c.valueType()
	}
	c.blocks, c.opened = append(c.blocks[:0], 0), 0
	for len(c.blocks) > 0 {
		at := c.pos
		op := c.byte()
		c.instruction(at, op, opcodes[op], locals)
	}
	if c.pos != c.end {
		c.fail(c.pos, "section", "a function has %d bytes after its end", c.end-c.pos)
	}
	c.hold(at, maxWork, c.opened*locals)
	return locals
}

func (c *checker) instruction(at int, op byte, kind imm, locals uint64) {
	switch kind {
	case none:
	case local:
		c.index("local", int(locals))
	case i32Const:
		c.signed(32)
	case i64Const:
		c.signed(64)
	case memArg, memArg2, memArg4, memArg8, memArg16:
		c.memArg(kind - memArg)
	case global:
		c.index("global", len(c.globals))
	case callOp:
		c.index("function", len(c.funcs))
	case label:
		c.index("label", len(c.blocks))
	case block:
		c.blockType()
		c.blocks = append(c.blocks, op)
		c.opened++
		c.hold(at, maxNesting, uint64(len(c.blocks)))
	case elseOp:
		if top := len(c.blocks) - 1; c.blocks[top] != opIf {
			c.fail(at, "block", "an else without its if")
		} else {
			c.blocks[top] = opElse
		}
	case endOp:
		c.blocks = c.blocks[:len(c.blocks)-1]
	case brTable:
		for n := c.count(maxTargets, 1); n > 0; n-- {
			c.index("label", len(c.blocks))
		}
		c.index("label", len(c.blocks))
	case callIndirect:
		c.typeIndex()
		at := c.pos
		if t := c.index("table", len(c.tables)); c.tables[t] != FuncRef {
			c.fail(at, "type", "an indirect call through a table of %s", c.tables[t])
		}
	case f32Const:
		c.skip(4)
	case f64Const:
		c.skip(8)
	case memZero:
		c.needMemory(at)
		if i := c.byte(); i != 0 {
			c.refuse(at, "multi-memory")
		}
		c.out.GrowsMemory = c.out.GrowsMemory || op == opMemoryGrow
	case tableIdx:
		c.index("table", len(c.tables))
	case refNull:
		c.refType()
	case refFunc:
		c.index("function", len(c.funcs))
	case selectTypes:
		if n := c.u32(); n != 1 {
			c.fail(at, "type", "select with %d types; want 1", n)
		}
		c.valueType()
	case prefixFC:
		c.extended(at)
	case prefixFD:
		c.vector(at)
	case exceptions, tailCalls, gc, threads:
		c.refuse(at, kind.proposal())
	default:
		c.fail(at, "opcode", "instruction 0x%02x is unknown", op)
	}
}

// blockType reads the type of a block: empty, one value, or a function type.
func (c *checker) blockType() {
	at := c.pos
	if b := c.byte(); b == 0x40 {
		return
	} else if b >= 0x41 && b < 0x80 { // a negative number of one byte: a value type
		c.checkValueType(at, b)
		return
	}
	c.pos = at
	i := c.signed(33)
	if i < 0 || i >= int64(len(c.types)) {
		c.fail(at, "index", "type %d of %d", i, len(c.types))
	}
	c.hold(at, maxBlockParams, uint64(len(c.types[i].Params)))
}

func (c *checker) needMemory(at int) {
	if c.out.Memory == nil {
		c.fail(at, "index", "a memory instruction in a module without a memory")
	}
}

// memArg reads alignment and offset of a load or store of 1<<size bytes.
func (c *checker) memArg(size imm) {
	at := c.pos
	c.needMemory(at)
	align := c.u32()
	if align&0x40 != 0 && align < 0x80 {
		c.refuse(at, "multi-memory")
	}
	if align > uint32(size) {
		c.fail(at, "alignment", "alignment 2^%d of an access of 2^%d bytes", align, size)
	}
	c.u32()
}

// extended reads an instruction after 0xfc: saturating conversions, bulk memory, tables.
func (c *checker) extended(at int) {
	switch op := c.u32(); op {
	case 0, 1, 2, 3, 4, 5, 6, 7:
	case 8: // memory.init
		c.dataIndex()
		c.memIndex(at)
	case 9: // data.drop
		c.dataIndex()
	case 10: // memory.copy
		c.memIndex(at)
		c.memIndex(at)
	case 11: // memory.fill
		c.memIndex(at)
	case 12: // table.init
		c.index("element segment", c.elements)
		c.index("table", len(c.tables))
	case 13: // elem.drop
		c.index("element segment", c.elements)
	case 14: // table.copy
		c.index("table", len(c.tables))
		c.index("table", len(c.tables))
	case 15: // table.grow
		c.index("table", len(c.tables))
		c.out.GrowsTable = true
	case 16, 17: // table.size, table.fill
		c.index("table", len(c.tables))
	default:
		c.fail(at, "opcode", "instruction 0xfc 0x%02x is unknown", op)
	}
}

func (c *checker) memIndex(at int) {
	c.needMemory(at)
	if c.byte() != 0 {
		c.refuse(at, "multi-memory")
	}
}

func (c *checker) dataIndex() {
	if c.dataCount < 0 {
		c.fail(c.pos, "section", "an instruction names a data segment, and there is no data count section")
	}
	c.index("data segment", c.dataCount)
}

// vector reads an instruction after 0xfd.
func (c *checker) vector(at int) {
	op := c.u32()
	if op >= 0x100 && op <= 0x12f {
		c.refuse(at, "relaxed-simd")
	}
	if op > 0xff {
		c.fail(at, "opcode", "instruction 0xfd 0x%02x is unknown", op)
	}
	switch kind := vectors[op]; kind {
	case none:
	case memArg, memArg2, memArg4, memArg8, memArg16:
		c.memArg(kind - memArg)
	case v128Const:
		c.skip(16)
	case shuffle:
		for range 16 {
			c.lane(32)
		}
	case lane2, lane4, lane8, lane16:
		c.lane(2 << (kind - lane2))
	case memLane, memLane16, memLane32, memLane64:
		c.memArg(kind - memLane)
		c.lane(16 >> (kind - memLane))
	default:
		c.fail(at, "opcode", "instruction 0xfd 0x%02x is unknown", op)
	}
}

func (c *checker) lane(n byte) {
	at := c.pos
	if l := c.byte(); l >= n {
		c.fail(at, "index", "lane %d of %d", l, n)
	}
}
