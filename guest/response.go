package guest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// sink is where a response goes: the host, or a test.
type sink interface {
	// head is called once, before the first body.
	head(status int, header http.Header)
	// body takes the next piece; an empty one asks the host to send what it has.
	body(p []byte)
	// trailer is called last, if there are any.
	trailer(h http.Header)
}

// bufferSize is how much of a response is gathered before the host is called: calls are cheap, but a
// template writes many small pieces.
const bufferSize = 4 << 10

// response is the handler's http.ResponseWriter. It behaves as net/http's does; what it leaves to
// the host are lengths and the Date.
type response struct {
	out    sink
	live   http.Header // the handler's
	header http.Header // a copy made by WriteHeader; nil before
	status int
	buf    []byte

	trailers []string // announced in the header Trailer

	sent   bool // out has the head
	passed bool // the next handler has answered instead
}

func newResponse(out sink) *response {
	return &response{out: out, live: http.Header{}}
}

// Header returns the headers that the first WriteHeader or Write sends. Trailers are set in it as
// net/http documents: announced in the header Trailer, or with http.TrailerPrefix.
func (w *response) Header() http.Header { return w.live }

// WriteHeader fixes status and headers. Informational codes are ignored: the ABI can't carry them.
func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("guest: invalid status code %d: use 200 to 599", status))
	}
	if w.header != nil || status < 200 {
		return
	}
	w.status, w.header = status, make(http.Header, len(w.live)+1)
	for name, values := range w.live {
		if name != "Trailer" && !strings.HasPrefix(name, http.TrailerPrefix) {
			w.header[name] = slices.Clone(values)
		}
	}
	for _, line := range w.live["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			w.trailers = append(w.trailers, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
}

// Write sends p as the next part of the body, perhaps later: see Flush.
func (w *response) Write(p []byte) (int, error) {
	if w.passed {
		return 0, errPassed
	}
	w.WriteHeader(http.StatusOK)
	if w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	if len(w.buf)+len(p) > bufferSize {
		w.drain()
	}
	if len(p) < bufferSize {
		if w.buf == nil {
			w.buf = make([]byte, 0, bufferSize)
		}
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	w.sendHead(p)
	w.out.body(p)
	return len(p), nil
}

// WriteString is Write for strings.
func (w *response) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// Flush sends what was written so far on its way to the client.
func (w *response) Flush() {
	if w.passed {
		return
	}
	w.WriteHeader(http.StatusOK)
	w.drain()
	w.sendHead(nil)
	w.out.body(nil)
}

// FlushError is Flush for http.ResponseController.
func (w *response) FlushError() error {
	w.Flush()
	return nil
}

// finish sends the rest after the handler has returned.
func (w *response) finish() {
	if w.passed {
		return
	}
	w.WriteHeader(http.StatusOK)
	w.drain()
	w.sendHead(nil)
	var trailer http.Header
	add := func(name string, values []string) {
		if trailer == nil {
			trailer = http.Header{}
		}
		trailer[name] = values
	}
	for name, values := range w.live {
		if t, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(http.CanonicalHeaderKey(t), values)
		} else if slices.Contains(w.trailers, name) {
			add(name, values)
		}
	}
	if trailer != nil {
		w.out.trailer(trailer)
	}
}

// errPassed is the error of a write to a response that the next handler has sent.
var errPassed = errors.New("guest: the next handler has answered this request")

func (w *response) drain() {
	if len(w.buf) == 0 {
		return
	}
	w.sendHead(w.buf)
	w.out.body(w.buf)
	w.buf = w.buf[:0]
}

// sendHead sends status and headers once. piece is the beginning of the body, from which a missing
// Content-Type is guessed.
func (w *response) sendHead(piece []byte) {
	if w.sent {
		return
	}
	w.sent = true
	_, typed := w.header["Content-Type"]
	if !typed && len(piece) > 0 && first(w.header["Content-Encoding"]) == "" {
		w.header["Content-Type"] = []string{contentType(piece)}
	}
	w.out.head(w.status, w.header)
}
