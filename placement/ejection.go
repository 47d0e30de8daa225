package placement

import "time"

const (
	firstEjection   = time.Second
	longestEjection = 30 * time.Second
)

// Ejection is whether an entry node sends requests to another node, by how those before ended. A node
// that is silent or unreachable is ejected: for 1 s, doubled by each further failure up to 30 s. After
// that one request tries it (half-open); until that one has ended the node stays ejected. Any answer, a
// refusal too, ends the ejection. The zero Ejection is a node that never failed. Like a Ledger it has no
// clock and no lock.
type Ejection struct {
	strikes  int       // failures in a row
	struckAt time.Time // the last of them
	until    time.Time
	trying   bool // one request tries it
}

// Until returns for how long the node is offered after the others only (Fact.EjectedUntil).
func (e *Ejection) Until(now time.Time) time.Time {
	if soon := now.Add(firstEjection); e.trying && e.until.Before(soon) {
		return soon
	}
	return e.until
}

// Begin asks whether a request may be sent to the node. It may not while another tries it, unless forced:
// there is no other node. trying says that this is the request that tries it; Tried is then due when it
// has ended.
func (e *Ejection) Begin(now time.Time, force bool) (trying, ok bool) {
	switch {
	case e.trying:
		return false, force
	case e.strikes > 0 && !now.Before(e.until):
		e.trying = true
	}
	return e.trying, true
}

// Tried notes that the request has ended that tried the node.
func (e *Ejection) Tried() { e.trying = false }

// Silent notes that a request sent at that time was not accepted. One sent before the last failure was
// known is part of the same failure.
func (e *Ejection) Silent(sent, now time.Time) {
	if sent.Before(e.struckAt) {
		return
	}
	e.until = now.Add(min(longestEjection, firstEjection<<min(e.strikes, 8)))
	e.strikes++
	e.struckAt, e.trying = now, false
}

// Lives notes that the node said something.
func (e *Ejection) Lives() { e.strikes, e.until, e.trying = 0, time.Time{}, false }

// Leaves notes that the node said it is draining: the View will say so too.
func (e *Ejection) Leaves(now time.Time) {
	e.Lives()
	e.until = now.Add(firstEjection)
}
