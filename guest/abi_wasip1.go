package guest

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"unsafe"
)

// The imports of the http-wasm handler ABI that a Go handler needs, and the one by which Perigee tells of a
// whole request at once. Functions that return text write nothing if it is longer than limit; the result is
// its length either way.

//go:wasmimport perigee_handler request_head
//go:noescape
func requestHead(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_header_names
//go:noescape
func getHeaderNames(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler get_header_values
//go:noescape
func getHeaderValues(kind uint32, name unsafe.Pointer, nameLen uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler add_header_value
//go:noescape
func addHeaderValue(kind uint32, name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueLen uint32)

//go:wasmimport http_handler set_header_value
//go:noescape
func setHeaderValue(kind uint32, name unsafe.Pointer, nameLen uint32, value unsafe.Pointer, valueLen uint32)

//go:wasmimport http_handler set_status_code
func setStatusCode(code uint32)

//go:wasmimport http_handler read_body
//go:noescape
func readBody(kind uint32, buf unsafe.Pointer, limit uint32) uint64

//go:wasmimport http_handler write_body
//go:noescape
func writeBody(kind uint32, buf unsafe.Pointer, size uint32)

//go:wasmimport http_handler enable_features
func enableFeatures(features uint32) uint32

//go:wasmimport http_handler remove_header
//go:noescape
func removeHeader(kind uint32, name unsafe.Pointer, nameLen uint32)

//go:wasmimport http_handler set_method
//go:noescape
func setMethod(p unsafe.Pointer, size uint32)

//go:wasmimport http_handler set_uri
//go:noescape
func setURI(p unsafe.Pointer, size uint32)

//go:wasmimport http_handler get_status_code
func getStatusCode() uint32

// The messages that a call can be about, and the fields after their bodies.
const (
	kindRequest         = 0
	kindResponse        = 1
	kindRequestTrailer  = 2
	kindResponseTrailer = 3
)

// The features of the host that a module turns on.
const (
	featureBufferResponse = 2
	featureTrailers       = 4
)

// scratch takes texts from the host. A module runs on one thread, and every user copies out of it before
// anything else can run.
var scratch = make([]byte, 4<<10)

// take calls get, with a larger scratch if the text did not fit, and returns what it left there.
func take(get func(buf unsafe.Pointer, limit uint32) uint32) []byte {
	n := get(unsafe.Pointer(unsafe.SliceData(scratch)), uint32(len(scratch)))
	if int(n) > len(scratch) {
		scratch = make([]byte, n)
		n = get(unsafe.Pointer(unsafe.SliceData(scratch)), n)
	}
	return scratch[:n]
}

// readFields returns the fields of a kind, but of a request's header: exchange.read has those.
func readFields(kind uint32) http.Header {
	names := string(take(func(buf unsafe.Pointer, limit uint32) uint32 { return uint32(getHeaderNames(kind, buf, limit)) }))
	h := http.Header{}
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		if name == "" {
			continue // there are none
		}
		count := 0
		values := string(take(func(buf unsafe.Pointer, limit uint32) uint32 {
			n := getHeaderValues(kind, stringPointer(name), uint32(len(name)), buf, limit)
			count = int(n >> 32)
			return uint32(n)
		}))
		list := make([]string, count)
		for i := range list {
			list[i], values, _ = strings.Cut(values, "\x00")
		}
		h[http.CanonicalHeaderKey(name)] = list
	}
	return h
}

// writeField replaces the values of a field.
func writeField(kind uint32, name string, values []string) {
	for i, value := range values {
		if i == 0 {
			setHeaderValue(kind, stringPointer(name), uint32(len(name)), stringPointer(value), uint32(len(value)))
		} else {
			addHeaderValue(kind, stringPointer(name), uint32(len(name)), stringPointer(value), uint32(len(value)))
		}
	}
}

func stringPointer(s string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(s)) }

// hostExchange is one whose request comes from the host, and whose response goes there.
func hostExchange() *exchange {
	trailer := http.Header{}
	return newExchange(&hostSink{}, &requestBody{trailer: trailer}, trailer)
}

// hostSink is the response on its way to the host.
type hostSink struct {
	replace bool // there is a response of the next handler, which this one takes the place of
}

func (s *hostSink) head(status int) {
	if s.replace {
		for _, kind := range []uint32{kindResponse, kindResponseTrailer} {
			for name := range readFields(kind) {
				removeHeader(kind, stringPointer(name), uint32(len(name)))
			}
		}
		writeBody(kindResponse, nil, 0)
	}
	if s.replace || status != http.StatusOK { // the host begins with 200
		setStatusCode(uint32(status))
	}
}

func (*hostSink) field(name string, values []string) { writeField(kindResponse, name, values) }

func (*hostSink) body(p []byte) {
	writeBody(kindResponse, unsafe.Pointer(unsafe.SliceData(p)), uint32(len(p)))
}

func (*hostSink) trailer(h http.Header) {
	enableFeatures(featureTrailers)
	for name, values := range h {
		writeField(kindResponseTrailer, name, values)
	}
}

// requestBody reads the request body as it arrives.
type requestBody struct {
	trailer       http.Header // the request's; filled at the end
	ended, closed bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.ended:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	got := readBody(kindRequest, unsafe.Pointer(unsafe.SliceData(p)), uint32(min(len(p), 1<<30)))
	n := int(uint32(got))
	if b.ended = got>>32 != 0; b.ended {
		maps.Copy(b.trailer, readFields(kindRequestTrailer))
		if n == 0 {
			return 0, io.EOF
		}
	}
	return n, nil
}

func (b *requestBody) Close() error {
	b.closed = true
	return nil
}
