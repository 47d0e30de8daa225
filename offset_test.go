package perigee_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestClockAheadIsReadable: one node whose clock is ahead must not keep people from reading the list of all.
func TestClockAheadIsReadable(t *testing.T) {
	for _, off := range []time.Duration{0, 1500 * time.Millisecond, -20 * time.Hour} {
		b, err := json.Marshal(perigee.Row{Node: "fra-1", ClockOff: perigee.Offset(off)})
		if err != nil {
			t.Fatal(err)
		}
		var row perigee.Row
		if err := json.Unmarshal(b, &row); err != nil || time.Duration(row.ClockOff) != off {
			t.Errorf("%v comes back as %v, %v", off, time.Duration(row.ClockOff), err)
		}
	}
}
