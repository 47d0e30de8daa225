package runtime_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// command returns examples/cgi.
func command(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "cgi.wasm")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = filepath.Join("..", "examples", "cgi")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build examples/cgi: %v\n%s", err, msg)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return wasm
}

// TestCommand lets an ordinary CGI program answer, one request after the other in the same instance.
func TestCommand(t *testing.T) {
	if runtime.Instrumented > 1 {
		t.Skip("compiling takes half a minute under the race detector")
	}
	r := open(t, runtime.Config{})
	load(t, r, "f", command(t), perigee.Limits{})
	starts := map[string]int{}
	for range 5 {
		w, usage, err := invoke(t, r, "f", get("http://f.test/some/path"))
		if want := "good day, 192.0.2.1, from Perigee/" + perigee.Version + " at /some/path\n"; err != nil || w.Body.String() != want {
			t.Errorf("%q, %v; want %q", w.Body, err, want)
		}
		starts[usage.Start]++
		body := strings.Repeat("a line\n", 3000)
		req := httptest.NewRequest(http.MethodPost, "/number", strings.NewReader(body))
		w, usage, err = invoke(t, r, "f", req)
		if err != nil || !bytes.HasSuffix(w.Body.Bytes(), []byte("3000  a line\n")) || usage.BytesIn != int64(len(body)) {
			t.Errorf("%d bytes, %+v, %v", w.Body.Len(), usage, err)
		}
	}
	if starts[runtime.StartReset] < 3 {
		t.Errorf("starts %v", starts)
	}
}

// TestCommandExits checks that a program which ends by proc_exit, with calls open, leaves its instance
// as good as new: also the count of its calls' depth.
func TestCommandExits(t *testing.T) {
	var m Module
	write := m.Import("wasi_snapshot_preview1", "fd_write", "iiii:i")
	exit := m.Import("wasi_snapshot_preview1", "proc_exit", "i:")
	const text = "Content-Type: text/plain\n\nfine\n"
	m.Memory(1, 0)
	m.Data(0, fmt.Sprintf("\x10\x00\x00\x00%c\x00\x00\x00", len(text)))
	m.Data(16, text)
	inner := m.Func("i:", 0,
		0x20, 0, 0x04, 0x40, 0x20, 0, Const(1), 0x6b, Call(2),
		0x05, Const(1), Const(0), Const(1), Const(8), Call(write), drop, Const(0), Call(exit), 0x0b)
	if inner != 2 {
		t.Fatal(inner)
	}
	m.Export("_start", 0, m.Func(":", 0, Const(1000), Call(inner)))
	r := open(t, runtime.Config{})
	load(t, r, "f", m.Bytes(), perigee.Limits{})
	for n := range 50 {
		w, usage, err := invoke(t, r, "f", get("/"))
		if err != nil || w.Body.String() != "fine\n" {
			t.Fatalf("request %d: %q, %v", n, w.Body, err)
		}
		if n > 0 && usage.Start != runtime.StartReset {
			t.Errorf("request %d: %s", n, usage.Start)
		}
	}
	var silent Module
	silent.Memory(1, 0)
	silent.Export("_start", 0, silent.Func(":", 0))
	load(t, r, "silent", silent.Bytes(), perigee.Limits{})
	var guest *runtime.GuestError
	if _, _, err := invoke(t, r, "silent", get("/")); !errors.As(err, &guest) || guest.Kind != runtime.GuestNoResponse {
		t.Errorf("a program that says nothing: %v", err)
	}
}

// TestFrozenSeedsAreTold checks the warning about Go's own random numbers, which does not hold for programs
// that every request starts.
func TestFrozenSeedsAreTold(t *testing.T) {
	for _, name := range []string{"math/rand", "math/rand/v2", "math/rands"} {
		var handles, command Module
		for _, m := range []*Module{&handles, &command} {
			m.Memory(1, 0)
			m.Data(0, "go:"+name+".runtimeSource")
		}
		handler(&handles, Const64(0))
		command.Export("_start", 0, command.Func(":", 0))
		rep, err := runtime.Check(handles.Bytes())
		if err != nil || len(rep.Warnings) != map[bool]int{true: 1}[name != "math/rands"] {
			t.Errorf("%s: %q, %v", name, rep.Warnings, err)
		}
		if rep, err := runtime.Check(command.Bytes()); err != nil || len(rep.Warnings) > 0 {
			t.Errorf("command with %s: %q, %v", name, rep.Warnings, err)
		}
	}
}
