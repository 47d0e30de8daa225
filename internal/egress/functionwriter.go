package egress

import (
	"net/http"
	"strings"
)

// functionWriter is the response of a function that another one stands before: without what the gateway
// says about the inner request, and with all trailers in the form that needs no announcement.
type functionWriter struct {
	http.ResponseWriter
	announced []string
	wrote     bool
}

// WriteHeader sends the head.
func (w *functionWriter) WriteHeader(status int) {
	if h := w.Header(); status >= 200 && !w.wrote {
		w.wrote = true
		for name := range h {
			if strings.HasPrefix(name, internalPrefix) {
				delete(h, name)
			}
		}
		for _, line := range h["Trailer"] {
			for name := range strings.SplitSeq(line, ",") {
				w.announced = append(w.announced, http.CanonicalHeaderKey(strings.TrimSpace(name)))
			}
		}
		delete(h, "Trailer")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *functionWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// FlushError sends what there is on its way.
func (w *functionWriter) FlushError() error {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for http.Flusher.
func (w *functionWriter) Flush() { _ = w.FlushError() }

// end sets the trailers that were announced.
func (w *functionWriter) end() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	h := w.Header()
	for _, name := range w.announced {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[http.TrailerPrefix+name] = values
		}
	}
}
