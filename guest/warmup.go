package guest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
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

// warmRounds is how many made-up requests the package passes through itself. The first one makes the Go
// heap take spans for the sizes of a request's objects; more than a few bring nothing.
const warmRounds = 4

// rehearse passes made-up requests through the package's own path, with a handler of its own: the user's
// sees none of it.
func rehearse() {
	os.Getenv("PATH") // the first use copies the environment
	for range warmRounds {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		r, err := newRequest(ctx, madeUp(), http.NoBody)
		if err != nil {
			panic(err)
		}
		w := newResponse(noSink{})
		fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.Path)
		_, _ = io.Copy(w, r.Body)
		w.finish()
		cancel()
	}
}

// madeUp is a request that nobody sent, with names in lower case as the host gives them: the first use
// of a name makes net/http's table of names.
func madeUp() head {
	h := head{method: "GET", uri: "/made/up?query=1", proto: "HTTP/1.1", remoteAddr: "192.0.2.1:1", header: http.Header{}}
	for name := range strings.SplitSeq("host user-agent accept accept-encoding perigee-region perigee-entry-region perigee-request-id x-forwarded-for x-forwarded-host x-forwarded-proto x-made-up", " ") {
		h.header[canonical([]byte(name))] = strings.Split("made-up.invalid", "\x00")
	}
	return h
}

// noSink takes a response for nobody.
type noSink struct{}

func (noSink) head(int)               {}
func (noSink) field(string, []string) {}
func (noSink) body([]byte)            {}
func (noSink) trailer(http.Header)    {}
