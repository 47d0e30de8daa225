package wasmbin

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// RewriterVersion changes with what Rewrite makes of a module: code compiled from an older result must
// not be used.
const RewriterVersion = 5

// What a rewritten module imports from HostModule, and exports beyond what it exported before. No guest
// may use these names itself.
const (
	HostModule = "perigee"
	Refill     = "refill" // (i64) -> i64: takes the fuel that is left, below zero, and returns what there is from now on, above zero
	Deeper     = "deeper" // (i64) -> i64: takes the depth that is left, below zero, and returns what there is from now on, above or equal to zero

	FuelGlobal  = "perigee:fuel"  // mutable i64, 0 at first
	StartExport = "perigee:start" // what was the start function, which does not start by itself any more

	privatePrefix = "perigee:"
)

// Chunk is a part of a memory's first content.
type Chunk struct {
	Offset uint32
	Bytes  []byte
}

// Rewritten is what Rewrite made of a module.
type Rewritten struct {
	*Module                  // of the module as it was given
	Wasm            []byte   // the module that meters itself
	Skeleton        []byte   // the same with bodies that only trap, and the digest of Wasm: what an engine needs of a module whose code it has
	Image           []Chunk  // what was in active data segments, in order: later chunks may overlap earlier ones. Shares memory with the input
	State           []string // the exported names of all mutable globals of number types but FuelGlobal, and of the counter of depth
	OpaqueGlobals   bool     // it has mutable globals of other types, which no one outside can restore
	MutatesTables   bool     // it contains instructions that change tables
	DropsSegments   bool     // it contains data.drop or elem.drop
	passiveSegments bool     // it needs its data section
}

// Restorable reports whether memory and State are all that an instance of the module can change.
func (r *Rewritten) Restorable() bool {
	return !r.OpaqueGlobals && !r.MutatesTables && !r.DropsSegments
}

// Rewrite checks a module and makes it meter itself:
//
//   - Fuel. Each instruction costs a unit (cost.go). What is paid is what the path costs that is taken, but
//     for paths that end in a trap; where it is paid is decided by charge.go: not in each basic block, but at
//     the beginning of a function and of a turn of a loop, and where ways of different cost part. A function
//     with loops adds up in a local, and takes that from the global FuelGlobal when it returns, and in a loop
//     once a thousand units have come together; others take from the global at once. Bulk operations pay for
//     their length beforehand, those on memory for each MiB of it. Functions that find the global below zero when they begin, and loops when they
//     pay, call Refill; small functions without loops and calls leave that to who calls them. So between two
//     calls of Refill a guest runs no longer than what it was given, some thousand units for each call that is
//     open, and one function body.
//   - Depth. A function that calls others takes its weight, by the size of its frame, from a counter as
//     long as it runs; Deeper is called when nothing is left. A trap leaves the counter wrong: it is part of State, its last.
//   - Image. Active data segments become Image. They are left behind as empty passive segments, which is
//     what they are to memory.init after instantiation, or dropped if nobody can tell.
//   - State. Mutable globals are exported under private names.
//
// The start function becomes StartExport and custom sections go. What the module computes, and where it
// traps, stays the same but for exhaustion. The types of operands are not checked: that is for who compiles
// the result.
func Rewrite(b []byte) (out *Rewritten, err error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *Error: // raised by reader.fail
			out, err = nil, e
		default:
			panic(e)
		}
	}()
	if Sniff(b) != Core {
		_, err := Check(b) // says what it is instead
		return nil, err
	}
	w := newRewriter(b)
	w.write()
	return &w.result, nil
}

// rewriter is the state of one Rewrite. Its reader goes over the input again, section by section.
type rewriter struct {
	checker
	result  Rewritten
	content [secTag + 1][2]int // where each section's content begins and ends; 0, 0 = there is none

	// The indices of what is added.
	refill, deeper, flush, bulk, entered uint32 // functions
	fuel, depth                          uint32 // globals
	newTypes                             []FuncType
	extraTypes                           map[string]uint32     // by signature
	chunkedOps                           []bulkMemory          // each has a function, after entered
	chunkedBy                            map[bulkMemory]uint32 // its index
	large                                map[uint32]uint32     // bytes of the passive segments longer than a chunk

	// Of the function at hand.
	points   []point
	opened   []opened
	closings []closing
}

// newRewriter checks a module.
func newRewriter(b []byte) *rewriter {
	c := checker{reader: reader{b: b, pos: 8, end: len(b)}}
	c.sections()
	w := &rewriter{checker: c, extraTypes: map[string]uint32{}, chunkedBy: map[bulkMemory]uint32{}, large: map[uint32]uint32{}}
	w.result = Rewritten{Module: &w.out}
	w.split()
	w.plan()
	w.largeSegments()
	return w
}

// split finds the sections.
func (w *rewriter) split() {
	for w.pos, w.end = 8, len(w.b); w.pos < len(w.b); {
		id := w.byte()
		size := int(w.u32())
		if id != secCustom {
			w.content[id] = [2]int{w.pos, w.pos + size}
		}
		w.pos += size
	}
}

// enter moves the reader to a section and returns the count it begins with; 0 if it is not there.
func (w *rewriter) enter(id int) uint32 {
	w.pos, w.end = w.content[id][0], w.content[id][1]
	if w.pos == w.end {
		return 0
	}
	return w.u32()
}

// plan gives indices to what is added.
func (w *rewriter) plan() {
	imported, defined := uint32(w.imported), uint32(w.out.Functions)
	w.refill, w.deeper = imported, imported+1
	w.flush, w.bulk, w.entered = imported+2+defined, imported+3+defined, imported+4+defined
	if w.out.Start {
		at := w.content[secStart][0]
		if t := w.types[w.funcs[w.enter(secStart)]]; len(t.Params)+len(t.Results) > 0 {
			w.fail(at, "start", "the start function has type %s; want () -> ()", t)
		}
	}
	w.fuel, w.depth = uint32(len(w.globals)), uint32(len(w.globals))+1
	for _, e := range w.out.Exports {
		if strings.HasPrefix(e.Name, privatePrefix) {
			w.fail(w.content[secExport][0], "export", "the name %q begins with %q, which is the gateway's own", e.Name, privatePrefix)
		}
	}
}

// function returns the new index of a function: two imports have come before those that are defined.
func (w *rewriter) function(i uint32) uint32 {
	if i < w.refill {
		return i
	}
	return i + 2
}

// typeOf returns the index of a type, which is added if need be.
func (w *rewriter) typeOf(t FuncType) uint32 {
	key := t.String()
	i, ok := w.extraTypes[key]
	if !ok {
		i = uint32(len(w.types) + len(w.newTypes))
		w.newTypes = append(w.newTypes, t)
		w.extraTypes[key] = i
	}
	return i
}

// write makes the new module. The code comes first, since it decides which types and segments are needed.
func (w *rewriter) write() {
	refill := w.typeOf(FuncType{[]ValueType{I64}, []ValueType{I64}})
	none := w.typeOf(FuncType{})
	helpers := []uint32{w.typeOf(FuncType{Params: []ValueType{I64}}), w.typeOf(FuncType{Params: []ValueType{I32}}), none} // flush, bulk, entered
	code := w.code()
	for range w.chunkedOps {
		helpers = append(helpers, w.typeOf(FuncType{Params: []ValueType{I32, I32, I32}}))
	}
	data := w.data()

	out := encoder(append(make([]byte, 0, len(w.b)+len(code)/4), w.b[:8]...))
	out.section(secType, w.typesOut())
	out.section(secImport, w.importsOut(refill))
	out.section(secFunction, w.appended(secFunction, uint32(len(helpers)), func(e *encoder) {
		for _, t := range helpers {
			e.u32(t)
		}
	}))
	out.section(secTable, w.same(secTable))
	out.section(secMemory, w.same(secMemory))
	out.section(secGlobal, w.globalsOut())
	out.section(secExport, w.exportsOut())
	out.section(secElement, w.elementsOut())
	if w.result.passiveSegments {
		var count encoder
		count.u32(uint32(w.out.Data))
		out.section(secDataCount, count)
	}
	var functions encoder
	functions.u32(uint32(w.out.Functions + len(helpers)))
	bones := slices.Clone(out)
	out.section(secCode, append(slices.Clone(functions), code...))
	for range w.out.Functions + len(helpers) {
		functions = append(functions, trap...)
	}
	bones.section(secCode, functions)
	for _, o := range []*encoder{&out, &bones} {
		if w.result.passiveSegments {
			o.section(secData, data)
		}
	}
	w.result.Wasm = out
	whole := sha256.Sum256(out)
	var digest encoder
	digest.name("perigee:whole")
	bones.section(secCustom, append(digest, whole[:]...))
	w.result.Skeleton = bones
}

// trap is a function body, after its length, without locals: unreachable, end.
var trap = []byte{3, 0, 0x00, 0x0b}

// same returns a section's content as it is.
func (w *rewriter) same(id int) encoder { return w.b[w.content[id][0]:w.content[id][1]] }

// appended returns a section with n more items at its end, which add writes.
func (w *rewriter) appended(id int, n uint32, add func(e *encoder)) encoder {
	had := w.enter(id)
	var e encoder
	e.u32(had + n)
	e = append(e, w.b[w.pos:w.end]...)
	add(&e)
	return e
}

func (w *rewriter) typesOut() encoder {
	return w.appended(secType, uint32(len(w.newTypes)), func(e *encoder) {
		for _, t := range w.newTypes {
			*e = append(*e, 0x60)
			for _, list := range [][]ValueType{t.Params, t.Results} {
				e.u32(uint32(len(list)))
				for _, v := range list {
					*e = append(*e, byte(v))
				}
			}
		}
	})
}

func (w *rewriter) importsOut(refill uint32) encoder {
	return w.appended(secImport, 2, func(e *encoder) {
		e.name(HostModule)
		e.name(Refill)
		*e = append(*e, byte(Func))
		e.u32(refill)
		e.name(HostModule)
		e.name(Deeper)
		*e = append(*e, byte(Func))
		e.u32(refill)
	})
}

// globalsOut also notes which globals are state.
func (w *rewriter) globalsOut() encoder {
	had := w.enter(secGlobal)
	var e encoder
	e.u32(had + 2)
	for i := range had {
		t := w.valueType()
		mutable := w.byte()
		e = append(e, byte(t), mutable)
		w.constOut(&e)
		switch {
		case mutable == 0:
		case t == I32 || t == I64 || t == F32 || t == F64:
			w.result.State = append(w.result.State, fmt.Sprint(privatePrefix, "g", len(w.globals)-int(had)+int(i)))
		default:
			w.result.OpaqueGlobals = true
		}
	}
	w.result.State = append(w.result.State, fmt.Sprint(privatePrefix, "g", w.depth))
	for _, first := range []int64{0, DepthPortion} {
		e = append(e, byte(I64), 1)
		e.constant(opI64Const, first)
		e = append(e, opEnd)
	}
	return e
}

// constOut copies a constant expression.
func (w *rewriter) constOut(e *encoder) {
	if w.b[w.pos] == 0xd2 { // ref.func
		w.pos++
		*e = append(*e, 0xd2)
		e.u32(w.function(w.u32()))
		*e = append(*e, w.byte())
		return
	}
	at := w.pos
	w.constExpr()
	*e = append(*e, w.b[at:w.pos]...)
}

func (w *rewriter) exportsOut() encoder {
	had := w.enter(secExport)
	more := uint32(len(w.result.State)) + 1
	if w.out.Start {
		more++
	}
	var e encoder
	e.u32(had + more)
	for range had {
		e.name(w.name())
		kind, i := Kind(w.byte()), w.u32()
		if kind == Func {
			i = w.function(i)
		}
		e.export(kind, i)
	}
	for _, name := range w.result.State {
		var i uint32
		_, _ = fmt.Sscanf(name, privatePrefix+"g%d", &i)
		e.name(name)
		e.export(Global, i)
	}
	e.name(FuelGlobal)
	e.export(Global, w.fuel)
	if w.out.Start {
		start := w.enter(secStart) // its only number is not a count
		e.name(StartExport)
		e.export(Func, w.function(start))
	}
	return e
}

func (w *rewriter) elementsOut() encoder {
	had := w.enter(secElement)
	if had == 0 {
		return nil
	}
	var e encoder
	e.u32(had)
	for range had {
		flags := w.u32()
		e.u32(flags)
		if flags&1 == 0 {
			if flags&2 != 0 {
				e.u32(w.u32())
			}
			w.constOut(&e)
		}
		if flags&3 != 0 {
			e = append(e, w.byte())
		}
		n := w.u32()
		e.u32(n)
		for range n {
			if flags&4 != 0 {
				w.constOut(&e)
			} else {
				e.u32(w.function(w.u32()))
			}
		}
	}
	return e
}
