package guest

import (
	"math/rand/v2"
	"net/http"
	"unsafe"
)

// served is the one handler of this module. It is set by an init function and never changed after;
// the exported functions below have no other way to find it.
var served http.Handler

// wraps says that served calls the next handler.
var wraps bool

// ready is the exchange for the first request after the module's image was made; nil = it was taken.
var ready *exchange

// generator is what Rand returns; nil = this request has not asked yet.
var generator *rand.Rand

// Serve makes h answer the function's requests; nil means http.DefaultServeMux. Call it once, in an
// init function. It returns at once. Compiled for the machine itself rather than for wasip1, it
// serves h on a local port instead.
func Serve(h http.Handler) {
	if served != nil {
		panic("guest: Serve or Middleware was called twice: a function has one handler; use an http.ServeMux")
	}
	if h == nil {
		h = http.DefaultServeMux
	}
	served = h
}

// Middleware makes a function that stands before what its manifest has as next: an origin, the files of the
// bundle, or another function. m is an ordinary middleware: it returns a handler that calls next, or
// answers itself. Call Middleware once, in an init function, in place of Serve.
//
// What the handler changes in the request before it calls next (method, URL, headers, body) next sees, and
// headers that it has set in the response are added to those of next. Given the handler's own
// ResponseWriter, next streams its response past the module, and nothing can be added after. Given another
// one (httptest.ResponseRecorder, or a writer that changes what it is given), next's response is kept
// whole, at most 16 MiB, and written to that one. The handler may call next once.
func Middleware(m func(next http.Handler) http.Handler) {
	Serve(m(nextHandler{}))
	wraps = true
}

// Rand returns the random generator of this request, with a seed of its own. Every request starts from
// one image of the module, so the functions of math/rand and math/rand/v2 give the same numbers in each;
// this one does not. Neither does crypto/rand. The generator is not for several goroutines at once.
func Rand() *rand.Rand {
	if generator == nil {
		generator = newRand()
	}
	return generator
}

// handleRequest is called by the host for each request. Its result 0 means that the response is
// complete and no other handler is to run, 1 that the next one is.
//
//go:wasmexport handle_request
func handleRequest() uint64 {
	if served == nil {
		panic("guest: no handler: call guest.Serve in an init function, since main does not run in a module built with -buildmode=c-shared")
	}
	generator = nil
	x := ready
	if ready = nil; x == nil {
		x = hostExchange()
	}
	n := requestHead(unsafe.Pointer(unsafe.SliceData(x.head)), uint32(len(x.head)))
	if int(n) > len(x.head) {
		x.head = make([]byte, n)
		n = requestHead(unsafe.Pointer(unsafe.SliceData(x.head)), n)
	}
	if err := x.read(unsafe.String(unsafe.SliceData(x.head), n)); err != nil { // nothing else is written to it
		panic(err)
	}
	if wraps {
		return begin(x)
	}
	served.ServeHTTP(&x.response, x.request)
	x.response.finish()
	x.ctx.end()
	return 0
}

// handleResponse is called by the host when the next handler has run.
//
//go:wasmexport handle_response
func handleResponse(reqCtx, isError uint32) {
	if passing != nil {
		passing.resume(isError != 0)
	}
}

// warmUp is called by the gateway after all init functions, before it makes the image.
//
//go:wasmexport perigee_warm_up
func warmUp() {
	runHooks()
	rehearse()
	ready = hostExchange()
}
