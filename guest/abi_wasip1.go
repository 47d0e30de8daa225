package guest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"unsafe"
)

// The imports of the http-wasm handler ABI that a Go handler needs. Functions that return text write
// nothing if it is longer than limit; the result is its length either way.

//go:wasmimport http_handler get_method
//go:noescape
func getMethod(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_uri
//go:noescape
func getURI(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_protocol_version
//go:noescape
func getProtocolVersion(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport http_handler get_source_addr
//go:noescape
func getSourceAddr(buf unsafe.Pointer, limit uint32) uint32

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

// What takes texts from the host. A module runs on one thread, and every user copies out of them before
// anything else can run.
var (
	scratch  = make([]byte, 4<<10)
	names    = make([]byte, 0, 1<<10) // of the fields that are being read, each with a NUL behind it
	gathered = make([]byte, 0, 4<<10) // their values, likewise
	counts   = make([]int, 0, 64)     // how many values each has
)

// take calls get, with a larger scratch if the text did not fit, and returns what it left there.
func take(get func(buf unsafe.Pointer, limit uint32) uint32) []byte {
	n := get(unsafe.Pointer(unsafe.SliceData(scratch)), uint32(len(scratch)))
	if int(n) > len(scratch) {
		scratch = make([]byte, n)
		n = get(unsafe.Pointer(unsafe.SliceData(scratch)), n)
	}
	return scratch[:n]
}

// text is take for what has to last. Words that are met often are not copied.
func text(get func(buf unsafe.Pointer, limit uint32) uint32) string {
	b := take(get)
	for _, word := range [...]string{"GET", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0", "POST", "/"} {
		if string(b) == word {
			return word
		}
	}
	return string(b)
}

func readHead() head {
	h := head{
		method:     text(getMethod),
		uri:        text(getURI),
		proto:      text(getProtocolVersion),
		remoteAddr: text(getSourceAddr),
	}
	h.header = readFields(kindRequest)
	return h
}

// readFields returns the fields of a kind. Their values share two pieces of memory.
func readFields(kind uint32) http.Header {
	names = append(names[:0], take(func(buf unsafe.Pointer, limit uint32) uint32 { return uint32(getHeaderNames(kind, buf, limit)) })...)
	gathered, counts = gathered[:0], counts[:0]
	total := 0
	for rest := names; len(rest) > 0; {
		name, after, _ := bytes.Cut(rest, []byte{0})
		count := 0
		gathered = append(gathered, take(func(buf unsafe.Pointer, limit uint32) uint32 {
			n := getHeaderValues(kind, unsafe.Pointer(unsafe.SliceData(name)), uint32(len(name)), buf, limit)
			count = int(n >> 32)
			return uint32(n)
		})...)
		counts, total = append(counts, count), total+count
		rest = after
	}
	h := make(http.Header, len(counts))
	all, values := string(gathered), make([]string, 0, total)
	rest := names
	for _, count := range counts {
		name, after, _ := bytes.Cut(rest, []byte{0})
		from := len(values)
		for range count {
			value, more, _ := strings.Cut(all, "\x00")
			values, all = append(values, value), more
		}
		h[canonical(name)] = values[from:len(values):len(values)]
		rest = after
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
	setStatusCode(uint32(status))
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
