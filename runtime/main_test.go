package runtime_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

// The test binary is also the admission child, as perigee is. With "engine" it is a process for
// modules that might bring it down.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "admit":
			os.Exit(runtime.AdmitMain(os.Stdin, os.Stdout, os.Stderr, os.Args[2:]))
		case "engine":
			os.Exit(engineMain(os.Args[2:]))
		case "bombs":
			os.Exit(bombsMain(os.Args[2]))
		case "hog":
			os.Exit(hogMain(os.Args[2]))
		}
	}
	dir, err := os.MkdirTemp("", "perigee-runtime-")
	if err != nil {
		panic(err)
	}
	shared = dir
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// shared is the code cache of all tests that do not need one of their own, and where guests are built.
var shared string

// open returns a runtime that is closed with the test.
func open(t testing.TB, c runtime.Config) *runtime.Runtime {
	t.Helper()
	if c.Dir == "" {
		c.Dir = filepath.Join(shared, "code")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	r, err := runtime.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// load makes a revision ready.
func load(t testing.TB, r *runtime.Runtime, id perigee.RevisionID, wasm []byte, l perigee.Limits) {
	t.Helper()
	err := r.Load(t.Context(), id, runtime.Spec{Function: string(id), Wasm: wasm, Limits: l, Env: map[string]string{"GREETING": "good day"}})
	if err != nil {
		t.Fatal(err)
	}
}

// invoke lets a revision answer one request in memory.
func invoke(t testing.TB, r *runtime.Runtime, id perigee.RevisionID, req *http.Request) (*httptest.ResponseRecorder, runtime.Usage, error) {
	t.Helper()
	w := httptest.NewRecorder()
	usage, err := r.Invoke(req.Context(), id, w, req, nil)
	return w, usage, err
}

func get(target string) *http.Request { return httptest.NewRequest(http.MethodGet, target, nil) }

// build compiles a Go guest, once for all tests.
func build(t testing.TB, dir string) []byte {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	out := filepath.Join(shared, filepath.Base(dir)+".wasm")
	b, err := os.ReadFile(out)
	if err == nil {
		return b
	}
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, msg)
	}
	if b, err = os.ReadFile(out); err != nil {
		t.Fatal(err)
	}
	return b
}

var builds sync.Mutex

func hello(t testing.TB) []byte     { return build(t, filepath.Join("..", "examples", "hello")) }
func testguest(t testing.TB) []byte { return build(t, filepath.Join("testdata", "guest")) }
