package bundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestExamples builds each example as its manifest says, and packs it.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles five Go programs")
	}
	dirs, err := filepath.Glob("../../examples/*/" + ManifestName)
	if err != nil || len(dirs) < 5 {
		t.Fatalf("examples: %q, %v", dirs, err)
	}
	for _, path := range dirs {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, err := LoadManifest(dir)
			if err != nil {
				t.Fatal(err)
			}
			c := exec.Command("sh", "-c", m.Build)
			c.Dir = dir
			c.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", m.Build, err, out)
			}
			if _, err := Pack(dir, m); err != nil {
				t.Error(err)
			}
		})
	}
}
