package wasmbin

// The section ids of the binary format.
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
	secTag
)

// order is the place of each section in a module; equal or falling places are refused.
var order = [...]int{
	secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5, secTag: 6, secGlobal: 7,
	secExport: 8, secStart: 9, secElement: 10, secDataCount: 11, secCode: 12, secData: 13,
}

// checker is the state of one Check.
type checker struct {
	reader
	out Module

	types     []FuncType
	funcs     []uint32 // type index of each function, imports first
	imported  int      // how many of funcs
	tables    []ValueType
	globals   []bool // whether each can change
	elements  int
	elemItems uint64
	dataCount int // claimed by its section; -1 = absent
	data      int
	bodies    int

	blocks []byte // open blocks of the current function, by opcode
	opened uint64 // blocks that the current function has opened so far
}

func (c *checker) sections() {
	c.dataCount = -1
	last := 0
	for c.pos < len(c.b) {
		at := c.pos
		id := c.byte()
		size := c.u32()
		if int64(size) > int64(len(c.b)-c.pos) {
			c.fail(at, "truncated", "section %d claims %d bytes and %d are left", id, size, len(c.b)-c.pos)
		}
		c.end = c.pos + int(size)
		if id == secCustom {
			c.name()
			c.pos = c.end
		} else {
			if int(id) >= len(order) {
				c.fail(at, "section", "section id %d is unknown", id)
			}
			if order[id] <= last {
				c.fail(at, "section", "section %d is out of order or there twice", id)
			}
			last = order[id]
			c.section(at, id)
		}
		if c.pos != c.end {
			c.fail(c.pos, "section", "section %d has %d bytes too many", id, c.end-c.pos)
		}
		c.end = len(c.b)
	}
	c.finish()
}

func (c *checker) section(at int, id byte) {
	switch id {
	case secType:
		c.typeSection()
	case secImport:
		c.importSection()
	case secFunction:
		for range c.count(maxFunctions, 1) {
			c.funcs = append(c.funcs, c.typeIndex())
		}
		c.out.Functions = len(c.funcs) - c.imported
	case secTable:
		for range c.count(maxTables, 3) {
			c.table()
		}
	case secMemory:
		if n := c.u32(); n > 1 {
			c.fail(at, "no-multi-memory", "%d memories; a module has at most one", n)
		} else if n == 1 {
			c.memory()
		}
	case secTag:
		c.refuse(at, "exceptions")
	case secGlobal:
		for range c.count(maxGlobals, 4) {
			mutable := c.globalType()
			c.constExpr()
			c.globals = append(c.globals, mutable)
			c.out.Globals++
		}
	case secExport:
		c.exportSection()
	case secStart:
		c.out.Start = true
		c.index("function", len(c.funcs))
	case secElement:
		c.out.Elements = int(c.count(maxElements, 3))
		for range c.out.Elements {
			c.element()
		}
	case secDataCount:
		at := c.pos
		n := c.u32()
		c.hold(at, maxData, uint64(n))
		c.dataCount = int(n)
	case secCode:
		c.codeSection()
	case secData:
		c.data = int(c.count(maxData, 2))
		for range c.data {
			c.dataSegment()
		}
		c.out.Data = c.data
	}
}

// finish checks what needs more than one section.
func (c *checker) finish() {
	if c.bodies != c.out.Functions {
		c.fail(c.pos, "section", "%d functions are declared and %d have code", c.out.Functions, c.bodies)
	}
	if c.dataCount >= 0 && c.dataCount != c.data {
		c.fail(c.pos, "section", "%d data segments are announced and there are %d", c.dataCount, c.data)
	}
	if !c.out.GrowsTable {
		return
	}
	for i, t := range c.out.Tables {
		if !t.HasMax || uint64(t.Max) > maxTableSize.max {
			c.fail(0, maxTableSize.rule, "table %d can grow without a maximum of %d entries, outside the memory limit; build with a maximum table size", i, maxTableSize.max)
		}
	}
}

// refuse names a proposal beyond WebAssembly 2.0.
func (c *checker) refuse(at int, feature string) {
	c.fail(at, "no-"+feature, "the module uses the %s proposal, which this gateway does not run; build it without", feature)
}

func (c *checker) typeSection() {
	n := c.count(maxTypes, 3)
	c.types = make([]FuncType, 0, n)
	for range n {
		at := c.pos
		switch form := c.byte(); form {
		case 0x60:
			c.types = append(c.types, FuncType{c.valueTypes(maxParams), c.valueTypes(maxResults)})
		case 0x4e, 0x4f, 0x50, 0x5e, 0x5f:
			c.refuse(at, "gc")
		default:
			c.fail(at, "type", "type form 0x%02x is unknown", form)
		}
	}
	c.out.Types = len(c.types)
}

func (c *checker) valueTypes(l limit) []ValueType {
	n := c.count(l, 1)
	if n == 0 {
		return nil
	}
	out := make([]ValueType, n)
	for i := range out {
		out[i] = c.valueType()
	}
	return out
}

func (c *checker) valueType() ValueType {
	at := c.pos
	t := c.byte()
	c.checkValueType(at, t)
	return ValueType(t)
}

func (c *checker) checkValueType(at int, t byte) {
	switch t {
	case byte(I32), byte(I64), byte(F32), byte(F64), byte(V128), byte(FuncRef), byte(ExternRef):
	case 0x69, 0x74:
		c.refuse(at, "exceptions")
	case 0x63, 0x64, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x71, 0x72, 0x73:
		c.refuse(at, "gc")
	default:
		c.fail(at, "type", "value type 0x%02x is unknown", t)
	}
}

func (c *checker) refType() ValueType {
	at := c.pos
	t := c.valueType()
	if t != FuncRef && t != ExternRef {
		c.fail(at, "type", "%s is not a reference type", t)
	}
	return t
}

// index reads an index into n things.
func (c *checker) index(what string, n int) uint32 {
	at := c.pos
	i := c.u32()
	if int64(i) >= int64(n) {
		c.fail(at, "index", "%s %d of %d", what, i, n)
	}
	return i
}

func (c *checker) typeIndex() uint32 { return c.index("type", len(c.types)) }

func (c *checker) importSection() {
	for range c.count(maxImports, 4) {
		im := Import{Module: c.name(), Name: c.name()}
		at := c.pos
		switch kind := c.byte(); kind {
		case 0:
			t := c.typeIndex()
			im.Type = c.types[t]
			c.funcs = append(c.funcs, t)
			c.imported++
		case 1:
			im.Kind = Table
			c.hold(at, maxTables, uint64(len(c.tables)+1))
			c.table()
		case 2:
			im.Kind = Memory
			c.memory()
		case 3:
			im.Kind = Global
			c.globals = append(c.globals, c.globalType())
		case 4:
			c.refuse(at, "exceptions")
		default:
			c.fail(at, "type", "import kind 0x%02x is unknown", kind)
		}
		c.out.Imports = append(c.out.Imports, im)
	}
}

func (c *checker) exportSection() {
	n := c.count(maxExports, 3)
	seen := make(map[string]bool, n)
	for range n {
		at := c.pos
		e := Export{Name: c.name()}
		if seen[e.Name] {
			c.fail(at, "export", "%q is exported twice", e.Name)
		}
		seen[e.Name] = true
		at = c.pos
		switch kind := c.byte(); kind {
		case 0:
			e.Type = c.types[c.funcs[c.index("function", len(c.funcs))]]
		case 1:
			e.Kind = Table
			c.index("table", len(c.tables))
		case 2:
			e.Kind = Memory
			c.index("memory", c.memories())
		case 3:
			e.Kind = Global
			c.index("global", len(c.globals))
		case 4:
			c.refuse(at, "exceptions")
		default:
			c.fail(at, "type", "export kind 0x%02x is unknown", kind)
		}
		c.out.Exports = append(c.out.Exports, e)
	}
}

func (c *checker) memories() int {
	if c.out.Memory == nil {
		return 0
	}
	return 1
}

func (c *checker) table() {
	at := c.pos
	if c.left() > 0 && c.b[c.pos] == 0x40 {
		c.refuse(at, "gc") // a table with an initial value
	}
	t := c.refType()
	l := c.limits(maxTableSize)
	c.tables = append(c.tables, t)
	c.hold(at, maxTables, uint64(len(c.tables)))
	c.out.Tables = append(c.out.Tables, l)
}

func (c *checker) memory() {
	at := c.pos
	if c.out.Memory != nil {
		c.fail(at, "no-multi-memory", "a second memory; a module has at most one")
	}
	l := c.limits(maxPages)
	if l.HasMax {
		c.hold(at, maxPages, uint64(l.Max))
	}
	c.out.Memory = &l
}

func (c *checker) limits(m limit) (l Limits) {
	at := c.pos
	switch flag := c.byte(); flag {
	case 0, 1:
		l.HasMax = flag == 1
	case 2, 3:
		c.refuse(at, "threads")
	case 4, 5, 6, 7:
		c.refuse(at, "memory64")
	default:
		c.fail(at, "type", "limits flag 0x%02x is unknown", flag)
	}
	at = c.pos
	l.Min = c.u32()
	c.hold(at, m, uint64(l.Min))
	if l.HasMax {
		if l.Max = c.u32(); l.Max < l.Min {
			c.fail(at, "type", "the maximum %d is below the minimum %d", l.Max, l.Min)
		}
	}
	return l
}

func (c *checker) globalType() (mutable bool) {
	c.valueType()
	at := c.pos
	m := c.byte()
	if m > 1 {
		c.fail(at, "type", "mutability 0x%02x is neither 0 nor 1", m)
	}
	return m == 1
}
