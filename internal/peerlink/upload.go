package peerlink

import (
	"errors"
	"io"
	"net/http"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// send starts copying the request's body.
func (x *exchange) send(r *http.Request) {
	x.hold(r)
	x.goOn()
}

// hold keeps the request's body for goOn.
func (x *exchange) hold(r *http.Request) {
	if !hasBody(r) {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held, x.upload = r, r.Body
}

// goOn starts copying the body that was held, if the exchange has not ended.
func (x *exchange) goOn() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if r := x.held; r != nil && x.upload != nil {
		go x.copyBody(r)
	}
	x.held = nil
}

func (x *exchange) copyBody(r *http.Request) {
	err := x.copyFrames(r)
	x.mu.Lock()
	x.upload = nil
	x.mu.Unlock()
	_ = r.Body.Close()
	var stopped *quic.StreamError
	switch {
	case err == nil:
		_ = x.st.Close()
	case errors.As(err, &stopped) && stopped.Remote:
		// The worker needs no more, or reset both directions: the response tells which.
	default:
		x.reset(ResetCanceled)
	}
}

func (x *exchange) copyFrames(r *http.Request) error {
	w := frameWriter{w: x.st}
	defer w.drop()
	promised := int64(-1)
	if r.ContentLength > 0 {
		promised = r.ContentLength
	}
	for total := int64(0); ; {
		n, err := r.Body.Read(w.room())
		if total += int64(n); promised >= 0 && (total > promised || err == io.EOF && total < promised) {
			return errors.New("the request's body has another length than announced")
		}
		if werr := w.grow(n); werr != nil {
			return werr
		}
		if err == io.EOF {
			break
		}
		if err == nil {
			err = w.flush()
		}
		if err != nil {
			return err
		}
	}
	if trailer := r.Trailer; len(trailer) > 0 && checkFields(trailer, 0) == nil {
		w.frame(frameEnd, func(b []byte) []byte { return appendFields(appendLoad(b, perigee.Load{}), trailer) })
	}
	return w.flush()
}
