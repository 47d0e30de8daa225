package placement

import (
	"math/rand/v2"
	"testing"

	"github.com/perigee-edge/perigee"
)

// TestWorld checks in a world like that of the figures, but smaller, that plans which follow a change are
// those that are made anew, and that little moves.
func TestWorld(t *testing.T) {
	v := World(rand.New(rand.NewPCG(1, 0)), 60, 400)
	f, _ := Full(v)
	gone := withNode(v, "fra-1", func(p *perigee.Peer) { p.State = perigee.NodeDead })
	without := f.Next(gone)
	if diff := Same(without, gone); diff != "" {
		t.Error("a node leaves:", diff)
	}
	if diff := Same(without.Next(v), v); diff != "" {
		t.Error("it returns:", diff)
	}
	if moves := Moves(v); moves < 1.0/60*0.9 || moves > 1.5/60 {
		t.Errorf("%.2f %% of all holders move when one of 60 nodes leaves", 100*moves)
	}
}

// TestRegret lets demand settle in a few of the small worlds of the figure.
func TestRegret(t *testing.T) {
	sum := 0.0
	for i := range 20 {
		regret, err := Regret(rand.New(rand.NewPCG(7, uint64(i))))
		if err != nil {
			t.Errorf("world %d: %v", i, err)
		}
		sum += regret
	}
	if mean := sum / 20; mean > 0.05 || mean < 0 {
		t.Errorf("callers and holders cost %.1f %% more than with the best holders", 100*mean)
	}
}

// TestWarmShare is the figure, with one seed.
func TestWarmShare(t *testing.T) {
	if share, n := WarmShare(rand.New(rand.NewPCG(3, 0))); share < 0.999 || n < 700_000 {
		t.Errorf("%.3f %% of %d requests found their function loaded", 100*share, n)
	}
}
