package wasip1_test

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

var le = binary.LittleEndian

// caller is a module that exports, for each function of WASI, a function of the same name which calls
// it, and one named "loop_" which calls it as often as a further argument says. with says whether it has
// a memory.
func caller(with bool) []byte {
	var m wasmtest.Module
	names := slices.Sorted(maps.Keys(wasip1.Signatures()))
	imports := map[string]int{}
	for _, name := range names {
		imports[name] = m.Import(wasip1.Module, name, wasip1.Signatures()[name])
	}
	for _, name := range names {
		sig := wasip1.Signatures()[name]
		params, results, _ := strings.Cut(sig, ":")
		var call []byte
		for i := range params {
			call = wasmtest.Cat(call, 0x20, wasmtest.U(uint64(i))) // local.get
		}
		call = wasmtest.Cat(call, wasmtest.Call(imports[name]))
		m.Export(name, 0, m.Func(sig, 0, call))
		if results == "" {
			continue
		}
		n := wasmtest.U(uint64(len(params)))
		body := wasmtest.Loop(call, 0x1a, 0x20, n, wasmtest.Const(1), 0x6b, 0x22, n, 0x0d, 0) // drop; n--; br_if
		m.Export("loop_"+name, 0, m.Func(params+"i:", 0, body))
	}
	if with {
		m.Memory(2, 2)
	}
	return m.Bytes()
}

// guest is an instance of caller.
type guest struct {
	t   testing.TB
	mod api.Module
	ctx context.Context
	sys *wasip1.System
}

func newGuest(t testing.TB, c wasip1.Config) *guest {
	t.Helper()
	return instantiate(t, caller(true), c)
}

func instantiate(t testing.TB, wasm []byte, c wasip1.Config) *guest {
	t.Helper()
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	t.Cleanup(func() { _ = r.Close(ctx) })
	if err := wasip1.Instantiate(ctx, r); err != nil {
		t.Fatal(err)
	}
	s := wasip1.New(c)
	t.Cleanup(s.Close)
	mod, err := r.InstantiateWithConfig(s.Context(ctx), wasm, wazero.NewModuleConfig().WithStartFunctions())
	if err != nil {
		t.Fatal(err)
	}
	return &guest{t, mod, s.Context(ctx), s}
}

// call calls a function and returns its errno.
func (g *guest) call(name string, args ...uint64) uint32 {
	g.t.Helper()
	results, err := g.mod.ExportedFunction(name).Call(g.ctx, args...)
	if err != nil {
		g.t.Fatalf("%s%v: %v", name, args, err)
	}
	return uint32(results[0])
}

// want fails the test if a call has another errno.
func (g *guest) want(errno uint32, name string, args ...uint64) {
	g.t.Helper()
	if got := g.call(name, args...); got != errno {
		g.t.Errorf("%s%v: errno %d, want %d", name, args, got, errno)
	}
}

func (g *guest) u32(at uint32) uint32 {
	v, _ := g.mod.Memory().ReadUint32Le(at)
	return v
}

func (g *guest) u64(at uint32) uint64 {
	v, _ := g.mod.Memory().ReadUint64Le(at)
	return v
}

// bytes returns a copy of n bytes of its memory.
func (g *guest) bytes(at, n uint32) []byte {
	b, ok := g.mod.Memory().Read(at, n)
	if !ok {
		g.t.Fatalf("%d bytes at %d are out of memory", n, at)
	}
	return slices.Clone(b)
}

// put writes a text at 1024 and returns its place and length.
func (g *guest) put(s string) (ptr, n uint64) {
	g.mod.Memory().WriteString(1024, s)
	return 1024, uint64(len(s))
}

// iovec writes one iovec at 512, for n bytes at 8192, and returns its place and count.
func (g *guest) iovec(n uint32) (ptr, count uint64) {
	g.mod.Memory().WriteUint32Le(512, 8192)
	g.mod.Memory().WriteUint32Le(516, n)
	return 512, 1
}

// open opens a path below a directory to read and returns its number.
func (g *guest) open(dir uint64, path string, oflags uint64) uint64 {
	g.t.Helper()
	ptr, n := g.put(path)
	g.want(0, "path_open", dir, 1, ptr, n, oflags, fileRights, allRights, 0, 64)
	return uint64(g.u32(64))
}

// read reads at most n bytes.
func (g *guest) read(fd uint64, n uint32) string {
	g.t.Helper()
	ptr, count := g.iovec(n)
	g.want(0, "fd_read", fd, ptr, count, 64)
	return string(g.bytes(8192, g.u32(64)))
}

// What a program asks for that opens a file to read, and to write.
const (
	readRight  = 1 << 1
	writeRight = 1 << 6
	fileRights = allRights &^ (writeRight | 1<<8)
	allRights  = 1<<30 - 1
)

// exitCode returns the code with which a call ended.
func exitCode(t testing.TB, err error) uint32 {
	t.Helper()
	var exit *sys.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return 0
}
