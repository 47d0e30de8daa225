package survive

import (
	"io"
	"testing"
)

func TestPowerCuts(t *testing.T) {
	w, err := NewWorld(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.PowerCuts(t.Context(), 1, 250)
	if err != nil {
		t.Fatal(err)
	}
	if got.Lost > 0 || got.Acked < 250 {
		t.Errorf("%d of %d acknowledged writes lost in %d power cuts: %q", got.Lost, got.Acked, got.Cuts, got.Why)
	}
}

func TestRot(t *testing.T) {
	w, err := NewWorld(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Rot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Served+got.Crashes+got.Missed > 0 || got.Flips < 100 {
		t.Errorf("of %d flipped bits %d were served, %d fatal, %d not noticed: %q", got.Flips, got.Served, got.Crashes, got.Missed, got.Why)
	}
	t.Logf("%d flips", got.Flips)
}
