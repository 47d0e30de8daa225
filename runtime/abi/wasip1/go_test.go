package wasip1_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// TestGo runs a Go program three times in one runtime, each with a system of its own and another end.
func TestGo(t *testing.T) {
	out := filepath.Join(t.TempDir(), "guest.wasm")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = filepath.Join("testdata", "guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	r := wazero.NewRuntime(ctx)
	defer r.Close(ctx)
	if err := wasip1.Instantiate(ctx, r); err != nil {
		t.Fatal(err)
	}
	code, err := r.CompileModule(ctx, wasm)
	if err != nil {
		t.Fatal(err)
	}
	files := site()
	for name := range files { // Go follows links itself, one by one
		if files[name].Mode != 0 {
			delete(files, name)
		}
	}
	for _, tc := range []struct {
		end  string
		code uint32
		err  string
	}{{"return", 0, ""}, {"exit", 7, ""}, {"panic", 2, "panic: as asked"}} {
		var stdout, stderr bytes.Buffer
		s := wasip1.New(wasip1.Config{
			Args: []string{"guest", tc.end}, Env: []string{"A=" + tc.end}, Files: files,
			Stdin: strings.NewReader("one\ntwo"), Stdout: &stdout, Stderr: &stderr,
		})
		mod, err := r.InstantiateModule(s.Context(ctx), code, wazero.NewModuleConfig().WithName("").WithStartFunctions())
		if err != nil {
			t.Fatal(err)
		}
		_, err = mod.ExportedFunction("_start").Call(s.Context(ctx))
		if got := exitCode(t, err); got != tc.code {
			t.Errorf("%s: code %d", tc.end, got)
		}
		want := "[" + tc.end + "] " + tc.end + ` 
. true <nil>
a.txt false <nil>
sub true <nil>
sub/b.txt false <nil>
sub/c.txt false <nil>
sub/deep true <nil>
sub/deep/d false <nil>
ünïcode.txt false <nil>
bee <nil>
456 <nil> 9 <nil> 10 2026-01-02 03:04:05.000000006 +0000 UTC <nil>
true true true true true true true true openat ../a.txt: path escapes from parent
> one
> two
`
		if stdout.String() != want {
			t.Errorf("%s: printed\n%s\nwant\n%s", tc.end, &stdout, want)
		}
		if !strings.HasPrefix(stderr.String(), "to the log <nil>\n"+tc.err) {
			t.Errorf("%s: log %q", tc.end, &stderr)
		}
		s.Close()
	}
}
