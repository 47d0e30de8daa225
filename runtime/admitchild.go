package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/wasmbin"
	"github.com/perigee-edge/perigee/runtime/sandbox"
)

// AdmitMain is the main function of the admission child: the hidden subcommand "admit" of the program.
// Its only argument is a directory, which must be empty or new. It reads a module from stdin, limits
// itself, checks the module, compiles it into the directory and prints a verdict as JSON. Exit code 0
// means that there is a verdict, 1 that something else failed, 2 wrong usage.
func AdmitMain(stdin io.Reader, stdout, stderr io.Writer, args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "usage: perigee admit DIR < MODULE  (run by the node; use perigee check)")
		return 2
	}
	wasm, err := io.ReadAll(io.LimitReader(stdin, maxModule+1))
	if err == nil && len(wasm) > maxModule {
		err = fmt.Errorf("more than %d bytes", maxModule)
	}
	if err != nil {
		fmt.Fprintf(stderr, "read module: %v\n", err)
		return 1
	}
	if err := limitSelf(childData, childCPU(len(wasm))); err != nil {
		fmt.Fprintf(stderr, "limit the admission child: %v\n", err)
		return 1
	}
	debug.SetMemoryLimit(childMemory * 3 / 4) // collect harder before the limit ends it
	v, err := admit(wasm, args[0])
	if err == nil {
		err = json.NewEncoder(stdout).Encode(v)
	}
	if err != nil {
		fmt.Fprintf(stderr, "admit: %v\n", err)
		return 1
	}
	return 0
}

// admit checks a module and compiles it into a directory.
func admit(wasm []byte, dir string) (verdict, error) {
	report, err := Check(wasm)
	var no *ErrRefused
	if errors.As(err, &no) {
		return verdict{Refused: no}, nil
	}
	if err != nil {
		return verdict{}, err
	}
	module, err := wasmbin.Rewrite(wasm)
	if errors.As(refused(err), &no) {
		return verdict{Refused: no}, nil
	}
	start := time.Now()
	if err := sandbox.Compile(context.Background(), dir, module); err != nil {
		return verdict{Refused: &ErrRefused{Rule: "compile", Detail: err.Error()}}, nil
	}
	took := time.Since(start)
	made, err := os.ReadDir(dir)
	if err != nil || len(made) != 1 {
		return verdict{}, fmt.Errorf("the engine left %d directories in %s; this processor may not be supported", len(made), filepath.Base(dir))
	}
	return verdict{Engine: engineID(made[0].Name()), Module: digest.Sum(module.Skeleton), Report: &report, Compile: took.Milliseconds()}, nil
}
