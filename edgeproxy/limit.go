package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// The limits that can end a request, or keep it from being started: the values of the key limit in
// receipts. docs/placement.md explains them.
const (
	LimitTimeout     = "timeout"     // limits.timeout
	LimitFuel        = "fuel"        // limits.fuel
	LimitMemory      = "memory"      // limits.memory
	LimitDepth       = "depth"       // how deeply a guest's calls may be nested
	LimitResponse    = "response"    // the node's limit on responses, and those on their headers
	LimitConcurrency = "concurrency" // limits.concurrency
	LimitNodeMemory  = "node-memory" // the node's memory for all guests together
	LimitRate        = "rate"        // limits.rate

	LimitNodeProcessor = "node-processor" // guests that compute on the node at once: its adaptive limit
)

func limits() []string {
	return []string{LimitTimeout, LimitFuel, LimitMemory, LimitDepth, LimitResponse, LimitConcurrency, LimitNodeMemory, LimitRate, LimitNodeProcessor}
}

// limitOf returns the limit that a request failed for; "" = none. busy is the last refusal of a node that
// was overloaded, if there was one.
func limitOf(err error, busy *perigee.HopError) string {
	var (
		guest *GuestError
		hop   *perigee.HopError
		no    *refusedError
	)
	switch {
	case errors.As(err, &guest):
		switch guest.Kind {
		case FaultDeadline:
			return LimitTimeout
		case FaultFuel:
			return LimitFuel
		case FaultMemory:
			return LimitMemory
		case FaultTooLarge:
			return LimitResponse
		}
		return guest.Limit
	case errors.As(err, &no):
		if no.Cause == placement.CauseAllTried && busy != nil {
			return capacity(busy)
		}
	case errors.As(err, &hop):
		switch hop.Code {
		case perigee.RefusedOverloaded:
			return capacity(hop)
		case perigee.RefusedDeadline:
			return LimitTimeout
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return LimitTimeout
	}
	return ""
}

// capacity returns what a node that refused ran out of. One that says nothing has compared its load with
// its slots.
func capacity(e *perigee.HopError) string {
	if e.Limit == LimitNodeMemory || e.Limit == LimitNodeProcessor {
		return e.Limit
	}
	return LimitConcurrency
}

// explain adds to a refusal which limit it is for, and what to change.
func (pr *problem) explain(limit string, fn *perigee.Function) {
	switch limit {
	case LimitConcurrency:
		pr.hint = "Try again in a moment. As many requests run as limits.concurrency allows on a node: raise it, or add a node that may run it."
		if n := fn.Live.Manifest.Limits.Concurrency; n > 0 && pr.rule == "" {
			pr.rule = fmt.Sprintf("concurrency = %d", n)
		}
	case LimitNodeMemory:
		pr.hint = "Try again in a moment. The memory that a node has for functions is taken: lower limits.memory, or add memory or a node."
	case LimitNodeProcessor:
		pr.hint = "Try again in a moment. The processors have more to compute than they can: let the function do less, or add a node that may run it."
	}
}

// knownLimit reports whether a word of another node is a limit of this release.
func knownLimit(s string) bool {
	for _, l := range limits() {
		if s == l {
			return true
		}
	}
	return false
}
