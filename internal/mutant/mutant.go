// Package mutant checks that tests notice when a defence is gone. It is for tests only.
//
// A list has one defence a line, in four columns with tabs between them: a file, a text that stands in it
// once, what stands there instead when the defence is taken away, and the test of the package (TestX, or
// TestX/Y for a part of it) that must fail then. A tab within a column is written \t. Lines that begin with # are comments.
package mutant

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Run takes away each defence of a list, one at a time and without touching the files, and requires that
// its test fails. That takes a minute, so it happens with PERIGEE_MUTANTS=1 only (make mutants); without,
// it requires that each line still says what stands in the code.
func Run(t *testing.T, list string) {
	lines, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	run := os.Getenv("PERIGEE_MUTANTS") != ""
	for line := range strings.Lines(string(lines)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), `\t`, "\v"), "\t")
		if len(f) != 4 {
			t.Fatalf("%q has %d columns, want 4", line, len(f))
		}
		for i := range f {
			f[i] = strings.ReplaceAll(f[i], "\v", "\t")
		}
		src, err := os.ReadFile(f[0])
		if err != nil || strings.Count(string(src), f[1]) != 1 {
			t.Errorf("%s has %q %d times, want it once (%v)", f[0], f[1], strings.Count(string(src), f[1]), err)
			continue
		}
		if run {
			t.Run(strings.TrimSpace(f[1]), func(t *testing.T) {
				check(t, f[0], strings.Replace(string(src), f[1], f[2], 1), f[3])
			})
		}
	}
}

func check(t *testing.T, file, src, test string) {
	t.Parallel()
	dir := t.TempDir()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: filepath.Join(dir, filepath.Base(file))}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{filepath.Base(file): src, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-count=1", "-timeout=60s", "-overlay", filepath.Join(dir, "overlay.json"), "-run", "^"+strings.ReplaceAll(test, "/", "$/^")+"$", ".")
	c.Env = append(os.Environ(), "PERIGEE_MUTANTS=")
	out, err := c.CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("%s passes without this defence", test)
	case !strings.Contains(string(out), "--- FAIL: "+test): // a part's line is indented
		t.Errorf("the mutant does not run: %v\n%s", err, out)
	}
}
