package wasmtest

import "math"

// Bomb is a kind of module that costs a careless reader or compiler far more than its size.
type Bomb struct {
	Kind  string
	Rule  string             // of the structural checker that refuses it; "" = it passes, and is for the compiler to bear
	Sizes []int              // what Wasm is to be called with
	Wasm  func(n int) []byte // makes the module with n of whatever the kind has too much of
}

// endless are counts that no file can hold.
var endless = []int{1 << 14, 1 << 24, math.MaxUint32}

// Bombs returns all kinds.
func Bombs() []Bomb {
	return []Bomb{
		{"claimed-types", "count", endless, claimed(1)},
		{"claimed-imports", "count", endless, claimed(2)},
		{"claimed-functions", "count", endless, claimed(3)},
		{"claimed-tables", "count", endless, claimed(4)},
		{"claimed-memories", "no-multi-memory", endless, claimed(5)},
		{"claimed-globals", "count", endless, claimed(6)},
		{"claimed-exports", "count", endless, claimed(7)},
		{"claimed-start", "index", endless, claimed(8)},
		{"claimed-element-segments", "count", endless, claimed(9)},
		{"claimed-bodies", "count", endless, claimed(10)},
		{"claimed-data-segments", "count", endless, claimed(11)},
		{"claimed-data-count", "max-data-segments", endless[1:], claimed(12)},
		{"claimed-parameters", "count", endless, claimedParameters},
		{"claimed-results", "count", endless, claimedResults},
		{"claimed-body", "truncated", endless, claimedBody},
		{"claimed-local-groups", "count", endless, claimedLocalGroups},
		{"claimed-targets", "count", endless, claimedTargets},
		{"claimed-elements", "count", endless, claimedElements},
		{"claimed-data", "truncated", endless, claimedData},
		{"claimed-name", "truncated", endless, claimedName},
		{"claimed-custom-name", "truncated", endless, claimedCustomName},
		{"claimed-section", "truncated", endless, claimedSection},
		{"endless-number", "leb128", []int{100, 1_000_000}, endlessNumber},

		{"locals", "max-locals", []int{20_001, 200_000_000}, locals},
		{"local-groups", "max-locals", []int{2, 40, 20_000}, localGroups},
		{"locals-of-all", "max-all-locals", []int{100, 1000, 10_000}, localsOfAll},
		{"blocks", "max-nesting", []int{8_001, 100_000}, nested(0x02)},
		{"loops", "max-nesting", []int{8_001, 100_000}, nested(0x03)},
		{"ifs", "max-nesting", []int{8_001, 80_000}, nestedIfs},
		{"targets", "max-br-table", []int{16_001, 200_000}, targets},
		{"loops-times-locals", "max-work", []int{8_001, 60_000}, loopsTimesLocals},
		{"ifs-times-locals", "max-work", []int{8_001, 40_000}, ifsTimesLocals},
		{"long-body", "max-body", []int{512<<10 + 1, 8 << 20}, longBody},
		{"parameters", "max-params", []int{1_001, 100_000}, parameters},
		{"results", "max-results", []int{17, 1_000}, results},
		{"block-parameters", "max-block-params", []int{17, 1_000}, blockParameters},
		{"types", "max-types", []int{10_001, 1_000_000}, manyTypes},
		{"functions", "max-functions", []int{200_001, 1_000_000}, functions},
		{"tables", "max-tables", []int{5, 1_000}, tables},
		{"table-size", "max-table-size", []int{100_001, 100_000_000, math.MaxUint32}, tableSize},
		{"imported-table-size", "max-table-size", []int{100_001, math.MaxUint32}, importedTable},
		{"growing-table", "max-table-size", []int{1, 1 << 20}, growingTable},
		{"pages", "max-memory", []int{65_537, math.MaxUint32}, pages},
		{"globals", "max-globals", []int{10_001, 1_000_000}, globals},
		{"imports", "max-imports", []int{2_001, 100_000}, imports},
		{"exports", "max-exports", []int{10_001, 100_000}, exports},
		{"elements", "max-elements", []int{200_001, 2_000_000}, elements},
		{"element-segments", "max-element-segments", []int{10_001, 100_000}, elementSegments},
		{"data-segments", "max-data-segments", []int{150_001, 1_000_000}, dataSegments},
		{"long-name", "max-name", []int{2_001, 1_000_000}, longName},
		{"long-import", "max-name", []int{2_001, 1_000_000}, longImport},

		{"most-locals", "", []int{19_900}, inHandler(mostLocals)},
		{"most-blocks", "", []int{1_000, 7_900}, inHandler(mostBlocks)},
		{"most-targets", "", []int{1_000, 15_900}, inHandler(mostTargets)},
		{"most-work", "", []int{1_000, 7_900}, inHandler(mostWork)},
		{"most-joins", "", []int{1_000, 7_900}, inHandler(mostJoins)},
		{"arithmetic", "", []int{10_000, 74_000}, inHandler(arithmetic)},
		{"operands", "", []int{10_000, 170_000}, inHandler(operands)},
		{"calls", "", []int{10_000, 250_000}, inHandler(calls)},
		{"divisions", "", []int{10_000, 80_000}, inHandler(divisions)},
		{"loads", "", []int{10_000, 80_000}, inHandler(loads)},
		{"copies", "", []int{10_000, 40_000}, inHandler(copies)},
		{"vectors", "", []int{10_000, 60_000}, inHandler(vectors)},
		{"many-functions", "", []int{10_000, 190_000}, manyFunctions},
		{"many-long-bodies", "", []int{2, 16}, manyLongBodies},
		{"many-signatures", "", []int{9_000}, manySignatures},
		{"wide-calls", "", []int{10, 200}, wideCalls},
		{"many-segments", "", []int{140_000}, manySegments},
		{"large-tables", "", []int{4}, largeTables},
		{"whole-memory", "", []int{65_536}, wholeMemory},
	}
}

// claimed makes a section that is nothing but a count.
func claimed(section int) func(n int) []byte {
	return func(n int) []byte { return Cat(Preamble, Section(section, U(uint64(n)))) }
}

func claimedParameters(n int) []byte { return Cat(Preamble, Section(1, 1, 0x60, U(uint64(n)))) }

func claimedResults(n int) []byte { return Cat(Preamble, Section(1, 1, 0x60, 0, U(uint64(n)))) }

// declared is a module of one function, up to its code.
func declared(n int) []byte {
	return Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(3, U(uint64(n)), Repeat(n, 0)), Section(4, 1, 0x70, 0, 1), Section(5, 1, 0, 1))
}

func claimedBody(n int) []byte { return Cat(declared(1), Section(10, 1, U(uint64(n)), 0x0b)) }

func claimedLocalGroups(n int) []byte {
	code := Cat(U(uint64(n)), 0x0b)
	return Cat(declared(1), Section(10, 1, U(uint64(len(code))), code))
}

// Bodies is a module with copies of one function.
func Bodies(copies int, locals []byte, code ...any) []byte {
	b := Cat(locals, Cat(code...), 0x0b)
	return Cat(declared(copies), Section(10, U(uint64(copies)), Repeat(copies, U(uint64(len(b))), b)))
}

var noLocals = []byte{0}

func claimedTargets(n int) []byte { return Bodies(1, noLocals, Const(0), 0x0e, U(uint64(n)), 0) }

func claimedElements(n int) []byte { return Cat(declared(1), Section(9, 1, 1, 0, U(uint64(n)))) }

func claimedData(n int) []byte {
	return Cat(Preamble, Section(5, 1, 0, 1), Section(11, 1, 1, U(uint64(n))))
}

func claimedName(n int) []byte {
	return Cat(Preamble, Section(5, 1, 0, 1), Section(7, 1, U(uint64(n)), "ab"))
}

func claimedCustomName(n int) []byte { return Cat(Preamble, Section(0, U(uint64(n)), "name")) }

func claimedSection(n int) []byte { return Cat(Preamble, 1, U(uint64(n))) }

func endlessNumber(n int) []byte { return Cat(Preamble, 1, Repeat(n, 0x80)) }

func locals(n int) []byte { return Bodies(1, Cat(1, U(uint64(n)), 0x7f)) }

func localGroups(n int) []byte {
	return Bodies(1, Cat(U(uint64(n)), Repeat(n, U(math.MaxUint32), 0x7f)))
}

func localsOfAll(n int) []byte { return Bodies(n, Cat(1, U(uint64(10_000)), 0x7f)) }

func nested(op int) func(n int) []byte {
	return func(n int) []byte { return Bodies(1, noLocals, Repeat(n, op, 0x40), Repeat(n, 0x0b)) }
}

func nestedIfs(n int) []byte {
	return Bodies(1, noLocals, Repeat(n, 0x41, 0, 0x04, 0x40), Repeat(n, 0x0b))
}

func targets(n int) []byte {
	return Bodies(1, noLocals, Const(0), 0x0e, U(uint64(n)), Repeat(n+1, 0))
}

func loopsTimesLocals(n int) []byte {
	return Bodies(1, Cat(1, U(1000), 0x7f), Repeat(n, Loop(0x20, 0, 0x0d, 0)), Repeat(1000, 0x20, 0, 0x1a))
}

func ifsTimesLocals(n int) []byte {
	return Bodies(1, Cat(1, U(1000), 0x7f), Repeat(n, 0x20, 0, 0x04, 0x40, Const(1), 0x21, 7, 0x0b))
}

func longBody(n int) []byte { return Bodies(1, noLocals, Repeat(n, 0x01)) }

func parameters(n int) []byte {
	return Cat(Preamble, Section(1, 1, 0x60, U(uint64(n)), Repeat(n, 0x7f), 0))
}

func results(n int) []byte {
	return Cat(Preamble, Section(1, 1, 0x60, 0, U(uint64(n)), Repeat(n, 0x7f)))
}

func blockParameters(n int) []byte {
	code := Cat(0, 0x02, U(1), 0x0b, 0x0b)
	return Cat(Preamble, Section(1, 2, 0x60, 0, 0, 0x60, U(uint64(n)), Repeat(n, 0x7f), 0), Section(3, 1, 0), Section(10, Vec(Cat(U(uint64(len(code))), code))))
}

func manyTypes(n int) []byte { return Cat(Preamble, Section(1, U(uint64(n)), Repeat(n, 0x60, 0, 0))) }

func functions(n int) []byte { return Bodies(n, noLocals) }

func tables(n int) []byte { return Cat(Preamble, Section(4, U(uint64(n)), Repeat(n, 0x70, 0, 1))) }

func tableSize(n int) []byte { return Cat(Preamble, Section(4, 1, 0x70, 0, U(uint64(n)))) }

func importedTable(n int) []byte {
	return Cat(Preamble, Section(2, 1, Name("a"), Name("b"), 1, 0x70, 0, U(uint64(n))))
}

func growingTable(n int) []byte {
	return Bodies(1, noLocals, 0xd0, 0x70, Const(n), 0xfc, 15, 0, 0x1a)
}

func pages(n int) []byte { return Cat(Preamble, Section(5, 1, 0, U(uint64(n)))) }

func globals(n int) []byte {
	return Cat(Preamble, Section(6, U(uint64(n)), Repeat(n, 0x7f, 0, Const(0), 0x0b)))
}

func imports(n int) []byte {
	return Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(2, U(uint64(n)), Repeat(n, Name("a"), Name("b"), 0, 0)))
}

func exports(n int) []byte {
	return Cat(Preamble, Section(7, U(uint64(n)), Repeat(n, Name(""), 0, 0)))
}

func elements(n int) []byte {
	return Cat(declared(1), Section(9, 1, 1, 0, U(uint64(n)), Repeat(n, 0)))
}

func elementSegments(n int) []byte {
	return Cat(declared(1), Section(9, U(uint64(n)), Repeat(n, 1, 0, 0)))
}

func dataSegments(n int) []byte {
	return Cat(Preamble, Section(5, 1, 0, 1), Section(11, U(uint64(n)), Repeat(n, 1, 0)))
}

func longName(n int) []byte {
	return Cat(Preamble, Section(5, 1, 0, 1), Section(7, 1, Name(string(Repeat(n, "a"))), 2, 0))
}

func longImport(n int) []byte {
	return Cat(Preamble, Section(1, 1, 0x60, 0, 0), Section(2, 1, Name("a"), Name(string(Repeat(n, "a"))), 0, 0))
}
