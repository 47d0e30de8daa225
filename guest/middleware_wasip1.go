package guest

import (
	"io"
	"net/http"
	"slices"
	"unsafe"
)

// passing is the request that a middleware has in hand, of which a module has one at a time; nil if the
// function is no middleware.
var passing *pass

// pass is a request on its way through a middleware. The middleware runs in a goroutine of its own, which
// rests while the host runs the next handler; one of the two is waiting for the other at any time.
type pass struct {
	response *response
	original http.Header
	method   string
	uri      string
	host     string
	body     io.ReadCloser

	asked  bool
	step   chan bool // true: the next handler is wanted; false: the middleware has returned
	failed chan bool // the next handler has run; true: it failed
	end    func()    // ends the request's context
}

// begin runs the middleware until it returns or wants the next handler.
func begin(x *exchange) uint64 {
	w, r := &x.response, x.request
	p := &pass{
		response: w, original: r.Header.Clone(), method: r.Method, uri: r.RequestURI, host: r.Host, body: r.Body,
		step: make(chan bool), failed: make(chan bool), end: x.ctx.end,
	}
	passing = p
	go func() {
		defer func() {
			if v := recover(); v != nil {
				if v != http.ErrAbortHandler || !p.asked {
					panic(v)
				}
				p.step <- false // the next handler was cut off, and so is this response
			}
		}()
		served.ServeHTTP(w, r)
		w.finish()
		p.step <- false
	}()
	if <-p.step {
		return 1
	}
	p.finish()
	return 0
}

// resume lets the middleware go on after the next handler.
func (p *pass) resume(failed bool) {
	p.failed <- failed
	<-p.step
	p.finish()
}

func (p *pass) finish() {
	p.end()
	passing = nil
}

// nextHandler is the next handler as the middleware sees it.
type nextHandler struct{}

// ServeHTTP hands the request to the host's next handler. It panics with http.ErrAbortHandler when the
// response could not be finished.
func (nextHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := passing
	switch {
	case p == nil:
		panic("guest: next was called outside of a request")
	case p.asked:
		panic("guest: next was called twice in one request")
	case p.response.status != 0:
		panic("guest: next was called after the response had begun")
	}
	p.asked = true
	direct := w == http.ResponseWriter(p.response)
	if direct {
		for name, values := range w.Header() {
			writeField(kindResponse, name, values)
		}
		p.response.passed = true
	} else {
		enableFeatures(featureBufferResponse)
	}
	p.tell(r)
	p.step <- true
	if <-p.failed {
		panic(http.ErrAbortHandler)
	}
	if !direct {
		p.response.out = &hostSink{replace: true}
		replay(w)
	}
}

// tell makes the host's request what the middleware has made of it.
func (p *pass) tell(r *http.Request) {
	if r.Method != p.method {
		setMethod(stringPointer(r.Method), uint32(len(r.Method)))
	}
	if uri := r.URL.RequestURI(); uri != p.uri {
		setURI(stringPointer(uri), uint32(len(uri)))
	}
	if r.Host != p.host {
		writeField(kindRequest, "Host", []string{r.Host})
	}
	for name := range p.original {
		if _, kept := r.Header[name]; !kept {
			removeHeader(kindRequest, stringPointer(name), uint32(len(name)))
		}
	}
	for name, values := range r.Header {
		if !slices.Equal(values, p.original[name]) {
			writeField(kindRequest, name, values)
		}
	}
	if r.Body == p.body {
		return
	}
	writeBody(kindRequest, nil, 0)
	if r.Body == nil {
		return
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			writeBody(kindRequest, unsafe.Pointer(unsafe.SliceData(buf)), uint32(n))
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(err)
		}
	}
}

// replay writes the response that the host has kept. All of it is read first: the first write replaces
// it.
func replay(w http.ResponseWriter) {
	var body []byte
	for {
		body = slices.Grow(body, 16<<10)
		part := body[len(body):cap(body)]
		got := readBody(kindResponse, unsafe.Pointer(unsafe.SliceData(part)), uint32(len(part)))
		body = body[:len(body)+int(uint32(got))]
		if got>>32 != 0 {
			break
		}
	}
	h := w.Header()
	for name, values := range readFields(kindResponse) {
		h[name] = values
	}
	for name, values := range readFields(kindResponseTrailer) {
		h[http.TrailerPrefix+name] = values
	}
	w.WriteHeader(int(getStatusCode()))
	_, _ = w.Write(body)
}
