package wasmbin

// element reads one element segment. Bit 0 of its flags: passive or declared; bit 1: with a table
// index, or declared; bit 2: items are expressions.
func (c *checker) element() {
	at := c.pos
	flags := c.u32()
	if flags > 7 {
		c.fail(at, "type", "element segment flags %d are unknown", flags)
	}
	if flags&1 == 0 {
		table := uint32(0)
		if flags&2 != 0 {
			table = c.u32()
		}
		if int64(table) >= int64(len(c.tables)) {
			c.fail(at, "index", "table %d of %d", table, len(c.tables))
		}
		c.constExpr()
	}
	if flags&3 != 0 {
		at := c.pos
		if flags&4 != 0 {
			c.refType()
		} else if kind := c.byte(); kind != 0 {
			c.fail(at, "type", "element kind 0x%02x is unknown", kind)
		}
	}
	at = c.pos
	n := c.count(maxElemItems, 1)
	c.elemItems += uint64(n)
	c.hold(at, maxElemItems, c.elemItems)
	for range n {
		if flags&4 != 0 {
			c.constExpr()
		} else {
			c.index("function", len(c.funcs))
		}
	}
	c.elements++
}

func (c *checker) dataSegment() {
	at := c.pos
	flags := c.u32()
	switch flags {
	case 0, 1:
	case 2:
		c.index("memory", c.memories())
	default:
		c.fail(at, "type", "data segment flags %d are unknown", flags)
	}
	if flags != 1 {
		if c.out.Memory == nil {
			c.fail(at, "index", "an active data segment without a memory")
		}
		c.constExpr()
	}
	c.skip(c.u32())
}

// constExpr reads one constant and its end. Only one instruction is a constant expression in
// WebAssembly 2.0.
func (c *checker) constExpr() {
	at := c.pos
	switch op := c.byte(); op {
	case 0x23: // global.get
		if i := c.index("global", len(c.globals)); c.globals[i] {
			c.fail(at, "const-expr", "global %d can change, so it is not constant", i)
		}
	case 0x41:
		c.signed(32)
	case 0x42:
		c.signed(64)
	case 0x43:
		c.skip(4)
	case 0x44:
		c.skip(8)
	case 0xd0:
		c.refType()
	case 0xd2:
		c.index("function", len(c.funcs))
	case 0xfd:
		if sub := c.u32(); sub != 0x0c {
			c.fail(at, "const-expr", "vector instruction 0x%x is not constant", sub)
		}
		c.skip(16)
	default:
		c.fail(at, "const-expr", "instruction 0x%02x is not constant", op)
	}
	at = c.pos
	switch op := c.byte(); op {
	case 0x0b:
	case 0x41, 0x42, 0x23, 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e:
		c.refuse(at, "extended-const")
	default:
		c.fail(at, "const-expr", "0x%02x follows a constant; want its end", op)
	}
}
