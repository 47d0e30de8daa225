package guest

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"unsafe"
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
		x := newExchange(noSink{}, http.NoBody, nil)
		if err := x.read(madeUp()); err != nil {
			panic(err)
		}
		fmt.Fprintf(&x.response, "%s %s\n", x.request.Method, x.request.URL.Path)
		_, _ = io.Copy(&x.response, x.request.Body)
		x.response.finish()
		x.ctx.end()
	}
	stock()
}

// stock leaves the Go heap with a fresh span for each size of small objects, with and without pointers. A
// span with pointers costs the image a frame, so larger sizes have none. The heap's next objects of that size are then made in a few instructions; taking a span from the heap is thousands,
// of which each request would pay for those that happened to be full when the image was made.
func stock() {
	for size := 8; size <= 512; size += 16 - size%16 {
		for range spanBytes / size { // at most what is left of the span at hand
			stocked = make([]byte, size)
			if uintptr(unsafe.Pointer(unsafe.SliceData(stocked)))%spanBytes == 0 {
				break // the first of a span
			}
		}
		for range spanBytes / size {
			stockedPointers = make([]*byte, size/8)
			if uintptr(unsafe.Pointer(unsafe.SliceData(stockedPointers)))%spanBytes == 0 {
				break
			}
		}
	}
	stocked, stockedPointers = nil, nil
}

// spanBytes is the size of a span of small objects, in which they lie from its beginning.
const spanBytes = 8 << 10

// What stock makes goes here, so that it is made on the heap.
var (
	stocked         []byte
	stockedPointers []*byte
)

// madeUp is a request that nobody sent.
func madeUp() string {
	return list("GET", "/made/up?query=1", "HTTP/1.1", "192.0.2.1:1",
		"Accept", "*/*", "Accept-Encoding", "gzip", "Host", "made-up.invalid", "Perigee-Client-Country", "XX", "Perigee-Client-Region", "here", "Perigee-Entry-Region", "here", "Perigee-Region", "here",
		"Perigee-Request-Id", "0123456789abcdef", "User-Agent", "nobody", "X-Forwarded-For", "192.0.2.1", "X-Forwarded-Host", "made-up.invalid", "X-Forwarded-Proto", "https")
}

// list joins texts as the host does.
func list(texts ...string) string {
	var b []byte
	for _, s := range texts {
		b = append(b, byte(len(s)), byte(len(s)>>8), byte(len(s)>>16), byte(len(s)>>24))
		b = append(b, s...)
	}
	return string(b)
}

// noSink takes a response for nobody.
type noSink struct{}

func (noSink) head(int)               {}
func (noSink) field(string, []string) {}
func (noSink) body([]byte)            {}
func (noSink) trailer(http.Header)    {}
