// Package wasmtest builds small WebAssembly modules for tests: guests that behave badly in one chosen
// way, and files that lie. It checks nothing, on purpose.
package wasmtest

import (
	"encoding/binary"
	"strings"
	"time"
)

// Module is a module under construction. Import functions before adding others: indices count
// imports first.
type Module struct {
	types, imports, funcs, tables, memory, globals, exports, bodies, data [][]byte

	start []byte
	index int // next function index
}

// Preamble is the beginning of every core module.
const Preamble = "\x00asm\x01\x00\x00\x00"

// U encodes an unsigned LEB128.
func U(n uint64) []byte { return binary.AppendUvarint(nil, n) }

// S encodes a signed LEB128.
func S(n int64) (out []byte) {
	for {
		c := byte(n & 0x7f)
		if n >>= 7; (n == 0 && c&0x40 == 0) || (n == -1 && c&0x40 != 0) {
			return append(out, c)
		}
		out = append(out, c|0x80)
	}
}

// Cat joins byte strings; ints are opcodes and other single bytes.
func Cat(parts ...any) (out []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			out = append(out, p...)
		case string:
			out = append(out, p...)
		case int:
			out = append(out, byte(p))
		}
	}
	return out
}

// Repeat repeats a byte string.
func Repeat(n int, parts ...any) []byte {
	return []byte(strings.Repeat(string(Cat(parts...)), n))
}

// Section encodes one section.
func Section(id int, parts ...any) []byte {
	content := Cat(parts...)
	return Cat(id, U(uint64(len(content))), content)
}

// Vec encodes a count and what it counts.
func Vec(items ...[]byte) []byte {
	out := U(uint64(len(items)))
	for _, it := range items {
		out = append(out, it...)
	}
	return out
}

// Name encodes a name.
func Name(s string) []byte { return Cat(U(uint64(len(s))), s) }

var valueTypes = map[rune]byte{'i': 0x7f, 'I': 0x7e, 'f': 0x7d, 'F': 0x7c, 'v': 0x7b, 'r': 0x70, 'x': 0x6f}

func types(s string) []byte {
	out := U(uint64(len(s)))
	for _, c := range s {
		out = append(out, valueTypes[c])
	}
	return out
}

// Type adds a function type, written "iI:f" for (i32, i64) -> f32, and returns its index.
func (m *Module) Type(sig string) int {
	params, results, _ := strings.Cut(sig, ":")
	m.types = append(m.types, Cat(0x60, types(params), types(results)))
	return len(m.types) - 1
}

// Import adds an imported function and returns its index.
func (m *Module) Import(module, name, sig string) int {
	m.imports = append(m.imports, Cat(Name(module), Name(name), 0, U(uint64(m.Type(sig)))))
	m.index++
	return m.index - 1
}

// Func adds a function with the given i32 locals and body (without its end) and returns its index.
func (m *Module) Func(sig string, locals int, body ...any) int {
	m.funcs = append(m.funcs, U(uint64(m.Type(sig))))
	code := Cat(1, U(uint64(locals)), 0x7f, Cat(body...), 0x0b)
	m.bodies = append(m.bodies, Cat(U(uint64(len(code))), code))
	m.index++
	return m.index - 1
}

// Export exports something: kind 0 is a function, 2 the memory.
func (m *Module) Export(name string, kind, index int) {
	m.exports = append(m.exports, Cat(Name(name), kind, U(uint64(index))))
}

// Memory adds the memory, with a maximum if it is positive, and exports it as "memory".
func (m *Module) Memory(pages, most int) {
	if most > 0 {
		m.memory = [][]byte{Cat(1, U(uint64(pages)), U(uint64(most)))}
	} else {
		m.memory = [][]byte{Cat(0, U(uint64(pages)))}
	}
	m.Export("memory", 2, 0)
}

// Table adds a table of function references, with a maximum if it is positive.
func (m *Module) Table(size, most int) {
	if most > 0 {
		m.tables = append(m.tables, Cat(0x70, 1, U(uint64(size)), U(uint64(most))))
	} else {
		m.tables = append(m.tables, Cat(0x70, 0, U(uint64(size))))
	}
}

// Global adds a mutable i32 and returns its index.
func (m *Module) Global(value int) int {
	m.globals = append(m.globals, Cat(0x7f, 1, Const(value), 0x0b))
	return len(m.globals) - 1
}

// Data adds an active data segment.
func (m *Module) Data(offset int, content string) {
	m.data = append(m.data, Cat(0, 0x41, S(int64(offset)), 0x0b, Name(content)))
}

// Start makes a function the start function.
func (m *Module) Start(f int) { m.start = U(uint64(f)) }

// Bytes returns the module.
func (m *Module) Bytes() []byte {
	out := []byte(Preamble)
	add := func(id int, items [][]byte) {
		if len(items) > 0 {
			out = append(out, Section(id, Vec(items...))...)
		}
	}
	add(1, m.types)
	add(2, m.imports)
	add(3, m.funcs)
	add(4, m.tables)
	add(5, m.memory)
	add(6, m.globals)
	add(7, m.exports)
	if m.start != nil {
		out = append(out, Section(8, m.start)...)
	}
	add(10, m.bodies)
	add(11, m.data)
	return out
}

// Const is i32.const.
func Const(n int) []byte { return Cat(0x41, S(int64(n))) }

// Const64 is i64.const.
func Const64(n int64) []byte { return Cat(0x42, S(n)) }

// Call is call.
func Call(f int) []byte { return Cat(0x10, U(uint64(f))) }

// Loop is a loop without a result around body.
func Loop(body ...any) []byte { return Cat(0x03, 0x40, Cat(body...), 0x0b) }

// Br is br.
func Br(label int) []byte { return Cat(0x0c, U(uint64(label))) }

// Answer returns an http-wasm handler of 200 bytes that answers every request with a text: the guest
// for tests that need one which is compiled in no time.
func Answer(text string) []byte {
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	m.Memory(1, 0)
	m.Data(0, text)
	m.Export("handle_request", 0, m.Func(":I", 0, Const(1), Const(0), Const(len(text)), Call(write), Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// Waiting makes an http-wasm handler that waits for a time by poll_oneoff, which takes no processor, and
// answers with a text then.
func Waiting(d time.Duration, text string) *Module {
	const drop, monotonic, at = 0x1a, "\x01", 512
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	poll := m.Import("wasi_snapshot_preview1", "poll_oneoff", "iiii:i")
	m.Memory(1, 0)
	// One subscription at 0: what it is called (8 bytes), its kind (0, a clock), at 16 which, at 24 how long.
	m.Data(16, monotonic)
	m.Data(24, string(binary.LittleEndian.AppendUint64(nil, uint64(d))))
	m.Data(at, text)
	m.Export("handle_request", 0, m.Func(":I", 0,
		Const(0), Const(100), Const(1), Const(200), Call(poll), drop,
		Const(1), Const(at), Const(len(text)), Call(write), Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return &m
}

// Trap returns an http-wasm handler that is spoilt by every request.
func Trap() []byte {
	const unreachable = 0x00
	var m Module
	m.Import("http_handler", "write_body", "iii:")
	m.Memory(1, 0)
	m.Export("handle_request", 0, m.Func(":I", 0, unreachable, Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// Environ returns an http-wasm handler that answers with its environment, as WASI gives it: each entry
// ends with a NUL.
func Environ() []byte {
	const drop, load, sizes, pointers, buf = 0x1a, 0x28, 0, 64, 4096
	var m Module
	write := m.Import("http_handler", "write_body", "iii:")
	size := m.Import("wasi_snapshot_preview1", "environ_sizes_get", "ii:i")
	get := m.Import("wasi_snapshot_preview1", "environ_get", "ii:i")
	m.Memory(1, 0)
	m.Export("handle_request", 0, m.Func(":I", 0,
		Const(sizes), Const(sizes+4), Call(size), drop, Const(pointers), Const(buf), Call(get), drop,
		Const(1), Const(buf), Const(sizes+4), load, 2, 0, Call(write), Const64(0)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}
