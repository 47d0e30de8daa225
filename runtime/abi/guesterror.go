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
	BadResponse      Kind = "bad-response"       // what it answered is not HTTP
	Fuel             Kind = "fuel"               // it used more than limits.fuel
)

// GuestError is a failure that is the guest's doing. The node is fine, and another node would see the
// same.
type GuestError struct {
	Kind   Kind
	Detail string // for the function's author
}

// Error returns the kind and the detail.
func (e *GuestError) Error() string { return "guest: " + string(e.Kind) + ": " + e.Detail }
