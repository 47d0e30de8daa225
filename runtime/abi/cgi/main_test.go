package cgi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/perigee-edge/perigee/runtime/abi"
	"github.com/perigee-edge/perigee/runtime/abi/cgi"
	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

var limits = abi.Limits{Response: 4 << 20, Buffer: 1 << 20, Headers: 50, HeaderBytes: 8 << 10}

// host runs one program for each request, as package runtime does.
type host struct {
	t      testing.TB
	engine wazero.Runtime
	code   wazero.CompiledModule
	log    *syncBuffer
}

func newHost(t testing.TB, wasm []byte) *host {
	t.Helper()
	ctx := experimental.WithCompilationWorkers(context.Background(), runtime.GOMAXPROCS(0))
	h := &host{t: t, engine: wazero.NewRuntime(ctx), log: &syncBuffer{}}
	t.Cleanup(func() { _ = h.engine.Close(ctx) })
	if err := wasip1.Instantiate(ctx, h.engine); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.code, err = h.engine.CompileModule(ctx, wasm); err != nil {
		t.Fatal(err)
	}
	return h
}

// program is the Go program of testdata, compiled once for all tests.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "perigee-cgi-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "guest.wasm")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = filepath.Join("testdata", "guest")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, msg)
	}
	return os.ReadFile(out)
})

// serve answers one request, and returns what a caller of the runtime would see.
func (h *host) serve(w http.ResponseWriter, r *http.Request) (*abi.Exchange, error) {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	var dropped atomic.Int64
	x := &abi.Exchange{
		Request: r, Answer: abi.NewAnswer(w, r.Method, limits), Limits: limits,
		Log: abi.NewLog(slog.New(slog.NewTextHandler(h.log, nil)), abi.NewLogRate(), &dropped),
	}
	defer x.Log.Close()
	call := cgi.New(x)
	check := func() {
		if ctx.Err() != nil {
			x.Fail(context.Cause(ctx))
		}
	}
	system := wasip1.New(wasip1.Config{
		Args: []string{"program"}, Env: call.Env(map[string]string{"GREETING": "good day", "HTTP_X": "forged", "REMOTE_USER": "root"}),
		Files: fstest.MapFS{"data/a.txt": {Data: []byte("01234")}, "data/b.txt": {Data: []byte("012")}},
		Stdin: call.Stdin(), Stdout: call.Stdout(), Stderr: call.Stderr(), Check: check,
		Sleep: func(d time.Duration) {
			call.Idle()
			select {
			case <-time.After(d):
			case <-ctx.Done():
			}
		},
	})
	defer system.Close()
	ctx = system.Context(ctx)
	mod, err := h.engine.InstantiateModule(ctx, h.code, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return x, err
	}
	defer mod.Close(ctx)
	err = call.Serve(ctx, mod.ExportedFunction(cgi.Start))
	if noted := x.Err(); noted != nil {
		return x, noted
	}
	if err != nil {
		return x, err
	}
	return x, x.Answer.Finish()
}

// ServeHTTP serves, and answers errors as the gateway does.
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	x, err := h.serve(w, r)
	if err == nil {
		return
	}
	if x.Answer.Sent() {
		panic(http.ErrAbortHandler)
	}
	kind := "other"
	if guest := (*abi.GuestError)(nil); errors.As(err, &guest) {
		kind = string(guest.Kind)
	}
	w.Header().Set("Kind", kind)
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, err.Error())
}

func (h *host) server() *httptest.Server {
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.Start()
	h.t.Cleanup(srv.Close)
	return srv
}

// syncBuffer is a buffer that tests read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
