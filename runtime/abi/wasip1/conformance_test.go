package wasip1_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/perigee-edge/perigee/runtime/abi/wasip1"
)

// unable are the programs of the suite that can't pass, each with the reason. It is an error if one
// passes.
var unable = map[string]string{
	"c/pwrite-with-access": "creates a file in its directory, and there is none that can be written",
	"c/pwrite-with-append": "creates a file in its directory, and there is none that can be written",
}

// program is one of the suite: what stands in the JSON file beside it.
type program struct {
	Args     []string          `json:"args"`
	Env      map[string]string `json:"env"`
	Root     string            `json:"root"`
	ExitCode uint32            `json:"exit_code"`
	Stdin    string            `json:"stdin"`
	Stdout   *string           `json:"stdout"`
	Stderr   *string           `json:"stderr"`

	interpret bool // for programs that run often, and shortly
}

// runtime returns an engine for the program.
func (p program) runtime(ctx context.Context) wazero.Runtime {
	c := wazero.NewRuntimeConfig()
	if p.interpret {
		c = wazero.NewRuntimeConfigInterpreter()
	}
	return wazero.NewRuntimeWithConfig(ctx, c.WithCloseOnContextDone(true))
}

func suite(t *testing.T) (dir string, programs map[string]program) {
	t.Helper()
	dir = os.Getenv("PERIGEE_CONFORMANCE")
	if dir == "" {
		t.Skip("PERIGEE_CONFORMANCE is not set: the outside programs are not here")
	}
	dir = filepath.Join(dir, "wasip1")
	programs = map[string]program{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		name, ok := strings.CutSuffix(path, ".wasm")
		if err != nil || !ok {
			return err
		}
		var p program
		b, err := os.ReadFile(name + ".json")
		if err == nil {
			d := json.NewDecoder(bytes.NewReader(b))
			d.DisallowUnknownFields()
			err = d.Decode(&p)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		name, _ = filepath.Rel(dir, name)
		programs[filepath.ToSlash(name)] = p
		return err
	})
	if err != nil || len(programs) < 26 {
		t.Fatalf("%d programs, %v", len(programs), err)
	}
	return dir, programs
}

// outcome is what came of a program.
type outcome struct {
	code           uint32
	stdout, stderr string
	err            string
}

// ok reports whether it is what the suite wants.
func (p program) ok(o outcome) bool {
	return o.err == "" && o.code == p.ExitCode && (p.Stdout == nil || *p.Stdout == o.stdout) && (p.Stderr == nil || *p.Stderr == o.stderr)
}

// TestConformance runs the suite.
func TestConformance(t *testing.T) {
	dir, programs := suite(t)
	passed := 0
	for name, p := range programs {
		o := runProgram(t, dir, name, p, ours)
		ok := p.ok(o)
		if ok {
			passed++
		}
		switch why, listed := unable[name]; {
		case ok && listed:
			t.Errorf("%s passes, and is listed as unable: %s", name, why)
		case !ok && !listed:
			t.Errorf("%s: %+v, want %+v", name, o, p)
		}
		if theirs := runProgram(t, dir, name, p, engine); ok != p.ok(theirs) {
			t.Logf("%s: the engine's own differs: %+v; ours %+v", name, theirs, o)
		}
	}
	for name := range unable {
		if _, there := programs[name]; !there {
			t.Errorf("%s is listed, and not in the suite", name)
		}
	}
	t.Logf("%d of %d pass", passed, len(programs))
}

func runProgram(t *testing.T, dir, name string, p program, run func(ctx context.Context, t *testing.T, wasm []byte, root fs.FS, p program) outcome) outcome {
	t.Helper()
	wasm, err := os.ReadFile(filepath.Join(dir, name+".wasm"))
	if err != nil {
		t.Fatal(err)
	}
	var root fs.FS
	if p.Root != "" {
		root = os.DirFS(filepath.Join(dir, filepath.Dir(name), p.Root))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return run(ctx, t, wasm, root, p)
}

// ours runs a program with this package.
func ours(ctx context.Context, t *testing.T, wasm []byte, root fs.FS, p program) outcome {
	r := p.runtime(ctx)
	defer r.Close(ctx)
	if err := wasip1.Instantiate(ctx, r); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	c := wasip1.Config{Args: append([]string{"program.wasm"}, p.Args...), Files: root, Stdin: strings.NewReader(p.Stdin), Stdout: &out, Stderr: &errs}
	for k, v := range p.Env {
		c.Env = append(c.Env, k+"="+v)
	}
	s := wasip1.New(c)
	defer s.Close()
	mod, err := r.InstantiateWithConfig(s.Context(ctx), wasm, wazero.NewModuleConfig().WithStartFunctions())
	if err != nil {
		return outcome{err: err.Error()}
	}
	_, err = mod.ExportedFunction("_start").Call(s.Context(ctx))
	return ended(err, &out, &errs)
}

// engine runs a program with wazero's own functions.
func engine(ctx context.Context, t *testing.T, wasm []byte, root fs.FS, p program) outcome {
	r := p.runtime(ctx)
	defer r.Close(ctx)
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	var out, errs bytes.Buffer
	c := wazero.NewModuleConfig().WithArgs(append([]string{"program.wasm"}, p.Args...)...).
		WithStdin(strings.NewReader(p.Stdin)).WithStdout(&out).WithStderr(&errs).WithSysWalltime().WithSysNanotime().WithSysNanosleep()
	for k, v := range p.Env {
		c = c.WithEnv(k, v)
	}
	if root != nil {
		c = c.WithFSConfig(wazero.NewFSConfig().WithFSMount(root, "/"))
	}
	_, err := r.InstantiateWithConfig(ctx, wasm, c)
	return ended(err, &out, &errs)
}

func ended(err error, out, errs *bytes.Buffer) outcome {
	o := outcome{stdout: out.String(), stderr: errs.String()}
	var exit interface{ ExitCode() uint32 }
	switch {
	case errors.As(err, &exit):
		o.code = exit.ExitCode()
	case err != nil:
		o.err = err.Error()
	}
	return o
}
