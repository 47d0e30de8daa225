package edgeproxy

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
)

// early passes on the informational responses of other nodes while the head of the response is waited for. Of
// two nodes that were asked the first that says something is heard.
type early struct {
	mu     sync.Mutex // guards the rest
	answer *answer
	heard  *flight
}

// of returns a context by which the response to a flight is passed on.
func (e *early) of(ctx context.Context, f *flight) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.heard != nil && e.heard != f {
			return nil
		}
		e.heard = f
		out := e.answer.Header()
		maps.Copy(out, h)
		e.answer.WriteHeader(status)
		clear(out)
		return nil
	}})
}

const expectContinue = "100-continue"

// expecting is a response over HTTP/3 to a client that waits to be told before it sends a body (RFC 9110,
// section 10.1.1). The body may be read elsewhere than the response is written, so what the handler sets stays
// apart until the head leaves.
type expecting struct {
	http.ResponseWriter
	header http.Header // of the handler, until its head is written

	mu    sync.Mutex // guards the rest, and the writing of heads
	begun bool
}

// goOn tells the client to send the body.
func (e *expecting) goOn() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		e.ResponseWriter.WriteHeader(http.StatusContinue)
	}
}

// Header returns the header fields of the response.
func (e *expecting) Header() http.Header {
	if e.begun { // by this goroutine
		return e.ResponseWriter.Header()
	}
	return e.header
}

// WriteHeader writes a head.
func (e *expecting) WriteHeader(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun {
		return
	}
	h := e.ResponseWriter.Header()
	maps.Copy(h, e.header)
	e.begun = status >= http.StatusOK
	e.ResponseWriter.WriteHeader(status)
	if !e.begun {
		clear(h)
	}
}

// Write writes a part of the body.
func (e *expecting) Write(p []byte) (int, error) {
	e.WriteHeader(http.StatusOK)
	return e.ResponseWriter.Write(p)
}

// Flush sends what was written so far.
func (e *expecting) Flush() {
	e.WriteHeader(http.StatusOK)
	e.ResponseWriter.(http.Flusher).Flush() // as all of quic-go's
}
