package httpwasm_test

import (
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tetratelabs/wazero"

	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/httpwasm"
)

// FuzzHostFunctions calls two host functions with any arguments, from a memory of any content, before
// and after the next handler. A guest may be ended by it, the host may not.
func FuzzHostFunctions(f *testing.F) {
	for i := range 20 {
		f.Add(byte(i), byte(19-i), uint8(7), 0, 0, 16, 64, 64, "x-name value")
		f.Add(byte(i), byte(i), uint8(3), 1, 8, 65530, 100, -1, "\x00\x00\xff")
	}
	module := map[string]string{}
	for _, m := range []string{httpwasm.Module, httpwasm.Extension} {
		for name := range httpwasm.Signatures(m) {
			module[name] = m
		}
	}
	names := slices.Sorted(maps.Keys(module))
	ctx := f.Context()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	if err := httpwasm.Instantiate(ctx, r); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, second byte, features uint8, a0, a1, a2, a3, a4 int, memory string) {
		var m Module
		var calls []byte
		enable := m.Import(httpwasm.Module, "enable_features", "i:i")
		for _, n := range []byte{first, second} {
			name := names[int(n)%len(names)]
			sig := httpwasm.Signatures(module[name])[name]
			f := m.Import(module[name], name, sig)
			for i := range strings.IndexByte(sig, ':') {
				calls = Cat(calls, Const([]int{a0, a1, a2, a3, a4}[i]))
			}
			if calls = Cat(calls, Call(f)); !strings.HasSuffix(sig, ":") {
				calls = Cat(calls, 0x1a)
			}
		}
		m.Memory(1, 2)
		m.Data(0, memory[:min(len(memory), 60_000)])
		m.Export(httpwasm.HandleRequest, 0, m.Func(":I", 0, Const(int(features)), Call(enable), 0x1a, calls, Const64(1)))
		m.Export(httpwasm.HandleResponse, 0, m.Func("ii:", 0, calls))

		limits := abi.Limits{Response: 1 << 20, Buffer: 1 << 16, Headers: 20, HeaderBytes: 1 << 10}
		req := httptest.NewRequest("POST", "/path?query", strings.NewReader("a body"))
		req.Header.Set("X-Header", "value")
		req.Trailer = http.Header{"X-Trailer": {"value"}}
		rec := httptest.NewRecorder()
		var dropped atomic.Int64
		x := &abi.Exchange{
			Request: req, Limits: limits, Answer: abi.NewAnswer(rec, req.Method, limits),
			Log:   abi.NewLog(slog.New(slog.DiscardHandler), abi.NewLogRate(), &dropped),
			Await: func(f func()) { f() },
		}
		call := httpwasm.NewCall(x)
		ctx := call.Context(t.Context())
		code, err := r.CompileModule(ctx, m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		defer code.Close(ctx)
		mod, err := r.InstantiateModule(ctx, code, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			return // the data does not fit
		}
		defer mod.Close(ctx)
		err = call.Serve(ctx, mod.ExportedFunction, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Next", "yes")
			_, _ = w.Write([]byte("from next"))
		}))
		if err == nil {
			err = x.Answer.Finish()
		}
		if err != nil && strings.Contains(err.Error(), "Go runtime stack trace") {
			t.Fatalf("a host function crashed: %v", err)
		}
	})
}
