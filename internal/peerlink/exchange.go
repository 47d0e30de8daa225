package peerlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// exchange is the requester's side of one stream, and the body of its response. Read is for one
// goroutine; Close may be called from another.
type exchange struct {
	st   *quic.Stream
	ctx  context.Context
	conn *conn
	stop func() bool // ends the watch on ctx

	fr     frameReader
	resp   *http.Response
	remain int64 // bytes that the response's size still promises; -1 = no promise
	err    error // what Read returns from now on
	early  int   // interim frames read

	over atomic.Bool // the requester is done with the stream

	mu      sync.Mutex
	load    perigee.Load // the worker's last word
	hasLoad bool
	upload  io.Closer     // the request's body while it is copied, or waits
	held    *http.Request // whose body waits until the worker wants it
}

var errBodyClosed = errors.New("read of a closed response body")

// answer is what the worker said first.
type answer struct {
	refused bool
	code    ResetCode
	load    perigee.Load
	limit   string // what the worker ran out of; "" = it did not say
	holds   bool   // the worker says when it wants the body
}

// startExchange sends the head of a request on a new stream of c, and the end of the stream if the
// request has no body. Sending and the wait for an answer must end before the deadline, unless it
// is zero. After an error the peer can't have started the request, since its head is incomplete.
func startExchange(ctx context.Context, c *conn, head *requestHead, deadline time.Time) (*exchange, error) {
	st, err := c.openStream(ctx, !deadline.IsZero())
	if err != nil {
		return nil, err
	}
	x := &exchange{st: st, ctx: ctx, conn: c, remain: -1, stop: func() bool { return true }}
	if err := head.setTimeout(ctx); err != nil {
		x.abort(ResetCanceled)
		return nil, err
	}
	if !deadline.IsZero() {
		_ = st.SetDeadline(deadline) // never fails
	}
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, func() { x.reset(ResetCanceled) })
	}
	w := frameWriter{w: st}
	w.frame(frameRequest, head.append)
	if err := w.flush(); err != nil {
		x.abort(ResetCanceled)
		return nil, err
	}
	if head.flags&flagNoBody != 0 {
		_ = st.Close() // fails only if the peer reset the stream, which the reader will see
	}
	x.fr = newFrameReader(st)
	return x, nil
}

// newRequestHead describes a request and checks it by the receiver's rules.
func newRequestHead(r *http.Request, flags uint64) (*requestHead, error) {
	h := &requestHead{flags: flags, size: -1, method: r.Method, authority: r.Host, target: r.URL.RequestURI(), header: r.Header}
	if h.method == "" {
		h.method = http.MethodGet
	}
	if h.authority == "" {
		h.authority = r.URL.Host
	}
	switch {
	case !hasBody(r):
		h.flags |= flagNoBody
		h.size = 0
	case r.ContentLength > 0:
		h.size = r.ContentLength
	}
	if len(r.Trailer) > 0 && len(r.Header["Trailer"]) == 0 {
		h.header = http.Header{"Trailer": nil}
		maps.Copy(h.header, r.Header)
		for name := range r.Trailer {
			h.header["Trailer"] = append(h.header["Trailer"], name)
		}
	}
	if !validToken(h.method) || h.method == http.MethodConnect || !validAuthority(h.authority) || !validValue(h.target) {
		return nil, fmt.Errorf("request %.20q %.80q %.80q can't be sent to a peer", h.method, h.authority, h.target)
	}
	return h, checkFields(h.header, len(h.method)+len(h.authority)+len(h.target))
}

// setTimeout tells the worker how long the requester will still wait.
func (h *requestHead) setTimeout(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	if h.timeout = time.Until(deadline); h.timeout <= 0 {
		return context.DeadlineExceeded
	}
	h.timeout = max(h.timeout, time.Microsecond) // 0 says that there is no limit
	return nil
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// A wait that ends this much late was held up here: the process was stopped or starved, and the
// answer may be in the socket's buffer. It is then extended, a few times at most.
const (
	lateEnd       = 50 * time.Millisecond
	maxExtensions = 3
)

// answer waits, until the deadline given to startExchange, for the worker's accepted or refused.
func (x *exchange) answer(deadline time.Time, wait time.Duration) (answer, error) {
	for range maxExtensions {
		_, err := x.fr.br.Peek(1)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(deadline) < lateEnd {
			break // next returns the same
		}
		deadline = time.Now().Add(wait)
		_ = x.st.SetDeadline(deadline) // never fails
	}
	t, size, err := x.fr.next()
	if err != nil {
		return answer{}, midFrame(err)
	}
	if t != frameAccepted && t != frameRefused {
		return answer{}, malformed("frame type %#02x before accepted", byte(t))
	}
	payload, err := x.fr.payload(size)
	if err != nil {
		return answer{}, err
	}
	_ = x.st.SetDeadline(time.Time{}) // never fails
	return x.decodeAnswer(t, payload)
}

func (x *exchange) decodeAnswer(t frameType, payload string) (answer, error) {
	c := cursor{s: payload}
	a := answer{refused: t == frameRefused}
	if a.refused {
		a.code = ResetCode(c.uint())
	}
	a.load = c.load()
	a.holds = !a.refused && strings.HasPrefix(c.s, "\x01")
	if a.refused && c.s != "" { // older releases do not say
		a.limit = c.str()
	}
	x.setLoad(a.load)
	return a, c.err
}

// Close gives up the rest of the response.
func (x *exchange) Close() error {
	x.abort(ResetCanceled)
	return nil
}

// fail ends the exchange after err and returns what the caller should see. Only the reading
// goroutine calls it.
func (x *exchange) fail(err error) error {
	x.fr.release()
	canceled := x.ctx.Err() != nil
	var fe *formatError
	if errors.As(err, &fe) {
		x.abort(fe.code)
	} else {
		x.abort(ResetCanceled)
	}
	if canceled {
		return context.Cause(x.ctx)
	}
	return streamErr(err)
}

// abort resets what is unfinished and ends the exchange.
func (x *exchange) abort(code ResetCode) {
	if !x.over.Load() {
		x.reset(code)
	}
	x.end()
}

func (x *exchange) reset(code ResetCode) {
	x.st.CancelWrite(quic.StreamErrorCode(code))
	x.st.CancelRead(quic.StreamErrorCode(code))
}

// end releases what the exchange holds. The body of the request, if it is still being copied, is
// closed in a goroutine, since the Close of some bodies waits for their Read.
func (x *exchange) end() {
	if x.over.Swap(true) {
		return
	}
	x.stop()
	x.mu.Lock()
	upload := x.upload
	x.upload = nil
	x.mu.Unlock()
	if upload != nil {
		x.st.CancelWrite(quic.StreamErrorCode(ResetNone))
		go func() { _ = upload.Close() }()
	}
	x.conn.closeStream()
}

func (x *exchange) setLoad(l perigee.Load) {
	if l == (perigee.Load{}) {
		return
	}
	x.mu.Lock()
	x.load, x.hasLoad = l, true
	x.mu.Unlock()
}
