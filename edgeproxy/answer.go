package edgeproxy

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// answer is the response to one client, as the code that writes it sees it. It adds the receipt,
// drops fields that are not the writer's to set, moves the write deadline, and flushes what has no
// known length. It is for one goroutine.
type answer struct {
	w    http.ResponseWriter
	head bool // the request's method is HEAD

	of     *visit
	stall  *stall
	altSvc string // "" = none

	seen func(status int, h http.Header) // called with the writer's head before it is cleaned; nil = nobody wants it

	rate, ratePolicy string // what is left of the client's quota, and the quota; "" = there is none

	last bool // the connection ends after this (HTTP/1)

	up      *upgrade // nil = the client did not ask for another protocol
	tunnels *tunnels

	encoders *encoders   // nil = bodies go as they are
	asked    http.Header // of the request
	metrics  *Metrics
	coding   coding
	encoder  bodyEncoder // nil = the body goes as it is

	hints    int   // informational responses that were sent
	status   int   // 0 = the head is not written
	bodiless bool  // the response has no body: HEAD, 204, 304
	promised int64 // Content-Length; -1 = not known
	sent     int64 // bytes of the body, before it is encoded
	wire     int64 // those that left
	bad      error // why the writer's head was refused
}

// maxHints is how many informational responses a client gets: clients bound them, too.
const maxHints = 4

var (
	errBadStatus   = &GuestError{Kind: FaultBad, Detail: "its status is not between 200 and 599"}
	errBadLength   = &GuestError{Kind: FaultBad, Detail: "its Content-Length is no number"}
	errNotSwitched = errors.New("the function answered a WebSocket handshake without changing the protocol")
	errTooLong     = errors.New("the response has more bytes than its Content-Length says")
)

// Header returns the header fields of the response.
func (a *answer) Header() http.Header { return a.w.Header() }

// WriteHeader writes the head. Of informational responses only Early Hints (RFC 8297) go on.
func (a *answer) WriteHeader(status int) {
	if status == http.StatusEarlyHints && a.status == 0 && a.bad == nil && a.hints < maxHints {
		a.hints++
		cleanResponse(a.w.Header())
		a.w.WriteHeader(status)
		return
	}
	if a.status != 0 || a.bad != nil || status >= 100 && status < 200 && !a.switches(status) {
		return
	}
	h := a.w.Header()
	if a.seen != nil {
		a.seen(status, h)
	}
	cleanResponse(h)
	if a.switches(status) {
		a.changeProtocol(h)
		return
	}
	if a.bad = a.checkHead(status, h); a.bad != nil {
		return
	}
	if announced, ok := h["Trailer"]; ok {
		setOrDelete(h, "Trailer", allowedTrailers(announced))
	}
	a.encode(status, h)
	if s := a.of.formatReceipt(); s != "" {
		h[ReceiptHeader] = []string{s}
	}
	if s := a.of.formatTiming(); s != "" {
		h[headerTiming] = append(slices.Clip(h[headerTiming]), s)
	}
	if a.altSvc != "" {
		h["Alt-Svc"] = []string{a.altSvc}
	}
	if a.rate != "" {
		h["Ratelimit"] = append(slices.Clip(h["Ratelimit"]), a.rate)
		h["Ratelimit-Policy"] = append(slices.Clip(h["Ratelimit-Policy"]), a.ratePolicy)
	}
	if a.last {
		h["Connection"] = []string{"close"}
	}
	a.status = status
	a.w.WriteHeader(status)
	a.of.body.settled()
}

// switches reports whether a status says that the protocol changes as the client asked.
func (a *answer) switches(status int) bool {
	return status == http.StatusSwitchingProtocols && a.up != nil
}

// changeProtocol writes the head of a response after which bytes go both ways.
func (a *answer) changeProtocol(h http.Header) {
	if s := a.of.formatReceipt(); s != "" {
		h[ReceiptHeader] = []string{s}
	}
	u := a.up
	a.status, a.promised = http.StatusSwitchingProtocols, -1
	u.tunnel.send = func(p []byte) (int, error) {
		n, err := a.writePieces(p)
		if err == nil {
			err = a.flush()
		}
		return n, err
	}
	a.metrics.webSockets.Inc()
	u.idle = time.AfterFunc(u.limit, u.tunnel.goAway)
	u.lift()
	u.tunnel.mu.Lock() // the server may already want to say that it goes
	if a.w, a.bad = u.open(a.w); a.bad == nil {
		a.bad = a.flush()
	}
	u.tunnel.mu.Unlock()
	a.tunnels.add(&u.tunnel)
	a.of.body.settled()
}

// checkHead checks what net/http would send as it is, or panic about.
func (a *answer) checkHead(status int, h http.Header) error {
	if status < 200 || status > 599 {
		return errBadStatus
	}
	if a.up != nil && a.up.key == "" && status < 300 {
		return errNotSwitched // to an extended CONNECT that would say that the protocol has changed
	}
	noBody := status == http.StatusNoContent || status == http.StatusNotModified
	a.promised = -1
	if v, ok := h["Content-Length"]; ok {
		n, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil || len(v) > 1 {
			return errBadLength
		}
		a.promised = int64(n)
	}
	if status == http.StatusNoContent {
		delete(h, "Content-Length")
	}
	a.bodiless = a.head || noBody
	return nil
}

// Write writes a part of the body. Without a Content-Length it goes to the client at once.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	switch {
	case a.bad != nil:
		return 0, a.bad
	case a.bodiless:
		return len(p), nil
	case a.status == http.StatusSwitchingProtocols:
		n, err := a.up.tunnel.Write(p)
		a.sent += int64(n)
		a.up.moved()
		return n, err
	case a.promised >= 0 && a.sent+int64(len(p)) > a.promised:
		return 0, errTooLong
	}
	to := io.Writer(wire{a})
	if a.encoder != nil {
		to = a.encoder
	}
	n, err := to.Write(p)
	a.sent += int64(n)
	if err == nil && a.promised < 0 {
		err = a.flush()
	}
	return n, err
}

// pieceSize is how much a slow client must take within the stall timeout.
const pieceSize = 64 << 10

// writePieces moves the write deadline before each piece: a large Write of a guest may take its time.
func (a *answer) writePieces(p []byte) (n int, err error) {
	for {
		piece := p[n:min(len(p), n+pieceSize)]
		a.stall.beforeWrite(len(piece))
		wrote, err := a.w.Write(piece)
		a.stall.afterWrite(false)
		a.wire += int64(wrote)
		if n += wrote; err != nil || n >= len(p) {
			return n, err
		}
	}
}

// Flush sends what was written so far.
func (a *answer) Flush() { _ = a.FlushError() } // the next Write has the error

// FlushError sends what was written so far, the head at least.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.bad != nil || a.status == http.StatusSwitchingProtocols { // then each Write flushes
		return a.bad
	}
	return a.flush()
}

func (a *answer) flush() error {
	if a.encoder != nil && a.sent > 0 {
		if err := a.encoder.Flush(); err != nil {
			return err
		}
	}
	a.stall.beforeWrite(h2Buffer)
	defer a.stall.afterWrite(true)
	switch f := a.w.(type) {
	case interface{ FlushError() error }:
		return f.FlushError()
	case http.Flusher:
		f.Flush()
	}
	return nil
}

// Report implements Reporter.
func (a *answer) Report(r Result) { a.of.report(r) }

// started reports whether the client may have seen something.
func (a *answer) started() bool { return a.status != 0 }

// reset forgets a head that was prepared and not written.
func (a *answer) reset() {
	clear(a.w.Header())
	a.bad = nil
}

// short reports whether the body has fewer bytes than the head promised.
func (a *answer) short() bool { return !a.bodiless && a.promised > a.sent }
