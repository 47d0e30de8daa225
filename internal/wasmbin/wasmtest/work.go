package wasmtest

// The bombs below are within all limits of structure. Each is a handler, so that what the compiler takes can
// also be loaded.

// inHandler makes a handler with one more function, which nobody calls.
func inHandler(build func(m *Module, n int)) func(n int) []byte {
	return func(n int) []byte {
		var m Module
		m.Memory(1, 0)
		build(&m, n)
		return Handler(&m)
	}
}

// Handler adds the two exports of a handler that answers nothing, and returns the module.
func Handler(m *Module) []byte {
	m.Export("handle_request", 0, m.Func(":I", 0, Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// mostLocals has n locals that are all alive at once.
func mostLocals(m *Module, n int) {
	var set, get []byte
	for i := range n {
		set = append(set, Cat(Const(i), 0x21, U(uint64(i)))...)
		get = append(get, Cat(0x20, U(uint64(i)), 0x6a)...)
	}
	m.Func(":", n, set, Const(0), get, 0x1a)
}

func mostBlocks(m *Module, n int) {
	m.Func(":", 1, Repeat(n, 0x02, 0x40), Repeat(n, 0x20, 0, 0x0d, 0, 0x0b))
}

func mostTargets(m *Module, n int) {
	depth := 1000
	var all []byte
	for i := range n + 1 {
		all = append(all, U(uint64(i%depth))...)
	}
	m.Func(":", 1, Repeat(depth, 0x02, 0x40), 0x20, 0, 0x0e, U(uint64(n)), all, Repeat(depth, 0x0b))
}

// mostWork has 1000 locals that live through n loops.
func mostWork(m *Module, n int) {
	var uses []byte
	for i := range 1000 {
		uses = append(uses, Cat(0x20, U(uint64(i)), 0x1a)...)
	}
	m.Func(":", 1000, Repeat(n, Loop(0x20, 0, 0x0d, 0)), uses)
}

// mostJoins has n places at which each of 1000 locals may come from two ways.
func mostJoins(m *Module, n int) {
	var out []byte
	for i := range n {
		out = append(out, Cat(0x20, 0, 0x04, 0x40, Const(i), 0x21, U(uint64(i%1000)), 0x0b)...)
	}
	m.Func(":", 1000, out)
}

func arithmetic(m *Module, n int) {
	m.Func(":", 4, Repeat(n, 0x20, 1, 0x20, 2, 0x6a, 0x21, 3))
}

// operands has n values on the stack at once.
func operands(m *Module, n int) {
	m.Func(":", 1, Repeat(n, 0x20, 0), Repeat(n-1, 0x6a), 0x1a)
}

func calls(m *Module, n int) {
	f := m.Func(":", 0)
	m.Func(":", 0, Repeat(n, Call(f)))
}

// divisions are checked for zero and overflow each.
func divisions(m *Module, n int) {
	m.Func(":", 2, Repeat(n, 0x20, 0, 0x20, 1, 0x6d, 0x1a))
}

func loads(m *Module, n int) {
	m.Func(":", 2, Repeat(n, 0x20, 0, 0x28, 2, 0, 0x1a))
}

func copies(m *Module, n int) {
	m.Func(":", 2, Repeat(n, 0x20, 0, 0x20, 1, 0x20, 0, 0xfc, 10, 0, 0))
}

func vectors(m *Module, n int) {
	m.Func(":", 1, Repeat(n, 0x20, 0, 0xfd, 0x11, 0xfd, 0x15, 0, 0x1a))
}

func manyFunctions(n int) []byte {
	var m Module
	m.Memory(1, 0)
	t := m.Type(":")
	for range n {
		m.funcs = append(m.funcs, U(uint64(t)))
		m.bodies = append(m.bodies, []byte{2, 0, 0x0b})
	}
	m.index += n
	return Handler(&m)
}

func manyLongBodies(n int) []byte {
	var m Module
	m.Memory(1, 0)
	for range n {
		arithmetic(&m, 70_000)
	}
	return Handler(&m)
}

// manySignatures calls through n types.
func manySignatures(n int) []byte {
	var m Module
	m.Memory(1, 0)
	m.Table(1, 1)
	for i := range n {
		m.Type([]string{"i:", "I:", "f:", "F:", "ii:", "iI:", "If:", "FF:"}[i%8])
	}
	var out []byte
	for range n {
		out = append(out, Cat(Const(0), Const(0), 0x11, 0, 0)...)
	}
	m.Func(":", 0, out)
	return Handler(&m)
}

// wideCalls makes n calls with 1000 arguments each.
func wideCalls(n int) []byte {
	var m Module
	m.Memory(1, 0)
	f := m.Func(string(Repeat(1000, "i"))+":", 0)
	m.Func(":", 1, Repeat(n, Repeat(1000, 0x20, 0), Call(f)))
	return Handler(&m)
}

func manySegments(n int) []byte {
	var m Module
	m.Memory(16, 0)
	for i := range n {
		m.Data(i%(1<<20), "x")
	}
	return Handler(&m)
}

func largeTables(n int) []byte {
	var m Module
	m.Memory(1, 0)
	for range n {
		m.Table(100_000, 100_000)
	}
	return Handler(&m)
}

func wholeMemory(n int) []byte {
	var m Module
	m.Memory(n, n)
	return Handler(&m)
}
