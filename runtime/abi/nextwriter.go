package abi

import (
	"net/http"
	"strings"
)

// NextWriter is the answer as the handler sees it that a guest wraps.
type NextWriter struct {
	answer *Answer
	wrote  bool
	err    error
}

// Next returns the answer as an http.ResponseWriter.
func (a *Answer) Next() *NextWriter { return &NextWriter{answer: a} }

// Header returns the headers to be sent.
func (w *NextWriter) Header() http.Header { return w.answer.header.Map() }

// WriteHeader sets the status, the first time it is called with a final one. The handler, and not the guest,
// may say that the protocol changes.
func (w *NextWriter) WriteHeader(status int) {
	if status == http.StatusEarlyHints && !w.wrote && !w.answer.sent {
		w.answer.hint()
		return
	}
	if w.wrote || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	w.wrote = true
	if status == http.StatusSwitchingProtocols {
		w.answer.status = status
	} else if err := w.answer.SetStatus(status); err != nil {
		w.err = err
	}
}

// Write adds to the body.
func (w *NextWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.err == nil {
		w.err = w.answer.Write(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// FlushError sends what there is on its way, for http.ResponseController.
func (w *NextWriter) FlushError() error {
	w.WriteHeader(http.StatusOK)
	if w.err == nil {
		w.err = w.answer.Flush()
	}
	return w.err
}

// Flush is FlushError for http.Flusher.
func (w *NextWriter) Flush() { _ = w.FlushError() }

// Close takes the trailers that the handler left among its headers, and returns what went wrong.
func (w *NextWriter) Close() error {
	h := w.answer.header.Map()
	for name, values := range h {
		if trailer, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			w.answer.trailer.Map()[http.CanonicalHeaderKey(trailer)] = values
			delete(h, name)
		}
	}
	return w.err
}
