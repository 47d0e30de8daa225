package placement

import (
	"time"

	"github.com/perigee-edge/perigee"
)

// Ledger is what an entry node knows of its own requests for one revision on one node, and of what that
// node said last. It is a value with no clock and no lock: whoever owns it says what happens and when.
// The zero Ledger is a node never talked to.
type Ledger struct {
	inFlight   int // requests sent there and not ended
	unaccepted int // of these, those that the node has not said to have taken
	unreported int // sent there and not part of load
	load       perigee.Load
	at         time.Time // when load came
}

// Sent counts a request to the node.
func (l *Ledger) Sent() {
	l.inFlight++
	l.unaccepted++
	l.unreported++
}

// Accepted notes that the node took one of the requests sent.
func (l *Ledger) Accepted() { l.unaccepted-- }

// Reported keeps what the node said about its load. A report is as old as the way back is long. What
// it can't count is what was on its way there then; of that the node has, in the order of sending, not
// said yet that it took it. The zero Load says nothing.
func (l *Ledger) Reported(load perigee.Load, now time.Time) {
	if load == (perigee.Load{}) {
		return
	}
	l.load, l.at, l.unreported = load, now, l.unaccepted
}

// Ended notes that one of the requests sent is over; accepted says whether Accepted was called for it.
func (l *Ledger) Ended(accepted bool) {
	l.inFlight--
	if !accepted {
		l.unaccepted--
		l.unreported = max(0, l.unreported-1)
	}
}

// Idle reports that no request is out.
func (l *Ledger) Idle() bool { return l.inFlight == 0 }

// Fill tells f what the ledger knows.
func (l *Ledger) Fill(f *Fact) {
	f.InFlight, f.Unreported, f.Load, f.LoadAt = l.inFlight, l.unreported, l.load, l.at
}
