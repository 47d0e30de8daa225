package peerlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"
)

// serveStream reads the first frame of a stream that a peer opened and runs what it asks for.
func (l *Link) serveStream(in *inbound, st *quic.Stream) {
	if l.leaving.Load() {
		resetStream(st, ResetDraining)
		return
	}
	if l.moved.Load() {
		resetStream(st, ResetMoved)
		return
	}
	_ = st.SetReadDeadline(time.Now().Add(l.cfg.HeadTimeout)) // never fails
	fr := newFrameReader(st)
	t, payload, err := firstFrame(&fr)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		resetStream(st, ResetTimeout)
	case err != nil:
		resetStream(st, resetCodeOf(err))
	case t == frameRaw && in.proto == protoControl:
		l.serveRaw(in, st, fr, payload)
		return
	case t == frameRequest && in.handler != nil:
		l.serveRequest(in, st, fr, payload)
		return
	default:
		resetStream(st, ResetProtocol)
	}
	fr.release()
}

func firstFrame(fr *frameReader) (frameType, string, error) {
	t, size, err := fr.next()
	if err != nil {
		return 0, "", midFrame(err)
	}
	if t == frameData {
		return 0, "", malformed("data before the head")
	}
	payload, err := fr.payload(size)
	return t, payload, err
}

func resetStream(st *quic.Stream, code ResetCode) {
	st.CancelWrite(quic.StreamErrorCode(code))
	st.CancelRead(quic.StreamErrorCode(code))
}

// serveRequest runs the handler of a connection for one request.
func (l *Link) serveRequest(in *inbound, st *quic.Stream, fr frameReader, payload string) {
	head, err := decodeRequest(payload)
	if err != nil {
		resetStream(st, resetCodeOf(err))
		fr.release()
		return
	}
	url, err := head.url()
	if err != nil {
		resetStream(st, resetCodeOf(err))
		fr.release()
		return
	}
	l.met.served[in.proto].Inc()
	// The stream's context ends when the requester resets the response, and with the connection.
	ctx := context.WithValue(st.Context(), inboundKey{}, in)
	var deadline time.Time
	if head.timeout > 0 {
		deadline = time.Now().Add(head.timeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	_ = st.SetDeadline(deadline) // never fails
	r := (&http.Request{
		Method: head.method, URL: url, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: head.header, Host: head.authority, RequestURI: head.target,
		ContentLength: head.size, RemoteAddr: in.addr, TLS: &in.tls,
		Trailer: announcedTrailer(head.header), Body: http.NoBody,
	}).WithContext(ctx)
	w := newResponder(st, head.flags, head.method == http.MethodHead)
	w.hold = head.flags&flagHold != 0
	body := &requestBody{st: st, w: w, r: r, fr: fr, remain: head.size}
	if head.flags&flagNoBody != 0 {
		r.ContentLength, body.err = 0, io.EOF
		body.fr.release() // rather than hold the buffer while the handler runs
	} else {
		r.Body = body
		if head.size >= 0 {
			r.Header["Content-Length"] = []string{strconv.FormatInt(head.size, 10)}
		}
	}
	defer func() {
		code := ResetInternal
		if ctx.Err() == context.DeadlineExceeded {
			code = ResetDeadline
		}
		w.abort(code) // unless it was finished
		body.giveUp()
	}()
	if l.runHandler(in, w, r) {
		if err := w.finish(); err != nil {
			l.log.Debug("answer not sent", "peer", string(in.claims.ID), "err", err)
		}
	}
}

// runHandler reports whether the handler returned rather than panicked.
func (l *Link) runHandler(in *inbound, w *responder, r *http.Request) (returned bool) {
	defer func() {
		if returned {
			return
		}
		if cause := recover(); cause != http.ErrAbortHandler {
			l.met.panics.Inc()
			l.log.Error("handler panicked", "peer", string(in.claims.ID), "err", fmt.Sprint(cause), "stack", string(debug.Stack()))
		}
	}()
	in.handler.ServeHTTP(w, r)
	return true
}
