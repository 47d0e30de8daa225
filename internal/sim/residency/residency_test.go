package residency

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/perigee-edge/perigee/internal/mutant"
)

// TestResidency: whatever happens, nothing gets out. Fronts wait for news of rules in fake time.
func TestResidency(t *testing.T) { synctest.Test(t, campaign) }

func campaign(t *testing.T) {
	seed := rand.Uint64()
	w, err := New(seed)
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		if w.Step(); w.Violations() > 0 {
			t.Fatalf("seed %d: a violation in step %d: %+v", seed, w.Steps, w.Count)
		}
	}
	if err := w.Read(); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %+v", seed, w.Count)
	if v := w.Violations(); v > 0 {
		t.Errorf("seed %d: %d violations: %+v", seed, v, w.Count)
	}
	for what, n := range map[string]int{"runs": w.Ran, "hops": w.Hopped, "refusals": w.Refused, "holders": w.Held, "seals": w.Sealed, "keys": w.Terminated,
		"requests that must not be written about": w.Kept, "lines": w.Lines, "series": w.Series} {
		if n < 100 {
			t.Errorf("seed %d: only %d %s: the campaign tries too little", seed, n, what)
		}
	}
}

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
