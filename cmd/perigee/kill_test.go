package main

import (
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/perigee-edge/perigee/internal/survive"
)

// TestKilled kills a node a few times while clients write; `make bench-cluster` does it a thousand times.
func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real nodes; not in -short")
	}
	program, err := exec.LookPath("perigee") // testscript's copy of this test
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	k, err := survive.KillNode(t.Context(), program, t.TempDir(), seed, 12, t.Output())
	if err != nil || k.Lost > 0 || k.Acked == 0 {
		t.Errorf("seed %d: %d of %d acknowledged writes lost in %d kills, %v: %q", seed, k.Lost, k.Acked, k.Kills, err, k.Why)
	}
}
