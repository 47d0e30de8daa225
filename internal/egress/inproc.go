package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/perigee-edge/perigee"
)

// serveFunction answers a request of one function by another, unless it goes in a circle.
func (e *Egress) serveFunction(caller, name string, w http.ResponseWriter, r *http.Request) {
	depth := perigee.DepthFrom(r.Context())
	switch {
	case e.functions == nil:
		http.Error(w, fmt.Sprintf("Function %q can't be reached from here.", name), http.StatusNotFound)
	case depth >= perigee.MaxDepth:
		http.Error(w, fmt.Sprintf("Function %q was not called: %d functions have called one another to get here, which is taken for a loop. Let one of them answer by itself.", name, depth), http.StatusLoopDetected)
	default:
		r = r.WithContext(perigee.WithCall(r.Context(), depth+1, caller))
		e.functions.ServeFunction(name, w, r)
	}
}

// errCutOff is the end of a response that a function could not finish.
var errCutOff = errors.New("the function cut off its response")

// callFunction is RoundTrip for another function. The function runs in a goroutine that ends with the
// request; bodies stream both ways.
func (t *Transport) callFunction(name string, r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	r = r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	r.URL, r.RequestURI, r.RemoteAddr = &u, u.RequestURI(), ""
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	pr, pw := io.Pipe()
	w := &inproc{header: http.Header{}, request: r, pipe: pw, head: make(chan *http.Response, 1)}
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		defer stop()
		defer r.Body.Close()
		w.end(t.runFunction(name, w, r))
	}()
	select {
	case resp := <-w.head:
		if resp == nil {
			cancel(nil)
			return nil, errCutOff
		}
		resp.Body = &functionBody{pr, cancel}
		return resp, nil
	case <-ctx.Done():
		err := context.Cause(ctx)
		cancel(err)
		return nil, err
	}
}

// runFunction runs the handler, and returns why its response is not whole.
func (t *Transport) runFunction(name string, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errCutOff
			if p != http.ErrAbortHandler {
				t.egress.log.Error("call of a function panicked", "function", name, "err", p, slog.String("stack", string(debug.Stack())))
			}
		}
	}()
	t.egress.serveFunction(t.function, name, w, r)
	return nil
}

// functionBody is the body of a function's response; closing it ends the function's request.
type functionBody struct {
	*io.PipeReader
	cancel context.CancelCauseFunc
}

// Close ends the request.
func (b *functionBody) Close() error {
	b.cancel(context.Canceled)
	return b.PipeReader.Close()
}

// inproc is the http.ResponseWriter of a request that does not leave the process. Its methods belong to
// the goroutine of the handler.
type inproc struct {
	header  http.Header
	request *http.Request
	pipe    *io.PipeWriter
	once    sync.Once
	head    chan *http.Response // gets the response, or nil if there is none; capacity 1
	resp    *http.Response
	nobody  bool
}

// Header returns the fields of the response.
func (w *inproc) Header() http.Header { return w.header }

// WriteHeader hands the head of the response to the caller. Informational ones are dropped.
func (w *inproc) WriteHeader(status int) {
	if status < 200 {
		return
	}
	w.once.Do(func() {
		w.nobody = w.request.Method == http.MethodHead || status == http.StatusNoContent || status == http.StatusNotModified
		w.resp = &http.Response{
			Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: w.header.Clone(), Trailer: http.Header{}, ContentLength: -1, Request: w.request,
		}
		if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
			w.resp.ContentLength = n
		}
		w.head <- w.resp
	})
}

// Write waits until the caller has read p, or until the request ends.
func (w *inproc) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.nobody {
		return 0, http.ErrBodyNotAllowed
	}
	return w.pipe.Write(p)
}

// FlushError hands over the head; nothing else waits.
func (w *inproc) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// Flush is FlushError for http.Flusher.
func (w *inproc) Flush() { w.WriteHeader(http.StatusOK) }

// end hands over the trailers and the end of the body, or why there is none.
func (w *inproc) end(err error) {
	if err != nil {
		w.once.Do(func() { w.head <- nil })
		w.pipe.CloseWithError(io.ErrUnexpectedEOF)
		return
	}
	w.WriteHeader(http.StatusOK)
	for name, values := range w.header {
		if t, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			w.resp.Trailer[http.CanonicalHeaderKey(t)] = values
		}
	}
	for _, line := range w.resp.Header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values := w.header[name]; len(values) > 0 {
				w.resp.Trailer[name] = values
			}
		}
	}
	w.pipe.Close()
}
