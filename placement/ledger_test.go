package placement

import (
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// What was on its way when a node reported is added to the report, and nothing is counted twice.
func TestLedger(t *testing.T) {
	now := time.Unix(1e9, 0)
	report := func(n int32) perigee.Load { return perigee.Load{InFlight: n, Slots: 4} }
	used := func(l *Ledger) int {
		t.Helper()
		f := Fact{Measured: true}
		l.Fill(&f)
		c := choice{peer: &perigee.Peer{Row: perigee.Row{Load: report(0)}}, warmth: perigee.Warm}
		var o option
		c.rate(&f, now, &o)
		return o.used
	}
	var l Ledger
	want := func(what string, n int) {
		t.Helper()
		if got := used(&l); got != n {
			t.Errorf("%s: %d requests are expected there, want %d", what, got, n)
		}
	}
	l.Sent()
	l.Sent()
	want("two sent", 2)
	l.Accepted()
	l.Reported(report(5), now)
	want("the first accepted by a node with 5, of which it is one", 6)
	l.Sent()
	want("a third sent", 7)
	l.Accepted()
	l.Reported(report(6), now)
	want("the second accepted", 7)
	l.Ended(true)
	l.Reported(report(5), now)
	want("the first ended, the third on its way", 6)
	l.Ended(false)
	want("the third refused without a word about the load", 5)
	l.Reported(perigee.Load{}, now)
	want("nothing said", 5)
	if l.Ended(true); !l.Idle() {
		t.Error("the second ended, and the ledger is not idle")
	}
}
