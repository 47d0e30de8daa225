package abi

import (
	"fmt"
	"net/http"
	"strconv"
)

// holdBytes is how much of a body waits for more before the first byte leaves: a response that ends
// within it gets a Content-Length.
const holdBytes = 32 << 10

// Answer is the response of an exchange. The guest, and the handler it wraps, fill it; it passes on
// what is valid. Nothing reaches the client before the headers are known to be good.
type Answer struct {
	w      http.ResponseWriter
	method string
	limits Limits

	status  int
	header  Fields
	trailer Fields
	body    []byte // not sent yet
	whole   bool   // keep the body until Finish
	taken   int64  // bytes of body from the guest
	length  int64  // Content-Length as sent; -1 = none
	sent    bool   // the headers have left
	waits   bool   // there is body that was not flushed
	dropped []string
}

// NewAnswer returns the answer to a request of that method, which leaves through w.
func NewAnswer(w http.ResponseWriter, method string, l Limits) *Answer {
	return &Answer{w: w, method: method, limits: l, status: http.StatusOK, length: -1, header: NewFields(nil, l), trailer: NewFields(nil, l)}
}

// Sent reports whether the headers have left, so that no other response can be sent instead.
func (a *Answer) Sent() bool { return a.sent }

// Bytes returns how much body the answer has had.
func (a *Answer) Bytes() int64 { return a.taken }

// Header returns the headers to be sent.
func (a *Answer) Header() *Fields { return &a.header }

// Trailer returns the trailers to be sent.
func (a *Answer) Trailer() *Fields { return &a.trailer }

// Status returns the status, 200 if none was set.
func (a *Answer) Status() int { return a.status }

// SetStatus sets the status. Only codes of final responses are valid.
func (a *Answer) SetStatus(code int) error {
	if code < 200 || code > 599 {
		return &GuestError{Kind: BadResponse, Detail: fmt.Sprintf("status %d; use 200 to 599", code)}
	}
	a.status = code
	return nil
}

// Keep makes the answer keep the whole body until Finish, so that it can be read and replaced.
func (a *Answer) Keep() {
	if !a.sent {
		a.whole = true
	}
}

// Body returns the body so far, of an answer that keeps it.
func (a *Answer) Body() []byte { return a.body }

// ResetBody drops the body so far, of an answer that keeps it.
func (a *Answer) ResetBody() { a.body, a.taken = a.body[:0], 0 }

// Write adds to the body. Errors are a *GuestError for what the guest did, others for the client's
// connection.
func (a *Answer) Write(p []byte) error {
	a.taken += int64(len(p))
	if a.taken > a.limits.Response {
		return &GuestError{Kind: ResponseTooLarge, Detail: fmt.Sprintf("more than %d bytes of body", a.limits.Response)}
	}
	switch {
	case a.bodyless():
		return nil
	case len(p) > 0:
		a.waits = true
	}
	switch {
	case a.whole && int64(len(a.body)+len(p)) > a.limits.Buffer:
		return &GuestError{Kind: ResponseTooLarge, Detail: fmt.Sprintf("more than %d bytes of body while response buffering is on", a.limits.Buffer)}
	case a.whole, !a.sent && len(a.body)+len(p) <= holdBytes:
		a.body = append(a.body, p...)
		return nil
	}
	if err := a.drain(); err != nil {
		return err
	}
	return a.send(p)
}

// Waits reports whether there is body that the client may not have yet, and that Flush would send.
func (a *Answer) Waits() bool { return a.waits && !a.whole }

// Flush sends what there is on its way to the client.
func (a *Answer) Flush() error {
	if a.whole {
		return nil
	}
	a.waits = false
	if err := a.drain(); err != nil {
		return err
	}
	_ = http.NewResponseController(a.w).Flush() // not every writer can
	return nil
}

// Finish sends the rest.
func (a *Answer) Finish() error {
	a.whole = false
	if !a.sent && a.trailer.Len() == 0 {
		if err := a.commit(a.taken); err != nil {
			return err
		}
	}
	if err := a.drain(); err != nil {
		return err
	}
	if a.length >= 0 && a.taken != a.length && !a.bodyless() {
		return &GuestError{Kind: BadResponse, Detail: fmt.Sprintf("%d bytes of body after Content-Length %d", a.taken, a.length)}
	}
	if a.trailer.Len() == 0 {
		return nil
	}
	_ = http.NewResponseController(a.w).Flush() // trailers follow chunks, not a length
	for name, values := range a.clean(a.trailer.h, forbiddenTrailer) {
		a.w.Header()[http.TrailerPrefix+name] = values
	}
	return nil
}

// Dropped returns the names of headers that were not passed on, for the author's log.
func (a *Answer) Dropped() []string { return a.dropped }

// bodyless reports whether a body would not be sent.
func (a *Answer) bodyless() bool {
	return a.method == http.MethodHead || a.status == http.StatusSwitchingProtocols || a.status == http.StatusNoContent || a.status == http.StatusNotModified
}

// drain sends the body that waits, after the headers.
func (a *Answer) drain() error {
	if err := a.commit(-1); err != nil {
		return err
	}
	b := a.body
	a.body = nil
	return a.send(b)
}

func (a *Answer) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if a.length >= 0 && a.taken > a.length {
		return &GuestError{Kind: BadResponse, Detail: fmt.Sprintf("more body than Content-Length %d", a.length)}
	}
	if _, err := a.w.Write(p); err != nil {
		return fmt.Errorf("send the response: %w", err)
	}
	return nil
}

// hint sends the headers so far as Early Hints (RFC 8297).
func (a *Answer) hint() {
	out := a.w.Header()
	for name, values := range a.clean(a.header.h, forbiddenHeader) {
		out[name] = values
	}
	a.w.WriteHeader(http.StatusEarlyHints)
	clear(out)
}

// commit sends the headers, once. total is the length of the body if it is known, else -1.
func (a *Answer) commit(total int64) error {
	if a.sent {
		return nil
	}
	declared := a.declared()
	out := a.w.Header()
	for name, values := range a.clean(a.header.h, forbiddenHeader) {
		out[name] = values
	}
	switch {
	case a.status == http.StatusNoContent:
	case a.bodyless() && total <= 0: // what GET would have had, if the guest says it
		a.length = declared
	case total >= 0:
		a.length = total
	default:
		a.length = declared
	}
	if a.length >= 0 {
		out.Set("Content-Length", strconv.FormatInt(a.length, 10))
	}
	a.sent = true
	a.w.WriteHeader(a.status)
	return nil
}

// declared returns the Content-Length that the guest gave, if it is one number; else -1.
func (a *Answer) declared() int64 {
	v := a.header.Values("Content-Length")
	if len(v) != 1 {
		return -1
	}
	n, err := strconv.ParseUint(v[0], 10, 62)
	if err != nil {
		return -1
	}
	return int64(n)
}
