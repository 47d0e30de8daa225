package wasmbin_test

import (
	"encoding/csv"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

func conformance(t testing.TB) string {
	dir := os.Getenv("PERIGEE_CONFORMANCE")
	if dir == "" {
		t.Skip("PERIGEE_CONFORMANCE is not set: the outside modules are not here")
	}
	return dir
}

func TestSummary(t *testing.T) {
	var m Module
	get := m.Import("http_handler", "get_uri", "ii:i")
	m.Memory(2, 9)
	m.Table(3, 0)
	f := m.Func(":I", 2, Const(0), Const(16), Call(get), 0x1a, Const(1), 0x40, 0, 0x1a, Const64(1))
	m.Export("handle_request", 0, f)
	m.Data(8, "hello")
	got, err := wasmbin.Check(m.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Imports) != 1 || got.Imports[0].Type.String() != "(i32, i32) -> (i32)" || got.Imports[0].Name != "get_uri" {
		t.Errorf("imports: %+v", got.Imports)
	}
	if e, ok := got.Export("handle_request"); !ok || e.Kind != wasmbin.Func || e.Type.String() != "() -> (i64)" {
		t.Errorf("export: %+v, %v", e, ok)
	}
	if e, ok := got.Export("memory"); !ok || e.Kind != wasmbin.Memory {
		t.Errorf("memory: %+v, %v", e, ok)
	}
	if _, ok := got.Export("nothing"); ok {
		t.Error("an export that is not there")
	}
	if *got.Memory != (wasmbin.Limits{Min: 2, Max: 9, HasMax: true}) || len(got.Tables) != 1 || got.Tables[0].Min != 3 {
		t.Errorf("memory %+v, tables %+v", got.Memory, got.Tables)
	}
	if got.Functions != 1 || got.Data != 1 || !got.GrowsMemory || got.GrowsTable || got.Start {
		t.Errorf("%+v", got)
	}
}

func TestSniff(t *testing.T) {
	for in, want := range map[string]wasmbin.Format{
		"":                             wasmbin.Unknown,
		"\x00asm\x01\x00\x00":          wasmbin.Unknown,
		"#!/bin/sh\n":                  wasmbin.Unknown,
		Preamble:                       wasmbin.Core,
		"\x00asm\x0d\x00\x01\x00rest":  wasmbin.Component,
		"\x00asm\x02\x00\x00\x00whats": wasmbin.Other,
	} {
		if got := wasmbin.Sniff([]byte(in)); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

// TestProposals checks that what goes beyond WebAssembly 2.0 is refused by its name.
func TestProposals(t *testing.T) {
	none := []byte{0}
	for name, tc := range map[string]struct {
		b    []byte
		rule string
	}{
		"atomic instruction":     {Bodies(1, none, 0xfe, 0x03, 0), "no-threads"},
		"shared memory":          {Cat(Preamble, Section(5, 1, 3, 1, 2)), "no-threads"},
		"try":                    {Bodies(1, none, 0x06, 0x40, 0x0b), "no-exceptions"},
		"try_table":              {Bodies(1, none, 0x1f, 0x40, 0, 0x0b), "no-exceptions"},
		"throw":                  {Bodies(1, none, 0x08, 0), "no-exceptions"},
		"tag section":            {Cat(Preamble, Section(13, 1, 0, 0)), "no-exceptions"},
		"imported tag":           {Cat(Preamble, Section(2, 1, Name("a"), Name("b"), 4, 0, 0)), "no-exceptions"},
		"return_call":            {Bodies(1, none, 0x12, 0), "no-tail-calls"},
		"return_call_indirect":   {Bodies(1, none, Const(0), 0x13, 0, 0), "no-tail-calls"},
		"memory64":               {Cat(Preamble, Section(5, 1, 4, 1)), "no-memory64"},
		"two memories":           {Cat(Preamble, Section(5, 2, 0, 1, 0, 1)), "no-multi-memory"},
		"memory index in a load": {Bodies(1, none, Const(0), 0x28, 0x42, 1, 0, 0x1a), "no-multi-memory"},
		"struct type":            {Cat(Preamble, Section(1, 1, 0x5f, 0, 0)), "no-gc"},
		"recursive types":        {Cat(Preamble, Section(1, 1, 0x4e, 0, 0)), "no-gc"},
		"typed reference":        {Bodies(1, Cat(1, 1, 0x64, 0)), "no-gc"},
		"call_ref":               {Bodies(1, none, 0x14, 0), "no-gc"},
		"struct.new":             {Bodies(1, none, 0xfb, 0, 0), "no-gc"},
		"relaxed swizzle":        {Bodies(1, none, 0xfd, 0x80, 0x02), "no-relaxed-simd"},
		"extended constant":      {Cat(Preamble, Section(6, 1, 0x7f, 0, Const(1), Const(1), 0x6a, 0x0b)), "no-extended-const"},
		"component":              {[]byte("\x00asm\x0d\x00\x01\x00"), "component"},
		"not wasm":               {[]byte("MZ\x00\x00\x00\x00\x00\x00\x00"), "not-wasm"},
		"unknown instruction":    {Bodies(1, none, 0xc5), "opcode"},
	} {
		_, err := wasmbin.Check(tc.b)
		var refused *wasmbin.Error
		if !errors.As(err, &refused) || refused.Rule != tc.rule {
			t.Errorf("%s: %v, want rule %s", name, err, tc.rule)
		}
	}
}

// TestSigned covers the widths of signed integers at their edges.
func TestSigned(t *testing.T) {
	for _, tc := range []struct {
		op  int
		leb []byte
		ok  bool
	}{
		{0x41, []byte{0x80, 0x80, 0x80, 0x80, 0x78}, true},                                // -2^31
		{0x41, []byte{0xff, 0xff, 0xff, 0xff, 0x07}, true},                                // 2^31-1
		{0x41, []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, false},                               // 2^32-1
		{0x41, []byte{0x80, 0x80, 0x80, 0x80, 0x70}, false},                               // -2^32
		{0x41, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0}, false},                            // six bytes
		{0x42, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7f}, true},  // -2^63
		{0x42, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00}, true},  // 2^63-1
		{0x42, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, false}, // 2^64-1
		{0x42, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x7e}, false},
	} {
		_, err := wasmbin.Check(Bodies(1, []byte{0}, tc.op, tc.leb, 0x1a))
		if (err == nil) != tc.ok {
			t.Errorf("0x%02x % x: %v", tc.op, tc.leb, err)
		}
	}
}

// TestOutsideModules checks that what compilers and test suites of others made is accepted, and that
// components are recognised.
func TestOutsideModules(t *testing.T) {
	dir := conformance(t)
	n := 0
	for _, sub := range []string{"http-wasm", "wasip1"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".wasm" {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			n++
			if _, err := wasmbin.Check(b); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if r, err := wasmbin.Rewrite(b); err != nil {
				t.Errorf("%s: %v", path, err)
			} else if _, err := wasmbin.Check(r.Wasm); err != nil {
				t.Errorf("%s, rewritten: %v", path, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d modules accepted", n)
	components, _ := filepath.Glob(filepath.Join(dir, "components", "*.wasm"))
	for _, path := range components {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if wasmbin.Sniff(b) != wasmbin.Component {
			t.Errorf("%s is not recognised as a component", path)
		}
	}
	if n < 45 || len(components) == 0 {
		t.Errorf("only %d modules and %d components", n, len(components))
	}
}

// typing says which reasons of the hostile modules are about operand types and what else only a
// validator sees.
func typing(reason string) bool {
	switch reason {
	case "type mismatch", "undeclared function reference", "start function", "unknown global 1":
		return true
	}
	return false
}

// TestHostileModules reads every malformed and invalid module of the specification's test suite:
// none may crash or stall the checker, and all that are broken in what it checks must be refused.
func TestHostileModules(t *testing.T) {
	dir := filepath.Join(conformance(t), "hostile")
	f, err := os.Open(filepath.Join(dir, "expect.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma = '\t'
	r.LazyQuotes = true
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var slowest time.Duration
	refused := 0
	for _, row := range rows[1:] {
		b, err := os.ReadFile(filepath.Join(dir, row[0]))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = wasmbin.Check(b)
		slowest = max(slowest, time.Since(start))
		if err != nil {
			refused++
		} else if row[1] == "assert_malformed" || !typing(row[2]) {
			t.Errorf("%s (%s: %s) is accepted", row[0], row[1], row[2])
		}
	}
	t.Logf("%d of %d refused, slowest %v", refused, len(rows)-1, slowest)
	if slowest > time.Second {
		t.Errorf("the slowest took %v", slowest)
	}
}

func FuzzCheck(f *testing.F) {
	var m Module
	m.Import("a", "b", "ii:i")
	m.Memory(1, 2)
	m.Table(1, 5)
	m.Func("i:I", 3, Loop(Br(0)), 0x00)
	m.Data(0, "x")
	f.Add(m.Bytes())
	for name, bomb := range bombs() {
		b := bomb.Wasm(name.size)
		if len(b) < 4096 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wasmbin.Check(b)
		if (m == nil) == (err == nil) {
			t.Fatalf("Check returned %v, %v", m, err)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	body := Repeat(20_000, 0x20, 0, 0x41, 0x01, 0x6a, 0x21, 0)
	in := Bodies(20, []byte{1, 1, 0x7f}, body)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if _, err := wasmbin.Check(in); err != nil {
			b.Fatal(err)
		}
	}
}
