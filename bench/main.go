package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/perigee-edge/perigee/runtime"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "admit" {
		os.Exit(runtime.AdmitMain(os.Stdin, os.Stdout, os.Stderr, os.Args[2:]))
	}
	if len(os.Args) > 2 {
		cacheDir = os.Args[2]
		var err error
		switch os.Args[1] {
		case "serve-perigee":
			err = servePerigee(context.Background())
		case "serve-bare":
			err = serveBare()
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run prints all figures.
func run(ctx context.Context) (err error) {
	if cacheDir, err = os.MkdirTemp("", "perigee-bench-code-"); err != nil {
		return err
	}
	defer os.RemoveAll(cacheDir)
	for _, measure := range []func(context.Context, io.Writer) error{fuel, service, gateway} {
		if err := measure(ctx, os.Stdout); err != nil {
			return err
		}
	}
	return nil
}

// buildGo compiles a guest as a reactor.
func buildGo(dir string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	name := filepath.Join(tmp, "guest.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", name, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", dir, err, out)
	}
	return os.ReadFile(name)
}
