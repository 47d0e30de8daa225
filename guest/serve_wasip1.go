package guest

import (
	"context"
	"net/http"
)

// served is the one handler of this module. It is set by an init function and never changed after;
// the exported functions below have no other way to find it.
var served http.Handler

// Serve makes h answer the function's requests; nil means http.DefaultServeMux. Call it once, in an
// init function. It returns at once. Compiled for the machine itself rather than for wasip1, it
// serves h on a local port instead.
func Serve(h http.Handler) {
	if served != nil {
		panic("guest: Serve was called twice: a function has one handler; use an http.ServeMux")
	}
	if h == nil {
		h = http.DefaultServeMux
	}
	served = h
}

// handleRequest is called by the host for each request. Its result 0 means that the response is
// complete and no other handler is to run.
//
//go:wasmexport handle_request
func handleRequest() uint64 {
	if served == nil {
		panic("guest: no handler: call guest.Serve in an init function, since main does not run in a module built with -buildmode=c-shared")
	}
	r, err := newRequest(readHead(), &requestBody{})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := newResponse(hostSink{})
	served.ServeHTTP(w, r.WithContext(ctx))
	w.finish()
	return 0
}

// handleResponse is part of the ABI. It is called only after handle_request asked for the next
// handler, which this package never does.
//
//go:wasmexport handle_response
func handleResponse(reqCtx, isError uint32) {}
