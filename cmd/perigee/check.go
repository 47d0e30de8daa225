package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
)

// checked is the verdict on one file or directory.
type checked struct {
	Path     string          `json:"path"`
	OK       bool            `json:"ok"`
	Problems []string        `json:"problems,omitempty"`
	Warnings []string        `json:"warnings,omitempty"`
	Report   *runtime.Report `json:"report,omitempty"`

	inspect func(wasm []byte) (runtime.Report, error)
}

func newCheck(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "check [DIR|FILE…]", Short: "Look at a function offline: manifest, Wasm, placement",
		Long: "Check needs no cluster and builds nothing. It compiles the module as a node would, and does not run it. A\n" +
			"directory is checked as `perigee deploy` would (its Wasm file must have been built), a file as a manifest\n" +
			"(.toml) or as a module. It exits with 1 when anything is refused; warnings are for the author to judge.",
		Example: "  perigee check\n  perigee check hello/ world/\n  perigee check --json hello.wasm",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"."}
			}
			all := []checked{}
			admit, err := admitCommand()
			if err != nil {
				return err
			}
			out := newTable("PATH", "RESULT")
			ok := true
			for _, path := range args {
				c := check(cmd.Context(), admit, path)
				all = append(all, c)
				ok = ok && c.OK
				c.print(out)
			}
			if err := t.print(cmd, all, out); err != nil {
				return err
			}
			if !ok {
				return errReported
			}
			return nil
		},
	}
}

// print adds a row for each problem, or one for the acceptance, and one for each warning.
func (c checked) print(out *table) {
	lines := []string{"accepted"}
	if c.Report != nil {
		r := c.Report
		lines[0] = fmt.Sprintf("accepted: %s, %s, %d functions, %s of memory at first, %s of machine code in %.1f s", r.ABI, size(r.Size), r.Functions, size(r.MemoryMin), size(r.Compiled), float64(r.Compile)/1e3)
		if modules := importedModules(r.Imports); modules != "" {
			lines = append(lines, "imports: "+modules)
		}
	}
	if !c.OK {
		lines = nil
	}
	for _, p := range c.Problems {
		lines = append(lines, "refused: "+p)
	}
	for _, w := range c.Warnings {
		lines = append(lines, "warning: "+w)
	}
	path := c.Path
	for _, line := range lines {
		out.row(path, line)
		path = ""
	}
}

// importedModules sums up what a module imports: how many functions of which host module.
func importedModules(imports []string) string {
	count := map[string]int{}
	for _, im := range imports {
		module, _, _ := strings.Cut(im, ".")
		count[module]++
	}
	var out []string
	for _, module := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%d of %s", count[module], module))
	}
	return strings.Join(out, ", ")
}

func check(ctx context.Context, admit []string, path string) checked {
	c := checked{Path: path, inspect: func(wasm []byte) (runtime.Report, error) { return runtime.Inspect(ctx, admit, wasm) }}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		c.fail(err)
	case info.IsDir():
		c.dir(path)
	case !info.Mode().IsRegular():
		c.fail(fmt.Errorf("%s is no regular file", path))
	case filepath.Ext(path) == ".toml":
		c.manifestFile(path)
	case info.Size() > int64(bundle.MaxWasm):
		c.fail(fmt.Errorf("%s has %d bytes: a module has at most %s", path, info.Size(), bundle.MaxWasm))
	default:
		if b, err := os.ReadFile(path); err != nil {
			c.fail(err)
		} else {
			c.module(b)
		}
	}
	c.OK = len(c.Problems) == 0
	return c
}

func (c *checked) dir(path string) {
	m, err := bundle.LoadManifest(path)
	if err != nil {
		c.fail(err)
		return
	}
	c.manifest(m)
	archive, err := bundle.Pack(path, m)
	if err != nil {
		if m.Build != "" && !exists(filepath.Join(path, m.Wasm)) {
			err = fmt.Errorf("%w; its build command is %q", err, m.Build)
		}
		c.fail(err)
		return
	}
	c.module(archive.Wasm)
}

func (c *checked) manifestFile(path string) {
	b, err := os.ReadFile(path)
	if err != nil {
		c.fail(err)
		return
	}
	m, err := bundle.ParseManifest(path, b)
	if err != nil {
		c.fail(err)
		return
	}
	c.manifest(m)
}

func (c *checked) manifest(m *perigee.Manifest) {
	if err := placement.Check(m.Name, &m.Placement, nil); err != nil {
		c.fail(misplaced("", err))
	} else if err := placement.Check(m.Name, &m.Placement, perigee.BuiltinRegions()); err != nil {
		for line := range strings.SplitSeq(misplaced("", err).Error(), "\n") {
			c.Warnings = append(c.Warnings, line+" (so it is with the built-in regions: `perigee plan` asks the cluster, which may have others)")
		}
	} else {
		for _, w := range placement.Warnings(&m.Placement, perigee.BuiltinRegions()) {
			c.Warnings = append(c.Warnings, "placement."+w)
		}
	}
}

func (c *checked) module(wasm []byte) {
	report, err := c.inspect(wasm)
	if err != nil {
		c.Problems = append(c.Problems, strings.TrimPrefix(err.Error(), "module refused: "))
		return
	}
	c.Report = &report
	c.Warnings = append(c.Warnings, report.Warnings...)
}

// fail adds what is wrong; an error of several lines is several problems.
func (c *checked) fail(err error) {
	c.Problems = append(c.Problems, strings.Split(err.Error(), "\n")...)
}
