package main

import (
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/perigee-edge/perigee/internal/survive"
)

// TestRotten flips a bit here and there in all files of a node, one at a time; `make bench-cluster` does it at
// many more places.
func TestRotten(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real nodes; not in -short")
	}
	program, err := exec.LookPath("perigee") // testscript's copy of this test
	if err != nil {
		t.Fatal(err)
	}
	perFile, _ := strconv.Atoi(os.Getenv("PERIGEE_ROTS"))
	r, err := survive.RotNode(t.Context(), program, t.TempDir(), max(1, perFile), t.Output())
	if err != nil || r.Served+r.Crashes > 0 || r.Flips < 15 {
		t.Errorf("%d flips in %d files: %d served, %d fatal, %d unserved, %v: %q", r.Flips, r.Files, r.Served, r.Crashes, r.Unserved, err, r.Why)
	}
	t.Logf("%d flips in %d files, unserved %d: %q", r.Flips, r.Files, r.Unserved, r.Why)
}
