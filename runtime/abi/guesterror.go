package abi

// Kind says in which way a guest misbehaved.
type Kind string

// The kinds of a GuestError.
const (
	Trap             Kind = "trap"               // it crashed, or broke the rules of its ABI
	Deadline         Kind = "deadline"           // it ran longer than limits.timeout
	NoResponse       Kind = "no-response"        // it exited before it answered
	ResponseTooLarge Kind = "response-too-large" // body or headers above the limits
	Memory           Kind = "memory"             // it wanted more than limits.memory and then failed
	Fuel             Kind = "fuel"               // it computed more than limits.fuel
	BadResponse      Kind = "bad-response"       // what it answered is not HTTP
)

// LimitDepth is how deeply a guest's calls may be nested. Who exceeds it crashes.
const LimitDepth = "depth"

// GuestError is a failure that is the guest's doing. The node is fine, and another node would see the
// same.
type GuestError struct {
	Kind   Kind
	Detail string // for the function's author
	Limit  string // the limit that it ran into, where Kind does not say it: LimitDepth; "" = none
}

// Error returns the kind and the detail.
func (e *GuestError) Error() string { return "guest: " + string(e.Kind) + ": " + e.Detail }
