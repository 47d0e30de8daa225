package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/abi/cgi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
	"github.com/perigee-edge/perigee/runtime/abi/outbound"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// ErrRefused says why a module can't be a function. It is the author's to fix: the same module is
// refused everywhere.
type ErrRefused struct {
	Rule   string // short and constant: a rule of internal/wasmbin, "abi", "imports", "max-module", "memory", "compile-cpu", "compile-memory", "compile"
	Offset int    // where in the module, in bytes; 0 when the rule is about all of it
	Detail string // what was found, and what is allowed or to be done
}

// Error returns the rule, the offset if there is one, and the detail.
func (e *ErrRefused) Error() string {
	if e.Offset > 0 {
		return fmt.Sprintf("module refused: %s at offset %d: %s", e.Rule, e.Offset, e.Detail)
	}
	return fmt.Sprintf("module refused: %s: %s", e.Rule, e.Detail)
}

// The ABIs, as Report.ABI has them.
const (
	ABIHTTPWasm = "http-wasm" // a handler
	ABICGI      = "cgi"       // a WASI command, which answers as a program of CGI/1.1
)

// Report is what is known of a module that may become a function.
type Report struct {
	ABI       string        `json:"abi"`
	Imports   []string      `json:"imports"` // "module.name", sorted
	MemoryMin perigee.Bytes `json:"memory_min"`
	MemoryMax perigee.Bytes `json:"memory_max"` // 4 GiB when the module does not say
	Size      perigee.Bytes `json:"size"`       // of the module
	Code      perigee.Bytes `json:"code"`       // of its functions
	Functions int           `json:"functions"`
	Compiled  perigee.Bytes `json:"compiled"`   // of the machine code; 0 if it was not compiled
	Compile   int64         `json:"compile_ms"` // how long that took
	Warnings  []string      `json:"warnings,omitempty"`
}

const pageBytes = 64 << 10

// Check reads a module without compiling or running it, and returns what it is or an *ErrRefused. It
// is safe on any bytes, and takes time in proportion to them.
func Check(wasm []byte) (Report, error) {
	m, err := wasmbin.Check(wasm)
	if err != nil {
		return Report{}, refused(err)
	}
	rep := Report{
		Size:      perigee.Bytes(len(wasm)),
		Code:      perigee.Bytes(m.Code),
		Functions: m.Functions,
		MemoryMax: 4 * perigee.GiB,
	}
	if m.Memory != nil {
		rep.MemoryMin = perigee.Bytes(m.Memory.Min) * pageBytes
		if m.Memory.HasMax {
			rep.MemoryMax = perigee.Bytes(m.Memory.Max) * pageBytes
		}
	}
	for _, im := range m.Imports {
		rep.Imports = append(rep.Imports, im.Module+"."+im.Name)
	}
	slices.Sort(rep.Imports)
	if rep.ABI, err = abiOf(m); err != nil {
		return Report{}, err
	}
	if err := checkImports(m, rep.ABI); err != nil {
		return Report{}, err
	}
	rep.Warnings = warnings(m, rep.ABI, wasm)
	return rep, nil
}

// Inspect decides about a module as a node would, without one: it also compiles it in a child process and
// keeps nothing. admit is the command of the child (Config.Admit). Errors: an *ErrRefused, or what went
// wrong on this machine.
func Inspect(ctx context.Context, admit []string, wasm []byte) (_ Report, err error) {
	dir, err := os.MkdirTemp("", "perigee-check-")
	if err != nil {
		return Report{}, fmt.Errorf("make room for the compiler: %w", err)
	}
	defer os.RemoveAll(dir)
	r, err := New(Config{Dir: dir, Admit: admit, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, r.Close(ctx)) }()
	rec, err := r.admitted(ctx, digest.Sum(wasm), wasm)
	return rec.Report, err
}

// supported ends every message about an ABI.
const supported = "this release runs http-wasm handlers, which are core modules that export memory, handle_request and handle_response (Go programs become one with the package guest), and WASI commands as CGI programs"

// refused makes the error of the structural checker one of ours.
func refused(err error) error {
	var e *wasmbin.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Rule {
	case "component":
		return &ErrRefused{Rule: "abi", Detail: "found a WebAssembly component; " + supported}
	case "not-wasm":
		return &ErrRefused{Rule: e.Rule, Detail: "the file is not WebAssembly: it does not start with \"\\0asm\""}
	}
	return &ErrRefused{Rule: e.Rule, Offset: e.Offset, Detail: e.Detail}
}

// abiOf tells what a module is.
func abiOf(m *wasmbin.Module) (string, error) {
	no := func(format string, args ...any) (string, error) {
		return "", &ErrRefused{Rule: "abi", Detail: fmt.Sprintf(format, args...)}
	}
	memory, hasMemory := m.Export("memory")
	request, hasRequest := m.Export(httpwasm.HandleRequest)
	response, hasResponse := m.Export(httpwasm.HandleResponse)
	if hasRequest || hasResponse {
		for _, want := range []struct {
			name, sig string
			got       wasmbin.Export
			has       bool
		}{
			{httpwasm.HandleRequest, "() -> (i64)", request, hasRequest},
			{httpwasm.HandleResponse, "(i32, i32) -> ()", response, hasResponse},
		} {
			switch {
			case !want.has:
				return no("found an http-wasm handler without the export %s", want.name)
			case want.got.Kind != wasmbin.Func || want.got.Type.String() != want.sig:
				return no("the export %s is a %s %s; it must be a func %s", want.name, want.got.Kind, want.got.Type, want.sig)
			}
		}
		if !hasMemory || memory.Kind != wasmbin.Memory {
			return no("found an http-wasm handler that does not export its memory as \"memory\"")
		}
		return ABIHTTPWasm, nil
	}
	for _, known := range []struct{ prefix, what string }{
		{"fastly_", "a Fastly Compute program"},
		{"wasi:http", "the core module of a component"},
		{"proxy_", "a proxy-wasm filter"},
		{"extism:", "an Extism plug-in"},
		{"wapc", "a waPC guest"},
		{"go", "a program for browsers (GOOS=js)"},
	} {
		if slices.ContainsFunc(m.Imports, func(im wasmbin.Import) bool {
			return strings.HasPrefix(im.Module, known.prefix) || (im.Module == "env" && strings.HasPrefix(im.Name, known.prefix))
		}) {
			return no("found %s; %s", known.what, supported)
		}
	}
	if start, ok := m.Export(cgi.Start); ok {
		switch {
		case start.Kind != wasmbin.Func || start.Type.String() != "() -> ()":
			return no("the export %s is a %s %s; it must be a func () -> ()", cgi.Start, start.Kind, start.Type)
		case !hasMemory || memory.Kind != wasmbin.Memory:
			return no("found a WASI command that does not export its memory as \"memory\"")
		}
		return ABICGI, nil
	}
	return no("found a module without a known entry point; %s", supported)
}

// checkImports refuses what the host does not have. All misses are named at once.
func checkImports(m *wasmbin.Module, abi string) error {
	known := map[string]map[string]string{wasip1.Module: wasip1.Signatures(), outbound.Module: outbound.Signatures()}
	if abi == ABIHTTPWasm {
		for _, module := range []string{httpwasm.Module, httpwasm.Extension} {
			known[module] = httpwasm.Signatures(module)
		}
	}
	var misses []string
	for _, im := range m.Imports {
		name := im.Module + "." + im.Name
		sig, ok := known[im.Module][im.Name]
		switch {
		case !ok:
			misses = append(misses, fmt.Sprintf("%s %s is not provided", im.Kind, name))
		case im.Kind != wasmbin.Func:
			misses = append(misses, fmt.Sprintf("%s is imported as a %s and is a func", name, im.Kind))
		case letters(im.Type.Params)+":"+letters(im.Type.Results) != sig:
			misses = append(misses, fmt.Sprintf("%s is imported with the wrong signature %s", name, im.Type))
		}
	}
	if len(misses) == 0 {
		return nil
	}
	more := ""
	if n := len(misses); n > 5 {
		misses, more = misses[:5], fmt.Sprintf(" and %d more", n-5)
	}
	return &ErrRefused{Rule: "imports", Detail: strings.Join(misses, "; ") + more + "; guests may import functions of " + strings.Join(slices.Sorted(maps.Keys(known)), ", ")}
}

func letters(types []wasmbin.ValueType) string {
	s := make([]byte, len(types))
	for i, t := range types {
		switch t {
		case wasmbin.I32:
			s[i] = 'i'
		case wasmbin.I64:
			s[i] = 'I'
		default:
			s[i] = '?'
		}
	}
	return string(s)
}

// warnings says what an author may not expect.
func warnings(m *wasmbin.Module, abi string, wasm []byte) (out []string) {
	for _, name := range []string{"math/rand", "math/rand/v2"} {
		if abi != ABICGI && bytes.Contains(wasm, []byte(name+".runtimeSource")) { // what the package's own functions draw from
			out = append(out, "it uses the functions of Go's "+name+", whose seed is drawn when the guest starts and is the same for every request: use crypto/rand or guest.Rand, or isolation = \"fresh\"")
		}
	}
	for _, im := range m.Imports {
		if im.Module == wasip1.Module && strings.HasPrefix(im.Name, "sock_") && im.Name != "sock_shutdown" && !goModule(m) {
			return append(out, "it imports sockets ("+im.Name+"), which this release does not give to guests: calls will fail")
		}
	}
	return out
}

// goModule recognises Go's runtime, which imports the socket functions whether they are used or not.
func goModule(m *wasmbin.Module) bool {
	for _, e := range m.Exports {
		if e.Name == "_initialize" {
			for _, im := range m.Imports {
				if im.Name == "sched_yield" {
					return true
				}
			}
		}
	}
	return false
}
