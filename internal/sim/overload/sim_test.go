package overload

import (
	"testing"
	"time"

	"github.com/perigee-edge/perigee/runtime/overload"
)

// TestOurs: asked for three times what it can do, the worker does almost all that it can, in time, whatever
// requests take; asked for less, it refuses next to nothing.
func TestOurs(t *testing.T) {
	for _, k := range Kinds() {
		for _, load := range []float64{0.8, 3} {
			r := Run(Config{Seed: 1, Kind: k, Limit: Ours, Load: load})
			if r.Goodput < 0.95 || r.P99 > 700*time.Millisecond {
				t.Errorf("%s at %g: %+v", k, load, r)
			}
		}
	}
}

// TestSameQueue: all limits stand before the same queue. One that never moves gives the same answers there as in
// runtime/overload.
func TestSameQueue(t *testing.T) {
	const n = 2 * processors
	for _, load := range []float64{0.8, 3} {
		c := Config{Seed: 1, Kind: HeavyTailed, Load: load}
		theirs := run(c, production{overload.New(n, n), &overload.Flow{}})
		if mine := run(c, &classic{rule: fixed(n)}); mine != theirs {
			t.Errorf("at %g: %+v, in runtime/overload %+v", load, mine, theirs)
		}
	}
}
