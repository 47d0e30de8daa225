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
