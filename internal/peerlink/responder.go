package peerlink

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/perigee-edge/perigee"
)

// Responder is the http.ResponseWriter of this package's handlers. A handler of hops asserts that
// its ResponseWriter has the methods it needs. Flush and the methods of http.ResponseController
// work too. Of informational (1xx) responses Early Hints are sent, maxHints of them at most.
type Responder interface {
	http.ResponseWriter

	// Accept tells the requester that the request is about to start, and what load this node has
	// now; the zero Load reports nothing. The first Write, or the first read of the request's
	// body, accepts with the zero Load if nothing did before. Later calls do nothing.
	Accept(perigee.Load)

	// Refuse tells the requester that the request was not started. Nothing else is sent after it.
	// limit says what this node ran out of; "" = nothing to say. It does nothing after Accept.
	Refuse(code perigee.RefuseCode, l perigee.Load, limit string)

	// SetLoad sets the load that is reported with the end of the response.
	SetLoad(perigee.Load)
}

// maxHints is how many informational responses a handler may send: older requesters skip 16 frames in a row.
const maxHints = 8

var (
	errRefused = errors.New("the request was refused; nothing can be sent after that")
	errOver    = errors.New("the response has ended")
)

// responder writes the response direction of a stream. The body of the request calls it too, maybe
// from another goroutine, so all of it is guarded by mu.
type responder struct {
	st          *quic.Stream
	answerFirst bool // the requester waits for accepted or refused
	holdsBody   bool // and has a body to send then
	headOnly    bool // the method is HEAD
	hold        bool // the requester waits until the body is wanted
	header      http.Header

	mu       sync.Mutex
	w        frameWriter
	wanted   bool // the body is
	hints    int
	answered bool // accepted or refused was said, or need not be
	refused  bool
	over     bool
	status   int   // 0 until the head is written
	sizeAt   int   // where the size stands in the head, which is still held back; 0 = it has left or has a size
	promised int64 // the size in the head; -1 = none
	written  int64 // bytes of body
	trailers []string
	load     perigee.Load
	held     *time.Timer // sends accepted; nil = it has left, or was not said
}

// acceptHeld is how long accepted is held back if the requester has nothing to send after it. Most guests
// answer within that time, and one packet carries both.
const acceptHeld = time.Millisecond

func newResponder(st *quic.Stream, flags uint64, headOnly bool) *responder {
	answerFirst := flags&flagAnswerFirst != 0
	return &responder{
		st: st, w: frameWriter{w: st}, header: make(http.Header),
		answerFirst: answerFirst, holdsBody: flags&flagNoBody == 0, answered: !answerFirst, headOnly: headOnly, promised: -1,
	}
}

// Accept implements Responder.
func (w *responder) Accept(l perigee.Load) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answered {
		return
	}
	if w.accept(l); w.holdsBody {
		_ = w.w.flush() // the next write fails too, and is told
		return
	}
	w.held = time.AfterFunc(acceptHeld, w.release)
}

// release sends what is held back.
func (w *responder) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.sizeAt = 0
		_ = w.w.flush() // the next write fails too, and is told
	}
}

// unhold ends the time in which accepted is held back.
func (w *responder) unhold() {
	if w.held != nil {
		w.held.Stop()
	}
}

func (w *responder) accept(l perigee.Load) {
	w.answered = true
	w.w.frame(frameAccepted, func(b []byte) []byte {
		b = appendLoad(b, l)
		if w.hold {
			b = append(b, 1)
		}
		return b
	})
}

// acceptForBody makes the requester send the body.
func (w *responder) acceptForBody() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refused {
		return errRefused
	}
	if w.answered && (w.wanted || !w.hold) {
		return nil
	}
	if !w.answered {
		w.accept(perigee.Load{})
	}
	if w.hold && !w.wanted {
		w.wanted = true
		w.interim(http.StatusContinue, nil)
	}
	return streamErr(w.w.flush())
}

func (w *responder) interim(status int, h http.Header) {
	w.w.frame(frameInterim, func(b []byte) []byte { return appendFields(quicvarint.Append(b, uint64(status)), h) })
}

// hint sends Early Hints, if they can be sent: they are worth no error.
func (w *responder) hint() {
	if w.refused || w.over || w.status != 0 || w.hints >= maxHints || checkFields(w.header, 0) != nil {
		return
	}
	w.hints++
	if !w.answered {
		w.accept(perigee.Load{})
	}
	w.interim(http.StatusEarlyHints, w.header)
	_ = w.w.flush() // the next write fails too, and is told
}

// Refuse implements Responder.
func (w *responder) Refuse(code perigee.RefuseCode, l perigee.Load, limit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.answered && w.answerFirst || w.status != 0 || w.over {
		return
	}
	w.answered, w.refused, w.over = true, true, true
	w.w.frame(frameRefused, func(b []byte) []byte {
		return appendString(appendLoad(append(b, byte(refuseReset(code))), l), limit)
	})
	if w.w.flush() == nil {
		_ = w.st.Close() // fails only if the requester has gone
	}
}

// SetLoad implements Responder.
func (w *responder) SetLoad(l perigee.Load) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.load = l
}

// Header implements http.ResponseWriter.
func (w *responder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *responder) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("peerlink: status %d is not one of HTTP", status))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case status == http.StatusEarlyHints:
		w.hint()
	case status >= 200:
		_ = w.writeHead(status) // the next write fails too, and is told
	}
}

// writeHead appends the head. It leaves with the first bytes that are flushed.
func (w *responder) writeHead(status int) error {
	switch {
	case w.refused:
		return errRefused
	case w.over:
		return errOver
	case w.status != 0:
		return nil
	}
	if !w.answered {
		w.accept(perigee.Load{})
		_ = w.w.flush() // a handler may write slowly; an error comes again with the next write
	}
	w.status = status
	size, err := bodySize(w.header)
	if err == nil {
		err = checkFields(w.header, 0)
	}
	if err != nil {
		w.w.drop()
		w.reset(ResetInternal)
		return fmt.Errorf("response head: %w", err)
	}
	for _, v := range w.header["Trailer"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); trailerAllowed(name) {
				w.trailers = append(w.trailers, name)
			}
		}
	}
	w.promised = size
	head := responseHead{status: status, size: size, header: w.header}
	w.w.frame(frameResponse, func(b []byte) []byte {
		b, w.sizeAt = head.append(b)
		return b
	})
	if size >= 0 || !bodyAllowed(status) || len(w.trailers) > 0 {
		w.sizeAt = 0
	}
	return nil
}

// Write implements http.ResponseWriter. Up to 16 KiB are held back until Flush or the end.
func (w *responder) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 || w.refused || w.over {
		if err := w.writeHead(http.StatusOK); err != nil {
			return 0, err
		}
	}
	if !bodyAllowed(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.promised >= 0 && w.written+int64(len(p)) > w.promised {
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if w.headOnly {
		return len(p), nil
	}
	n, err := w.w.data(p)
	if w.written >= dataChunk { // the head has left
		w.sizeAt = 0
	}
	return n, streamErr(err)
}

// Flush implements http.Flusher.
func (w *responder) Flush() { _ = w.FlushError() }

// FlushError sends what Write held back. http.ResponseController calls it.
func (w *responder) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.writeHead(http.StatusOK); err != nil {
		return err
	}
	w.sizeAt = 0
	return streamErr(w.w.flush())
}

// SetReadDeadline is called by http.ResponseController.
func (w *responder) SetReadDeadline(t time.Time) error { return w.st.SetReadDeadline(t) }

// SetWriteDeadline is called by http.ResponseController.
func (w *responder) SetWriteDeadline(t time.Time) error { return w.st.SetWriteDeadline(t) }

// EnableFullDuplex is called by http.ResponseController. Reading and writing at once is always allowed.
func (w *responder) EnableFullDuplex() error { return nil }

// finish sends the rest after the handler has returned.
func (w *responder) finish() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	w.unhold()
	if err := w.writeHead(http.StatusOK); err != nil {
		return err
	}
	if w.promised > w.written && !w.headOnly && bodyAllowed(w.status) {
		return fmt.Errorf("the handler wrote %d bytes of the %d it announced", w.written, w.promised)
	}
	w.writeEnd()
	if err := w.w.flush(); err != nil {
		return streamErr(err)
	}
	w.over = true
	return streamErr(w.st.Close())
}

// writeEnd appends trailers and load, or fills in the size of a body that is all here.
func (w *responder) writeEnd() {
	trailer := w.trailer()
	if len(trailer) == 0 && w.sizeAt > 0 && (!w.headOnly || w.written > 0) {
		patchSize(*w.w.buf, w.sizeAt, w.written)
	}
	if len(trailer) > 0 || w.load != (perigee.Load{}) {
		w.w.frame(frameEnd, func(b []byte) []byte { return appendFields(appendLoad(b, w.load), trailer) })
	}
}

// trailer returns the header fields that the handler set as trailers, none if they can't be sent.
func (w *responder) trailer() http.Header {
	var t http.Header
	for name, values := range w.header {
		bare, prefixed := strings.CutPrefix(name, http.TrailerPrefix)
		if prefixed {
			bare = textproto.CanonicalMIMEHeaderKey(bare)
		}
		if (prefixed || slices.Contains(w.trailers, name)) && trailerAllowed(bare) {
			if t == nil {
				t = http.Header{}
			}
			t[bare] = values
		}
	}
	if checkFields(t, 0) != nil {
		return nil
	}
	return t
}

// abort resets the stream unless the response was finished.
func (w *responder) abort(code ResetCode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.unhold()
		w.w.drop()
		w.reset(code)
	}
}

func (w *responder) reset(code ResetCode) {
	w.over = true
	resetStream(w.st, code)
}
