package guest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// hooks is what WarmUp was given, in order. It is set by init functions.
var hooks []func()

// WarmUp has f run once before the function's first request: the gateway then makes the image that every
// request starts from. What f leaves behind (caches, compiled expressions and templates, a first use of
// encoding/json) is there for every request. Call WarmUp in init functions; hooks run in the order of
// these calls, after all init functions. There is no request, and outbound calls fail. A hook that panics
// ends the module: the gateway then starts it anew for each request.
//
// Outside of the gateway, Serve runs the hooks before it serves.
func WarmUp(f func()) { hooks = append(hooks, f) }

func runHooks() {
	for _, f := range hooks {
		f()
	}
	hooks = nil
}

// warmRounds is how many made-up requests the package passes through itself. The first ones make the Go
// heap take spans for the sizes of a request's objects.
const warmRounds = 16

// rehearse passes made-up requests through the package's own path, with a handler of its own: the user's
// sees none of it.
func rehearse() {
	_ = os.Getenv("") // handlers read the environment, which is parsed when that is done first
	for range warmRounds {
		r, err := newRequest(madeUp(), http.NoBody)
		if err != nil {
			panic(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r = r.WithContext(ctx)
		w := newResponse(noSink{}) // its Content-Type is to be guessed
		fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.Path)
		_, _ = io.Copy(w, r.Body)
		w.finish()
		cancel()
	}
}

// madeUp is a request that nobody sent. The names of its fields are made canonical as those of a real one
// are: the first time costs most.
func madeUp() head {
	h := head{method: "GET", uri: "/made/up?query=1", proto: "HTTP/1.1", remoteAddr: "192.0.2.1:1", header: http.Header{}}
	for _, name := range []string{"host", "user-agent", "accept", "accept-encoding"} {
		h.header[http.CanonicalHeaderKey(name)] = []string{"made-up.invalid"}
	}
	return h
}

// noSink takes a response for nobody.
type noSink struct{}

func (noSink) head(int, http.Header) {}
func (noSink) body([]byte)           {}
func (noSink) trailer(http.Header)   {}
