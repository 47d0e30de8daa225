package sandbox

import (
	"testing"

	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// TestBodiesAreForgotten checks that a loaded module does not keep what it was compiled from.
func TestBodiesAreForgotten(t *testing.T) {
	e, err := New(t.Context(), Config{Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(t.Context())
	w, err := wasmbin.Rewrite(wasmtest.Answer("hello"))
	if err != nil {
		t.Fatal(err)
	}
	code, err := e.wasm.CompileModule(t.Context(), w.Wasm)
	if err != nil {
		t.Fatal(err)
	}
	defer code.Close(t.Context())
	if dropped := forgetBodies(code); dropped < len(w.Wasm)/4 {
		t.Errorf("%d bytes of %d were dropped", dropped, len(w.Wasm))
	}
	if dropped := forgetBodies(code); dropped != 0 {
		t.Errorf("%d bytes were still there", dropped)
	}
}
