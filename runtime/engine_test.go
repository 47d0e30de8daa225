package runtime_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/internal/wasmbin"
)

// engineMain compiles each file of a directory that the structural checker lets pass, and says what
// came of it. It runs in a process of its own, which a bad module may end.
func engineMain(args []string) int {
	files, err := filepath.Glob(filepath.Join(args[0], "*.wasm"))
	if err != nil {
		return 1
	}
	ctx := context.Background()
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return 1
		}
		if _, err := wasmbin.Check(b); err != nil {
			continue
		}
		fmt.Println("begin", filepath.Base(name))
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCoreFeatures(api.CoreFeaturesV2))
		_, err = r.CompileModule(ctx, b)
		if module, err := wasmbin.Rewrite(b); err == nil {
			_, _ = r.CompileModule(ctx, module.Wasm) // must be survived
		}
		fmt.Println("end", filepath.Base(name), err == nil)
		_ = r.Close(ctx)
	}
	return 0
}

// TestHostileModules hands the engine those malformed and invalid modules that the structural checker
// accepts, since they break typing rules only: the engine must refuse each, and live.
func TestHostileModules(t *testing.T) {
	dir := filepath.Join(conformance(t), "hostile")
	out, err := exec.Command(os.Args[0], "engine", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out[max(0, len(out)-2000):])
	}
	reached := 0
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "end "); ok {
			reached++
			if strings.HasSuffix(name, "true\n") {
				t.Errorf("the engine compiles %s", name)
			}
		}
	}
	t.Logf("%d modules reached the engine", reached)
	if reached < 100 {
		t.Errorf("only %d modules reached the engine", reached)
	}
}
