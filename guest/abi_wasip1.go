package guest

import (
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

// scratch takes texts from the host. A module runs on one thread and every user copies out of it
// before anything else can run.
var scratch = make([]byte, 4<<10)

// text calls get, with a larger buffer if the text did not fit.
func text(get func(buf unsafe.Pointer, limit uint32) uint32) string {
	n := get(unsafe.Pointer(unsafe.SliceData(scratch)), uint32(len(scratch)))
	if int(n) > len(scratch) {
		scratch = make([]byte, n)
		n = get(unsafe.Pointer(unsafe.SliceData(scratch)), n)
	}
	return string(scratch[:n])
}

// texts is text for functions that return NUL-terminated strings and count<<32|length.
func texts(get func(buf unsafe.Pointer, limit uint32) uint64) []string {
	var count int
	all := text(func(buf unsafe.Pointer, limit uint32) uint32 {
		n := get(buf, limit)
		count = int(n >> 32)
		return uint32(n)
	})
	switch count {
	case 0:
		return nil
	case 1:
		return []string{all[:len(all)-1]}
	}
	return strings.SplitN(strings.TrimSuffix(all, "\x00"), "\x00", count)
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

// readFields returns the fields of a kind.
func readFields(kind uint32) http.Header {
	names := texts(func(buf unsafe.Pointer, limit uint32) uint64 {
		return getHeaderNames(kind, buf, limit)
	})
	h := make(http.Header, len(names))
	for _, name := range names {
		h[canonical(name)] = texts(func(buf unsafe.Pointer, limit uint32) uint64 {
			return getHeaderValues(kind, stringPointer(name), uint32(len(name)), buf, limit)
		})
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

func (s *hostSink) head(status int, header http.Header) {
	if s.replace {
		for _, kind := range []uint32{kindResponse, kindResponseTrailer} {
			for name := range readFields(kind) {
				removeHeader(kind, stringPointer(name), uint32(len(name)))
			}
		}
		writeBody(kindResponse, nil, 0)
	}
	setStatusCode(uint32(status))
	for name, values := range header {
		writeField(kindResponse, name, values)
	}
}

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
