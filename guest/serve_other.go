//go:build !wasip1

package guest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"
)

// Serve makes h answer the function's requests; nil means http.DefaultServeMux. Call it once, in an
// init function. Compiled for wasip1 it returns at once and the gateway calls h for each request.
//
// Compiled for the machine itself, it helps during development: under `go test` it returns at once,
// so that tests can call the handler with net/http/httptest; in a program (`go run .`) it serves h
// on PERIGEE_LISTEN, or 127.0.0.1:8080, until the program is stopped.
func Serve(h http.Handler) {
	if testing.Testing() {
		return
	}
	runHooks()
	addr := os.Getenv("PERIGEE_LISTEN")
	if addr == "" {
		addr = "127.0.0.1:8080"
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		fmt.Fprintf(os.Stderr, "guest: serving on http://%s, without the gateway; stop with ctrl-c\n", l.Addr())
		err = (&http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}).Serve(l)
	}
	fmt.Fprintf(os.Stderr, "guest: serve on %s: %v; set PERIGEE_LISTEN to another address\n", addr, err)
	os.Exit(1)
}

// Middleware makes a function that stands before what its manifest has as next. Compiled for the machine
// itself, next is the origin in PERIGEE_NEXT ("http://127.0.0.1:3000"), or answers 404; see Serve.
func Middleware(m func(next http.Handler) http.Handler) {
	next := http.NotFoundHandler()
	if s := os.Getenv("PERIGEE_NEXT"); s != "" {
		u, err := url.Parse(s)
		if err != nil {
			fmt.Fprintf(os.Stderr, "guest: PERIGEE_NEXT: %v\n", err)
			os.Exit(1)
		}
		next = httputil.NewSingleHostReverseProxy(u)
	}
	Serve(m(next))
}

// Rand returns a random generator with a fresh seed. In a function, whose requests start from one image,
// it is the request's own, while the functions of math/rand and math/rand/v2 give the same numbers in each
// request. The generator is not for several goroutines at once.
func Rand() *rand.Rand { return newRand() }
