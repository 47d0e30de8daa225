package wasip1_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// TestSignatures holds the table against the functions that the engine provides.
func TestSignatures(t *testing.T) {
	ctx := t.Context()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	defer r.Close(ctx)
	host, err := wasi_snapshot_preview1.NewBuilder(r).Compile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	provided := map[string]string{}
	for name, f := range host.ExportedFunctions() {
		provided[name] = letters(f.ParamTypes()) + ":" + letters(f.ResultTypes())
	}
	if got := wasip1.Signatures(); !maps.Equal(got, provided) {
		t.Errorf("table:    %v\nprovided: %v", got, provided)
	}
	if wasip1.Module != wasi_snapshot_preview1.ModuleName {
		t.Errorf("module %q", wasip1.Module)
	}
}

func letters(types []api.ValueType) string {
	var s strings.Builder
	for _, t := range types {
		switch t {
		case api.ValueTypeI32:
			s.WriteByte('i')
		case api.ValueTypeI64:
			s.WriteByte('I')
		default:
			s.WriteByte('?')
		}
	}
	return s.String()
}
