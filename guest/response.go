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
	// head is called once, before the first body, and then field for each of its fields. The type of the
	// content may come as a field later, just before the first body.
	head(status int)
	field(name string, values []string)
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
	header http.Header // the handler's
	status int         // 0 = not written yet
	typed  bool        // the content has a type, or an encoding that hides it
	buf    []byte

	trailers []string // announced in the header Trailer

	begun  bool // out has some of the body, or will have none
	passed bool // the next handler has answered instead
}

func (w *response) init(out sink) {
	w.out, w.header = out, make(http.Header, 8)
	w.header["Made"] = nil // a map takes its memory with the first
	delete(w.header, "Made")
}

// spare is a buffer that no response has: nearly always the one of a module, which has one request at a
// time.
var spare []byte

// Header returns the headers that the first WriteHeader or Write sends. Trailers are set in it as
// net/http documents: announced in the header Trailer, or with http.TrailerPrefix.
func (w *response) Header() http.Header { return w.header }

// WriteHeader fixes status and headers. Informational codes are ignored: the ABI can't carry them.
func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("guest: invalid status code %d: use 200 to 599", status))
	}
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	w.out.head(status)
	for name, values := range w.header {
		switch {
		case name == "Trailer" || strings.HasPrefix(name, http.TrailerPrefix):
			continue
		case name == "Content-Type" || name == "Content-Encoding" && first(values) != "":
			w.typed = true
		}
		w.out.field(name, values)
	}
	for _, line := range w.header["Trailer"] {
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
			if w.buf, spare = spare, nil; w.buf == nil {
				w.buf = make([]byte, 0, bufferSize)
			}
		}
		w.buf = append(w.buf, p...)
		return len(p), nil
	}
	w.send(p)
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
	w.begun = true
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
	if w.buf != nil {
		spare, w.buf = w.buf, nil
	}
	if len(w.header) == 0 {
		return
	}
	var trailer http.Header
	add := func(name string, values []string) {
		if trailer == nil {
			trailer = http.Header{}
		}
		trailer[name] = values
	}
	for name, values := range w.header {
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
	w.send(w.buf)
	w.buf = w.buf[:0]
}

// send hands a piece of the body on. From the first one a missing Content-Type is guessed.
func (w *response) send(piece []byte) {
	if !w.begun && !w.typed && len(piece) > 0 {
		w.out.field("Content-Type", []string{contentType(piece)})
	}
	w.begun = true
	w.out.body(piece)
}
