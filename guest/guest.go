// Package guest runs an ordinary http.Handler as a Perigee function.
//
//	package main
//
//	import (
//		"fmt"
//		"net/http"
//
//		"github.com/perigee-edge/perigee/guest"
//	)
//
//	func init() {
//		guest.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
//			fmt.Fprintln(w, "hello from", r.URL.Path)
//		}))
//	}
//
//	func main() {}
//
// Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o hello.wasm .
//
// Call Serve in an init function: in a module built with -buildmode=c-shared only init functions
// run, main never does. Each request gets the state that the init functions left behind, so what
// they prepare (templates, routes, tables) is ready for every request, and what one request changes
// no other request sees.
//
// The handler is a usual one: the request has method, URL, Host, headers, RemoteAddr, protocol and a
// body that is read as it arrives; the response is sent in pieces as it is written, and at once with
// http.Flusher. A panic ends the request; its message and stack are in the function's log, as is all
// that the handler writes to standard output and standard error. Environment variables are those of
// [env] in perigee.toml, and the files of the bundle are at "/", read-only.
//
// Trailers work as net/http documents them, in both directions: r.Trailer has the client's after the body
// was read to its end, and those of the response are announced in the header Trailer or set with
// http.TrailerPrefix.
//
// Besides Serve there are Middleware, for a function before an origin; WarmUp, for what is to be done once
// and be there for every request; and Rand, since math/rand repeats itself from request to request. The
// package guest/outbound lets a function make requests of its own.
//
// The package speaks the http-wasm handler ABI, but for the head of a request, which it asks for at once
// (perigee_handler.request_head), and imports nothing but the standard library. It exports perigee_warm_up
// besides, which the gateway calls before it makes the image that requests start from. It owns one
// goroutine per request in a Middleware, and none else.
package guest
