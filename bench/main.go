package main

import (
	"context"
	"fmt"
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
	cacheDir = "/tmp/benchcache"
	if len(os.Args) > 1 {
		fmt.Println(gateway(context.Background(), os.Stdout))
		return
	}
	if err := service(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
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
