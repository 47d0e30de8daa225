package wasmbin_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// rewritable is a module with one of each thing that moves when functions and types are added.
func rewritable() []byte {
	return []byte(Preamble + string(Cat(
		Section(1, Vec(Cat(0x60, 0, 0), Cat(0x60, 1, 0x7f, 2, 0x7f, 0x7e))),
		Section(2, Vec(Cat(Name("m"), Name("f"), 0, 0))),
		Section(3, Vec(U(0), U(1))),
		Section(4, Vec(Cat(0x70, 0, 3))),
		Section(5, Vec(Cat(0, 1))),
		Section(6, Vec(Cat(0x7f, 1, 0x41, 7, 0x0b), Cat(0x70, 0, 0xd2, 1, 0x0b), Cat(0x7b, 1, 0xfd, 0x0c, Repeat(16, 0), 0x0b))),
		Section(7, Vec(Cat(Name("f"), 0, U(1)), Cat(Name("memory"), 2, 0))),
		Section(8, U(1)),
		Section(9, Vec(Cat(0, 0x41, 0, 0x0b, Vec(U(0), U(2))), Cat(5, 0x70, Vec(Cat(0xd2, 1, 0x0b))))),
		Section(12, U(2)),
		Section(10, Vec(
			Cat(U(9), 0, 0x10, 0, 0xd2, 1, 0x1a, 0x10, 0, 0x0b),
			Cat(U(11), 0, 0x20, 0, 0x42, 5, 0x20, 0, 0x0d, 0, 0x0f, 0x0b), // two results, left by a branch
		)),
		Section(11, Vec(Cat(0, 0x41, 8, 0x0b, Name("one")), Cat(1, Name("two")))),
		Section(0, Name("name"), "anything"),
	)))
}

func TestRewriteRefuses(t *testing.T) {
	var own, outside Module
	own.Memory(1, 0)
	own.Export("perigee:fuel", 2, 0)
	outside.Memory(1, 0)
	outside.Data(65530, "1234567")
	for rule, m := range map[string]*Module{"export": &own, "data": &outside} {
		var e *wasmbin.Error
		if _, err := wasmbin.Rewrite(m.Bytes()); !errors.As(err, &e) || e.Rule != rule {
			t.Errorf("%v, want rule %s", err, rule)
		}
	}
}

func TestRewriteShape(t *testing.T) {
	r, err := wasmbin.Rewrite(rewritable())
	if err != nil {
		t.Fatal(err)
	}
	after, err := wasmbin.Check(r.Wasm)
	if err != nil || after.Functions != 5 || after.Globals != 5 || after.Data != 0 || after.Start || !r.OpaqueGlobals {
		t.Fatalf("%+v, %v", after, err)
	}
	for name, kind := range map[string]wasmbin.Kind{"f": wasmbin.Func, "memory": wasmbin.Memory, "perigee:g0": wasmbin.Global, wasmbin.FuelGlobal: wasmbin.Global, wasmbin.StartExport: wasmbin.Func} {
		if e, ok := after.Export(name); !ok || e.Kind != kind {
			t.Errorf("export %s: %+v, %v", name, e, ok)
		}
	}
}

func TestRewriteReports(t *testing.T) {
	var m Module
	m.Memory(1, 0)
	m.Table(3, 9)
	m.Data(4, "abc")
	m.Func(":", 0, 0xd0, 0x70, Const(1), 0xfc, 15, 0, 0x1a)
	r, err := wasmbin.Rewrite(m.Bytes())
	if err != nil || !r.MutatesTables || r.Restorable() || r.OpaqueGlobals || r.DropsSegments {
		t.Errorf("%+v, %v", r, err)
	}
	if len(r.Image) != 1 || r.Image[0].Offset != 4 || string(r.Image[0].Bytes) != "abc" {
		t.Errorf("image %v", r.Image)
	}
	out, err := wasmbin.Check(r.Wasm)
	if err != nil || out.Data != 0 || len(out.Imports) != 2 || out.Functions != 4 {
		t.Errorf("rewritten: %+v, %v", out, err)
	}
}

// FuzzRewrite checks that whatever passes comes out as a module of the same shape.
func FuzzRewrite(f *testing.F) {
	f.Add(rewritable())
	if dir := os.Getenv("PERIGEE_CONFORMANCE"); dir != "" {
		files, _ := filepath.Glob(filepath.Join(dir, "*", "*", "*.wasm"))
		for _, name := range files {
			if b, err := os.ReadFile(name); err == nil && len(b) < 20_000 {
				f.Add(b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := wasmbin.Rewrite(b)
		if err != nil {
			return
		}
		after, err := wasmbin.Check(r.Wasm)
		var e *wasmbin.Error
		if errors.As(err, &e) && len(e.Rule) > 4 && e.Rule[:4] == "max-" {
			return // it was at a limit, and what is added is beyond it
		}
		if err != nil {
			t.Fatalf("rewritten: %v", err)
		}
		if len(after.Imports) != len(r.Imports)+2 || after.Functions < r.Functions+3 || after.Functions > r.Functions+5+len(b)>>20 || after.Globals != r.Globals+2 || after.Start {
			t.Errorf("as it was %+v, rewritten %+v", r.Module, after)
		}
	})
}

// TestSkeleton checks that skeletons are valid and small, and differ where only bodies do.
func TestSkeleton(t *testing.T) {
	module := func(n int) *wasmbin.Rewritten {
		var m Module
		m.Memory(1, 0)
		var body []byte
		for range 100 {
			body = Cat(body, Const(n), 0x1a)
		}
		m.Export("f", 0, m.Func(":i", 0, body, Const(n)))
		w, err := wasmbin.Rewrite(m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	one, two := module(1), module(2)
	if bytes.Equal(one.Skeleton, two.Skeleton) || !bytes.Equal(one.Skeleton, module(1).Skeleton) {
		t.Error("skeletons do not tell modules apart")
	}
	if len(one.Skeleton) > len(one.Wasm)-200 {
		t.Errorf("the skeleton of %d bytes has %d", len(one.Wasm), len(one.Skeleton))
	}
	if _, err := wasmbin.Check(one.Skeleton); err != nil {
		t.Error(err)
	}
}
