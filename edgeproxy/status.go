package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// Fault says how a guest failed.
type Fault string

// The faults.
const (
	FaultTrap       Fault = "trap"               // the guest stopped with an error of the machine, or exited
	FaultDeadline   Fault = "deadline"           // it ran longer than limits.timeout
	FaultMemory     Fault = "memory"             // it needed more than limits.memory
	FaultFuel       Fault = "fuel"               // it ran more instructions than limits.fuel
	FaultNoResponse Fault = "no-response"        // it ended without a response
	FaultTooLarge   Fault = "response-too-large" // its response is larger than this node allows
	FaultBad        Fault = "bad-response"       // its response is no valid HTTP
)

// GuestError is the failure of a guest that was started. It is never repeated elsewhere, since the
// guest would fail there too.
type GuestError struct {
	Kind   Fault
	Detail string // for people; may be empty
	Limit  string // the limit that it ran into, if Kind does not say it; LimitDepth or ""
}

// Error names the fault and the detail.
func (e *GuestError) Error() string {
	if e.Detail == "" {
		return "guest: " + string(e.Kind)
	}
	return "guest: " + string(e.Kind) + ": " + e.Detail
}

// statusGone is logged and counted for requests whose client went away before a response. Nothing
// is sent.
const statusGone = 499

var (
	errClientGone  = errors.New("the client went away")
	errBodyStalled = errors.New("the request's body stalled")
	errBodyBroken  = errors.New("the request's body ended early")
)

// problem is an answer that this package gives itself instead of a guest's.
type problem struct {
	status int
	what   string        // what happened, one sentence
	rule   string        // the rule that decided, as its owner spells it; "" = none
	hint   string        // what to do about it
	after  time.Duration // Retry-After; 0 = none
	allow  string        // Allow, for 405

	location string // for a redirect; "" = none
	cause    string // short label for the refusals metric
}

// malformed reports whether a request was refused for its form.
func (pr *problem) malformed() bool {
	switch pr.cause {
	case "misdirected", "protocol", "method", "header", "path", "host":
		return true
	}
	return false
}

// problemOf is the one place that turns the failure of a request into an HTTP status.
func problemOf(err error, fn *perigee.Function) problem {
	var (
		guest *GuestError
		hop   *perigee.HopError
		no    *refusedError
	)
	switch {
	case errors.As(err, &no):
		return problemOfRefusal(no.Refusal, fn)
	case errors.As(err, &guest):
		return problemOfGuest(guest, fn)
	case errors.Is(err, errOnlyIfCached):
		return problem{
			status: http.StatusGatewayTimeout, cause: "only-if-cached",
			what: "No response is stored for this, and the request wants no other.", hint: "Ask without only-if-cached.",
		}
	case errors.Is(err, errNotSwitched):
		return problem{
			status: http.StatusNotImplemented, cause: "protocol",
			what: fmt.Sprintf("The function %q answered without WebSocket.", fn.Name), hint: "Functions with an origin as next pass it on, if the origin speaks it.",
		}
	case errors.Is(err, errClientGone), errors.Is(err, context.Canceled):
		return problem{status: statusGone, cause: "client-gone"}
	case errors.Is(err, errBodyStalled):
		return problem{
			status: http.StatusRequestTimeout, cause: "body-stalled",
			what: "The body of the request stopped arriving.", hint: "Send it again without pauses.",
		}
	case errors.Is(err, errBodyBroken):
		return problem{
			status: http.StatusBadRequest, cause: "body-broken",
			what: "The body of the request ended before its end.", hint: "Send it again, whole.",
		}
	case errors.As(err, &hop):
		return problemOfHop(hop, fn)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return problemOfGuest(&GuestError{Kind: FaultDeadline}, fn)
	case errors.Is(err, errLost):
		return problem{
			status: http.StatusBadGateway, cause: "lost",
			what: fmt.Sprintf("The connection to the node that ran %q was lost before it answered.", fn.Name),
			hint: "It may have run. Requests with an idempotent method or an Idempotency-Key header are repeated on another node by themselves.",
		}
	}
	return problem{
		status: http.StatusInternalServerError, cause: "internal",
		what: "This node failed while it served the request.", hint: "Try again; the operator finds the cause in the node's log under the request id.",
	}
}

func problemOfRefusal(r *placement.Refusal, fn *perigee.Function) problem {
	pr := problem{status: r.Status, what: r.Detail, rule: r.Rule, cause: string(r.Cause)}
	if pr.what == "" {
		pr.what = fmt.Sprintf("No node may run %q now.", fn.Name)
	}
	switch {
	case r.Cause == placement.CauseForceDenied, r.Cause == placement.CauseForceUnknown:
		pr.hint = "Force another region, or none."
	case r.Cause == placement.CauseAllTried:
		pr.hint, pr.after = "Try again in a moment.", time.Second
	case r.Cause == placement.CauseNoneAllowed:
		pr.hint = "Add a node where the rule allows it, or deploy with another [placement]; `perigee show " + fn.Name + "` says where it may run."
	default:
		pr.hint, pr.after = "Try again later; the rule is not relaxed meanwhile.", 5*time.Second
	}
	if r.Status == http.StatusServiceUnavailable && pr.after == 0 {
		pr.after = 30 * time.Second
	}
	return pr
}

func problemOfGuest(e *GuestError, fn *perigee.Function) problem {
	pr := problem{status: http.StatusBadGateway, cause: string(e.Kind)}
	switch e.Kind {
	case FaultDeadline:
		pr.status = http.StatusGatewayTimeout
		pr.what = fmt.Sprintf("The function %q did not answer in time.", fn.Name)
		pr.rule = fmt.Sprintf("timeout = %q", fn.Live.Manifest.Limits.Timeout)
		pr.hint = "Raise limits.timeout, or let it do less."
	case FaultTrap:
		pr.what = fmt.Sprintf("The function %q crashed.", fn.Name)
		pr.hint = "`perigee logs " + fn.Name + "` says where."
		if e.Limit == LimitDepth {
			pr.hint = "Let it call less deeply: no recursion without a bound."
		}
	case FaultMemory:
		pr.what = fmt.Sprintf("The function %q ran out of memory.", fn.Name)
		pr.rule = fmt.Sprintf("memory = %q", fn.Live.Manifest.Limits.Memory)
		pr.hint = "Raise limits.memory, or let it use less."
	case FaultFuel:
		pr.what = fmt.Sprintf("The function %q ran too many instructions.", fn.Name)
		pr.rule = fmt.Sprintf("fuel = %d", fn.Live.Manifest.Limits.Fuel)
		pr.hint = "Raise limits.fuel, or let it do less."
	case FaultNoResponse:
		pr.what = fmt.Sprintf("The function %q ended without a response.", fn.Name)
		pr.hint = "Let its handler write a status or a body on every path."
	case FaultTooLarge:
		pr.what = fmt.Sprintf("The response of the function %q is too large.", fn.Name)
		pr.hint = "Answer in parts, or ask the operator to raise max_response in node.toml."
	default:
		pr.cause = string(FaultBad)
		pr.what = fmt.Sprintf("The function %q gave a response that is not valid HTTP.", fn.Name)
		pr.hint = "Check the status and the headers it sets."
	}
	if e.Detail != "" {
		pr.what += " (" + e.Detail + ")"
	}
	return pr
}

// problemOfHop answers for a refusal that was not, or could not be, followed by another try.
func problemOfHop(e *perigee.HopError, fn *perigee.Function) problem {
	pr := problem{status: http.StatusServiceUnavailable, after: time.Second, cause: string(e.Code), hint: "Try again in a moment."}
	switch e.Code {
	case perigee.RefusedOverloaded:
		pr.what = fmt.Sprintf("All nodes that may run %q are busy.", fn.Name)
	case perigee.RefusedDeadline:
		pr.status, pr.after = http.StatusGatewayTimeout, 0
		pr.what = fmt.Sprintf("Too little time was left to start %q.", fn.Name)
		pr.rule = fmt.Sprintf("timeout = %q", fn.Live.Manifest.Limits.Timeout)
	case perigee.RefusedDraining:
		pr.what = fmt.Sprintf("The node that would run %q is shutting down.", fn.Name)
	case perigee.RefusedNotHere, perigee.RefusedNotAllowed:
		pr.what = fmt.Sprintf("The node that would run %q does not run it any more, or not yet.", fn.Name)
	default:
		pr.what = fmt.Sprintf("The nodes that may run %q do not answer.", fn.Name)
		pr.after = 5 * time.Second
	}
	return pr
}

// refusedError is a refusal of placement on its way through the request.
type refusedError struct{ *placement.Refusal }

func (e *refusedError) Error() string { return "refused: " + string(e.Cause) + ": " + e.Detail }
