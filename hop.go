package perigee

import "fmt"

// RefuseCode says why a node did not run a request that a peer sent it. The guest was not started,
// so the request may be tried elsewhere; RefusedSilent is the exception.
type RefuseCode string

// The refuse codes. The first five are the worker's own words; the last two are the sender's
// conclusion about a worker that said nothing. A silent worker may have started a request without a
// body, and be dead or cut off since; one with a body it can't have seen whole, since bodies are sent
// only after "accepted".
const (
	RefusedOverloaded  RefuseCode = "overloaded"
	RefusedDraining    RefuseCode = "draining"
	RefusedNotHere     RefuseCode = "not-here"    // the revision is not loaded there
	RefusedNotAllowed  RefuseCode = "not-allowed" // a hard rule forbids it there
	RefusedDeadline    RefuseCode = "deadline"    // too little time left to start
	RefusedUnreachable RefuseCode = "unreachable" // no connection
	RefusedSilent      RefuseCode = "silent"      // connected, but no "accepted" in time
)

// HopError is the failure of a request sent to another node before that node said that it started
// it. Any other error of a hop means that the guest may have run.
type HopError struct {
	Node NodeID
	Code RefuseCode
	Load *Load // what the worker reported with its refusal; nil if nothing
	Err  error // the cause, for unreachable; may be nil

	// Limit is what a node that is overloaded ran out of; "" = it did not say.
	Limit string
}

// Error names the node, the code and the cause.
func (e *HopError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("hop to %s: %s: %v", e.Node, e.Code, e.Err)
	}
	return fmt.Sprintf("hop to %s: %s", e.Node, e.Code)
}

// Unwrap returns the cause.
func (e *HopError) Unwrap() error { return e.Err }
