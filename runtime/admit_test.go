package runtime_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/perigee-edge/perigee"
	. "github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// noChild is an admission child that can't run.
var noChild = []string{"/nonexistent/perigee", "admit"}

func TestCheck(t *testing.T) {
	rep, err := runtime.Check(hello(t))
	if err != nil {
		t.Fatal(err)
	}
	if rep.ABI != runtime.ABIHTTPWasm || rep.MemoryMin < perigee.MiB || rep.Functions < 1000 || len(rep.Warnings) != 0 || len(rep.Imports) < 20 {
		t.Errorf("%+v", rep)
	}
}

// TestRefusals checks that what can't run is refused with what was found and what is supported,
// before a child is started.
func TestRefusals(t *testing.T) {
	module := func(build func(m *Module)) []byte {
		var m Module
		m.Memory(1, 0)
		build(&m)
		return m.Bytes()
	}
	importing := func(module, name, sig string) []byte {
		var m Module
		m.Import(module, name, sig)
		m.Memory(1, 0)
		handler(&m, Const64(0))
		return m.Bytes()
	}
	r := open(t, runtime.Config{Dir: t.TempDir(), Admit: noChild})
	for name, tc := range map[string]struct {
		wasm  []byte
		rule  string
		words string
	}{
		"text":           {[]byte("#!/bin/sh\nexit 0\n"), "not-wasm", "not WebAssembly"},
		"empty":          {nil, "not-wasm", "not WebAssembly"},
		"component":      {[]byte("\x00asm\x0d\x00\x01\x00"), "abi", "found a WebAssembly component; this release runs http-wasm"},
		"lies":           {Cat(Preamble, Section(10, U(1<<32-1))), "count", "4294967295"},
		"threads":        {Cat(Preamble, Section(5, 1, 3, 1, 2)), "no-threads", "build it without"},
		"nothing":        {[]byte(Preamble), "abi", "without a known entry point"},
		"command":        {func() []byte { var m Module; m.Export("_start", 0, m.Func(":", 0)); return m.Bytes() }(), "abi", "found a WASI command that does not export its memory"},
		"handler's call": {importing2("http_handler", "get_uri"), "imports", "http_handler.get_uri is not provided"},
		"fastly":         {importing2("fastly_http_req", "send"), "abi", "Fastly Compute"},
		"proxy-wasm":     {importing2("env", "proxy_log"), "abi", "proxy-wasm"},
		"half a handler": {module(func(m *Module) { m.Export("handle_request", 0, m.Func(":I", 0, Const64(0))) }), "abi", "without the export handle_response"},
		"wrong signature": {module(func(m *Module) {
			f := m.Func(":", 0)
			m.Export("handle_request", 0, f)
			m.Export("handle_response", 0, f)
		}), "abi", "must be a func () -> (i64)"},
		"no memory":         {func() []byte { var m Module; handler(&m, Const64(0)); return m.Bytes() }(), "abi", "does not export its memory"},
		"unknown import":    {importing("env", "abort", "iiii:"), "imports", "func env.abort is not provided"},
		"unknown function":  {importing("http_handler", "get_path", "ii:i"), "imports", "http_handler.get_path is not provided"},
		"wrong import":      {importing("http_handler", "get_uri", "i:i"), "imports", "wrong signature (i32) -> (i32)"},
		"wrong WASI import": {importing("wasi_snapshot_preview1", "fd_write", "iii:i"), "imports", "wrong signature"},
		"unstable WASI":     {importing("wasi_unstable", "fd_write", "iiii:i"), "imports", "wasi_unstable.fd_write is not provided"},
	} {
		_, err := runtime.Check(tc.wasm)
		var no *runtime.ErrRefused
		if !errors.As(err, &no) || no.Rule != tc.rule || !strings.Contains(no.Detail, tc.words) {
			t.Errorf("check %s: %v, want %s with %q", name, err, tc.rule, tc.words)
		}
		if _, err := r.Admit(t.Context(), perigee.Digest{1}, tc.wasm); !errors.As(err, &no) || no.Rule != tc.rule {
			t.Errorf("admit %s: %v", name, err)
		}
		if err := r.Load(t.Context(), "x", runtime.Spec{Function: "x", Wasm: tc.wasm}); !errors.As(err, &no) || no.Rule != tc.rule {
			t.Errorf("load %s: %v", name, err)
		}
	}
	if _, err := r.Admit(t.Context(), perigee.Digest{}, make([]byte, 64<<20+1)); err == nil || !strings.Contains(err.Error(), "max-module") {
		t.Errorf("too large: %v", err)
	}
}

// importing2 returns a module of another ABI.
func importing2(module, name string) []byte {
	var m Module
	m.Import(module, name, ":")
	m.Memory(1, 0)
	m.Export("_start", 0, m.Func(":", 0))
	return m.Bytes()
}

// TestMemoryLimit checks that a module which starts with more memory than its limit is refused.
func TestMemoryLimit(t *testing.T) {
	r := open(t, runtime.Config{})
	var m Module
	m.Memory(64, 0)
	handler(&m, Const64(0))
	err := r.Load(t.Context(), "f", runtime.Spec{Function: "f", Wasm: m.Bytes(), Limits: perigee.Limits{Memory: perigee.MiB}})
	if err == nil || !strings.Contains(err.Error(), "the module starts with 4MiB of memory and limits.memory is 1MiB; raise it") {
		t.Errorf("got %v", err)
	}
	if len(r.Loaded()) != 0 {
		t.Error("it is loaded")
	}
}

// TestReceipts checks that compiled code is used again, after a restart too, without a child, as long
// as it is unchanged; and is made again when it is not.
func TestReceipts(t *testing.T) {
	dir := t.TempDir()
	wasm := Answer("fine")
	works := func(r *runtime.Runtime) {
		t.Helper()
		load(t, r, "f", wasm, perigee.Limits{})
		if w, _, err := invoke(t, r, "f", get("/")); err != nil || w.Body.String() != "fine" {
			t.Errorf("%q, %v", w.Body, err)
		}
		r.Unload("f")
	}
	first := open(t, runtime.Config{Dir: dir})
	if _, err := first.Admit(t.Context(), perigee.Digest{1}, wasm); err != nil {
		t.Fatal(err)
	}
	works(first)
	works(open(t, runtime.Config{Dir: dir, Admit: noChild}))

	code := files(t, filepath.Join(dir, "code"))
	receipts := files(t, filepath.Join(dir, "receipts"))
	if len(code) != 1 || len(receipts) != 1 || len(files(t, filepath.Join(dir, "loading"))) != 0 {
		t.Fatalf("code %v, receipts %v", code, receipts)
	}
	original, err := os.ReadFile(code[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"a flipped bit":     func() error { b := bytes.Clone(original); b[len(b)/2] ^= 1; return os.WriteFile(code[0], b, 0o600) },
		"a flipped offset":  func() error { b := bytes.Clone(original); b[20] ^= 4; return os.WriteFile(code[0], b, 0o600) },
		"truncated":         func() error { return os.WriteFile(code[0], original[:len(original)/2], 0o600) },
		"empty":             func() error { return os.WriteFile(code[0], nil, 0o600) },
		"gone":              func() error { return os.Remove(code[0]) },
		"no receipt":        func() error { return os.Remove(receipts[0]) },
		"a damaged receipt": func() error { return os.WriteFile(receipts[0], []byte("{"), 0o600) },
		"another's receipt": func() error { return editDigest(receipts[0], `"module": "b3:`) },
		"an other engine":   func() error { return edit(receipts[0], `"engine": "wazero`, `"engine": "wazero-0`) },
		"an entry outside":  func() error { return edit(receipts[0], `"entry": "`, `"entry": "../code/`) },
	} {
		if err := damage(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := open(t, runtime.Config{Dir: dir, Admit: noChild}).Load(t.Context(), "f", runtime.Spec{Wasm: wasm}); err == nil {
			t.Errorf("%s: loaded without a child", name)
		}
		works(open(t, runtime.Config{Dir: dir}))
		if again, err := os.ReadFile(code[0]); err != nil || !bytes.Equal(again, original) {
			t.Errorf("%s: the code was not made again: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "admit-*")); len(left) > 0 {
		t.Errorf("children left %v", left)
	}
}

func edit(name, old, new string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(old)) {
		return errors.New("nothing to edit")
	}
	return os.WriteFile(name, bytes.Replace(b, []byte(old), []byte(new), 1), 0o600)
}

// editDigest changes the first digit of the digest that follows a key.
func editDigest(name, key string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	at := bytes.Index(b, []byte(key)) + len(key)
	return edit(name, string(b[at-len(key):at+1]), key+string("10"[b[at]&1]))
}

func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestChildDies checks what is said of a child that fails in some way, and that nothing is kept.
func TestChildDies(t *testing.T) {
	wasm := Answer("fine")
	for name, tc := range map[string]struct {
		argv    []string
		words   string
		refused bool
	}{
		"not there":    {noChild, "start the admission child", false},
		"exits 1":      {[]string{"/bin/sh", "-c", "echo bang >&2; exit 1"}, "the compiler failed (exit status 1): bang", true},
		"is killed":    {[]string{"/bin/sh", "-c", "kill -9 $$"}, "ended from outside: signal: killed", false},
		"has no room":  {[]string{"/bin/sh", "-c", "echo fatal error: runtime: out of memory >&2; exit 2"}, "compiling it needs more than", true},
		"says nothing": {[]string{"/bin/true"}, "read what the admission child found", false},
		"is another":   {[]string{"/bin/sh", "-c", `echo '{"engine":"wazero-9","report":{}}'`}, "restart the node after an upgrade", false},
	} {
		dir := t.TempDir()
		r := open(t, runtime.Config{Dir: dir, Admit: tc.argv})
		_, err := r.Admit(t.Context(), perigee.Digest{1}, wasm)
		var no *runtime.ErrRefused
		if err == nil || !strings.Contains(err.Error(), tc.words) || errors.As(err, &no) != tc.refused {
			t.Errorf("child %s: %v, want %q", name, err, tc.words)
		}
		if left := append(files(t, filepath.Join(dir, "code")), files(t, filepath.Join(dir, "receipts"))...); len(left) != 0 {
			t.Errorf("child %s: left %v", name, left)
		}
	}
}

// TestAdmitMain covers the child's own errors.
func TestAdmitMain(t *testing.T) {
	var out, problems bytes.Buffer
	if code := runtime.AdmitMain(strings.NewReader(""), &out, &problems, nil); code != 2 || !strings.Contains(problems.String(), "usage") {
		t.Errorf("without a directory: %d %s", code, &problems)
	}
}

// TestSharedDirectory opens a directory several times: a module is compiled once, and a later
// opener does not clean up under the others.
func TestSharedDirectory(t *testing.T) {
	dir, children := t.TempDir(), filepath.Join(t.TempDir(), "children")
	admit := []string{"/bin/sh", "-c", "echo one >> " + children + "; exec " + os.Args[0] + " admit $0"}
	wasm := Answer("fine")
	var wg sync.WaitGroup
	for range 4 {
		r := open(t, runtime.Config{Dir: dir, Admit: admit})
		wg.Go(func() {
			if _, err := r.Admit(t.Context(), perigee.Digest{1}, wasm); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b, err := os.ReadFile(children); err != nil || string(b) != "one\n" {
		t.Errorf("children: %q, %v", b, err)
	}

	staging, old := filepath.Join(dir, "admit-1"), filepath.Join(dir, "code", "wazero-0-x-y")
	for _, d := range []string{staging, old} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open(t, runtime.Config{Dir: dir, Admit: noChild})
	if _, err := os.Stat(staging); err != nil {
		t.Errorf("a second opener removed a child's directory: %v", err)
	}
}

// TestOpenTogether checks that Runtimes that open a directory at one moment do not take what the others
// make there for what dead processes left.
func TestOpenTogether(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				r, err := runtime.New(runtime.Config{Dir: dir})
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// TestStaleFiles checks that the first to open a directory removes what dead processes left.
func TestStaleFiles(t *testing.T) {
	dir := t.TempDir()
	stale := []string{filepath.Join(dir, "admit-1"), filepath.Join(dir, "code", "wazero-0-x-y")}
	for _, d := range stale {
		if err := os.MkdirAll(filepath.Join(d, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open(t, runtime.Config{Dir: dir})
	for _, d := range stale {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", d, err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
