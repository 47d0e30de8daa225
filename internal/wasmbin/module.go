// Package wasmbin reads WebAssembly core modules (version 2.0, with SIMD) without running, compiling
// or fully validating them. Check decides whether a module is safe to hand to a decoder and a
// compiler that size their memory by what a module claims; Rewrite makes it meter itself, and
// takes out what the gateway puts in place by other means.
//
// Check reads the module once, in time proportional to its length and with memory bounded by it:
// every count is held against the bytes that are left and against the table in limits.go, every
// instruction is decoded, indices and block structure are verified, and proposals beyond 2.0 are
// refused by name. It does not check operand types: the compiler's own validator does, in the
// admission child, where a crash harms nobody.
//
// A module is bytes, "\0asm" 01 00 00 00, then sections: id(1) size(LEB128) content. Integers are
// LEB128 with no more bytes than their width needs. The package does no I/O and owns no goroutine.
package wasmbin

import "fmt"

// Format is what the first eight bytes of a file say it is.
type Format int

// The formats that Sniff tells apart.
const (
	Unknown   Format = iota // not WebAssembly
	Core                    // a core module, version 1 of the binary format
	Component               // a component (layer 1)
	Other                   // WebAssembly of a version or layer that nobody has defined
)

// Sniff reads the preamble of a file.
func Sniff(b []byte) Format {
	if len(b) < 8 || string(b[:4]) != "\x00asm" {
		return Unknown
	}
	switch [4]byte(b[4:8]) {
	case [4]byte{1, 0, 0, 0}:
		return Core
	case [4]byte{0x0d, 0, 1, 0}:
		return Component
	}
	return Other
}

// ValueType is the type of a value, by its byte in the binary format.
type ValueType byte

// The value types of WebAssembly 2.0.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	V128      ValueType = 0x7b
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

// String returns the type as the text format writes it.
func (v ValueType) String() string {
	switch v {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case V128:
		return "v128"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return fmt.Sprintf("type(0x%02x)", byte(v))
}

// FuncType is the signature of a function.
type FuncType struct{ Params, Results []ValueType }

// String returns the signature as "(i32, i32) -> (i64)".
func (t FuncType) String() string {
	return list(t.Params) + " -> " + list(t.Results)
}

func list(types []ValueType) string {
	s := "("
	for i, t := range types {
		if i > 0 {
			s += ", "
		}
		s += t.String()
	}
	return s + ")"
}

// Kind is what an import or export is.
type Kind byte

// The kinds of imports and exports.
const (
	Func Kind = iota
	Table
	Memory
	Global
)

// String returns the word of the text format.
func (k Kind) String() string { return [...]string{"func", "table", "memory", "global"}[k&3] }

// Import is one import. Type is set for functions only.
type Import struct {
	Module, Name string
	Kind         Kind
	Type         FuncType
}

// Export is one export. Type is set for functions only.
type Export struct {
	Name string
	Kind Kind
	Type FuncType
}

// Limits is a size with an optional maximum: of a memory in pages of 64 KiB, of a table in entries.
type Limits struct {
	Min, Max uint32
	HasMax   bool
}

// Module is what Check learnt of a module that it accepts.
type Module struct {
	Imports []Import
	Exports []Export
	Memory  *Limits // imported or defined; nil = none
	Tables  []Limits

	Types, Functions, Globals, Elements, Data int // how many it defines; Functions without imports
	Code                                      int // bytes of all function bodies
	LargestBody                               int // bytes of the largest
	Start                                     bool
	GrowsTable, GrowsMemory                   bool // contains such an instruction
}

// Export returns the export of that name.
func (m *Module) Export(name string) (Export, bool) {
	for _, e := range m.Exports {
		if e.Name == name {
			return e, true
		}
	}
	return Export{}, false
}

// Check reads a core module and returns what is in it, or an *Error that says which rule it breaks
// and where. It never panics, whatever the bytes.
func Check(b []byte) (m *Module, err error) {
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *Error: // raised by reader.fail
			m, err = nil, e
		default:
			panic(e)
		}
	}()
	switch Sniff(b) {
	case Unknown:
		return nil, &Error{Rule: "not-wasm", Detail: "the file does not start with \"\\0asm\" and a version"}
	case Component:
		return nil, &Error{Rule: "component", Detail: "the file is a component, not a core module"}
	case Other:
		return nil, &Error{Rule: "version", Offset: 4, Detail: fmt.Sprintf("binary format % x is unknown; want version 1 (01 00 00 00)", b[4:8])}
	}
	c := checker{reader: reader{b: b, pos: 8, end: len(b)}}
	c.sections()
	return &c.out, nil
}
