package edgeproxy

import (
	"context"
	"errors"
	"net/http"

	"github.com/perigee-edge/perigee"
)

// maxTries bounds the nodes that one request is sent to.
const maxTries = 4

// errLost says that a node failed after it had taken a request: its guest may have run.
var errLost = errors.New("the node was lost before it answered")

// attempt is a try that failed, with all that decides whether another may follow.
type attempt struct {
	err        error
	tries      int  // made so far, this one included
	started    bool // the client has the head of a response
	idempotent bool // to run twice is to run once
	hasBody    bool
	body       bodyState
}

// mayRetry is the one place that decides whether a request that failed on one node may be sent to
// the next. The guest must not have been started, or starting it again must do no harm; what was
// sent must be there to be sent again; and a failure that would be the same elsewhere is final.
func mayRetry(a attempt) bool {
	var (
		guest *GuestError
		hop   *perigee.HopError
	)
	switch {
	case a.started, a.tries >= maxTries:
		return false
	case a.body == bodyGone, a.body == bodyFailed:
		return false
	case errors.As(a.err, &guest):
		return false
	case errors.As(a.err, &hop) && hop.Code == perigee.RefusedSilent:
		// It may have started, and its word that it did was lost. A body is sent only after that word,
		// so a guest that waits for one has done nothing yet.
		return a.idempotent || a.hasBody
	case errors.As(a.err, &hop):
		return hop.Code != perigee.RefusedDeadline
	case errors.Is(a.err, context.Canceled), errors.Is(a.err, context.DeadlineExceeded):
		return false
	case errors.Is(a.err, errLost):
		return a.idempotent
	}
	return false
}

// isRefused reports whether a node said itself that it did not start a request. Trying the next costs no
// more than a word, so it is not one of the retries that are budgeted; maxTries bounds it.
func isRefused(err error) bool {
	hop := (*perigee.HopError)(nil)
	if !errors.As(err, &hop) {
		return false
	}
	switch hop.Code {
	case perigee.RefusedOverloaded, perigee.RefusedDraining, perigee.RefusedNotHere, perigee.RefusedNotAllowed:
		return true
	}
	return false
}

// isIdempotent reports whether a request may run twice: by its method (RFC 9110, section 9.2.2), or
// because its client says that the function recognises repetitions.
func isIdempotent(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("Idempotency-Key") != ""
}
