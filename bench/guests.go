package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// bufferSize is the size of the guests' buffers.
const bufferSize = 64 << 10

// wizer is where pre-initialised modules are made. npm puts it into the module's own folder.
const wizer = "node_modules/.bin/wizer"

// buildGo compiles the guest in a folder as a reactor.
func buildGo(dir string) ([]byte, error) {
	return made(func(name string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", name, ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
		return cmd
	})
}

// preInitialise runs a module's _initialize and returns the module that begins after it.
func preInitialise(wasm []byte) ([]byte, error) {
	f, err := os.CreateTemp("", "bench-*.wasm")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(wasm); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return made(func(name string) *exec.Cmd {
		return exec.Command(wizer, "--allow-wasi", "--wasm-bulk-memory", "true", "--init-func", "_initialize", "-o", name, f.Name())
	})
}

// made returns the file that a command makes.
func made(command func(name string) *exec.Cmd) ([]byte, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "made.wasm")
	cmd := command(name)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return os.ReadFile(name)
}
