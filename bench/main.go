// Command bench compares Perigee's engine with wazero as it comes and with wasmtime, guests that meter
// themselves with the same guests as they were, and a node with a bare HTTP server, and measures what
// package runtime makes of the engine. It prints "name value" lines; docs/bench.md of the main module says
// what they mean. All forms of a row take turns in one run, so that what else the machine does hits all of
// them, and ratios of medians are what counts.
//
// It is a module of its own since it needs cgo, wasmtime's library, Wizer and wrk. `make bench-runtime` in
// the main module gets the first three and runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee/runtime"
)

// parts are the measurements, in the order in which they are made.
var parts = []struct {
	name    string
	measure func(context.Context, io.Writer) error
}{
	{"isolation", isolation}, {"slots", slots}, {"fuel", fuel}, {"spin", spin}, {"reload", reload}, {"idle", idle}, {"burst", burst}, {"http", gateway},
}

func main() {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	only := flag.String("only", strings.Join(names, ","), "the parts to run")
	flag.Parse()
	if err := run(context.Background(), flag.Args(), strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run prints the figures, or is one of the processes that some of them need: roles.
func run(ctx context.Context, role, only []string) (err error) {
	if len(role) == 2 {
		switch role[0] {
		case "admit":
			os.Exit(runtime.AdmitMain(os.Stdin, os.Stdout, os.Stderr, role[1:]))
		case "serve-perigee":
			return servePerigee(ctx, role[1])
		case "serve-bare":
			return serveBare()
		}
	}
	if len(role) > 0 {
		return fmt.Errorf("unknown arguments %q", role)
	}
	if cacheDir, err = os.MkdirTemp("", "perigee-bench-code-"); err != nil {
		return err
	}
	defer os.RemoveAll(cacheDir)
	for _, p := range parts {
		if slices.Contains(only, p.name) {
			if err := p.measure(ctx, os.Stdout); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return nil
}
