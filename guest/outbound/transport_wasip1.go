package outbound

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
	"unsafe"

	"github.com/perigee-edge/perigee/guest/internal/host"
)

// The imports of perigee_http; docs/guest-abi.md describes them.

//go:wasmimport perigee_http send
//go:noescape
func httpSend(head unsafe.Pointer, size, flags uint32, timeout int64) int32

//go:wasmimport perigee_http write
//go:noescape
func httpWrite(handle uint32, p unsafe.Pointer, size uint32) int32

//go:wasmimport perigee_http finish
func httpFinish(handle uint32) int32

//go:wasmimport perigee_http head
//go:noescape
func httpHead(handle uint32, buf unsafe.Pointer, limit uint32) int32

//go:wasmimport perigee_http read
//go:noescape
func httpRead(handle uint32, buf unsafe.Pointer, limit uint32) int32

//go:wasmimport perigee_http trailers
//go:noescape
func httpTrailers(handle uint32, buf unsafe.Pointer, limit uint32) int32

//go:wasmimport perigee_http close
func httpClose(handle uint32)

//go:wasmimport perigee_http error
//go:noescape
func httpError(buf unsafe.Pointer, limit uint32) uint32

//go:wasmimport perigee_http deadline
func httpDeadline() int64

const (
	flagBody  = 1
	errorTime = -5
)

func init() {
	http.DefaultTransport = transport{}
	host.Deadline = httpDeadline
}

// transport is the http.RoundTripper of a function: the host sends its requests.
type transport struct{}

// RoundTrip sends a request and waits for the head of its response. While it waits nothing else runs in
// the module, which has one thread.
func (transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	timeout := int64(0)
	if end, ok := ctx.Deadline(); ok {
		timeout = max(int64(time.Until(end)), 1)
	}
	head, hasBody, err := formatHead(r)
	if err != nil {
		return nil, err
	}
	flags := uint32(0)
	if hasBody {
		flags = flagBody
	}
	handle := httpSend(stringPointer(head), uint32(len(head)), flags, timeout)
	if handle < 0 {
		return nil, hostError(handle)
	}
	body := &responseBody{ctx: ctx, handle: uint32(handle)}
	resp, err := body.exchange(r, hasBody)
	if err != nil {
		body.Close()
		return nil, err
	}
	return resp, nil
}

// exchange sends the body of a request and waits for the response.
func (b *responseBody) exchange(r *http.Request, hasBody bool) (*http.Response, error) {
	if hasBody {
		if err := b.send(r.Body); err != nil {
			return nil, err
		}
	}
	code := int32(0)
	head := text(func(buf unsafe.Pointer, limit uint32) uint32 {
		code = httpHead(b.handle, buf, limit)
		return uint32(max(code, 0))
	})
	if code < 0 {
		return nil, hostError(code)
	}
	if err := b.ctx.Err(); err != nil {
		return nil, err
	}
	resp, err := parseResponse(head, r)
	if err != nil {
		return nil, err
	}
	b.response = resp
	resp.Body = b
	return resp, nil
}

// send sends a body. A receiver that does not want the rest has answered, or its error comes with the
// response.
func (b *responseBody) send(body io.Reader) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 && httpWrite(b.handle, unsafe.Pointer(unsafe.SliceData(buf)), uint32(n)) < 0 {
			return nil
		}
		if cerr := b.ctx.Err(); cerr != nil {
			return cerr
		}
		if errors.Is(err, io.EOF) {
			httpFinish(b.handle)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// responseBody is the body of a response as it arrives.
type responseBody struct {
	ctx      context.Context // of the request, which the body is a part of
	handle   uint32
	response *http.Response
	ended    error // what Read returns from now on
	closed   bool
}

// Read reads the next part.
func (b *responseBody) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.ended != nil:
		return 0, b.ended
	case len(p) == 0:
		return 0, nil
	}
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n := httpRead(b.handle, unsafe.Pointer(unsafe.SliceData(p)), uint32(min(len(p), 1<<30)))
	switch {
	case n > 0:
		return int(n), nil
	case n < 0:
		b.ended = hostError(n)
	default:
		b.ended = io.EOF
		trailers := text(func(buf unsafe.Pointer, limit uint32) uint32 { return uint32(httpTrailers(b.handle, buf, limit)) })
		parseFields(trailers, b.response.Trailer)
	}
	return 0, b.ended
}

// Close ends the exchange.
func (b *responseBody) Close() error {
	if !b.closed {
		b.closed = true
		httpClose(b.handle)
	}
	return nil
}

// hostError is the error that the host has noted.
func hostError(code int32) error {
	msg := text(httpError)
	if code == errorTime {
		return timeoutError(msg)
	}
	return errors.New(msg)
}

// timeoutError is an exchange that took too long.
type timeoutError string

func (e timeoutError) Error() string { return string(e) }

// Timeout tells this error from others, as in net.Error.
func (timeoutError) Timeout() bool { return true }

// Temporary completes net.Error.
func (timeoutError) Temporary() bool { return true }

// Unwrap makes errors.Is find context.DeadlineExceeded.
func (timeoutError) Unwrap() error { return context.DeadlineExceeded }

// scratch takes texts from the host. A module runs on one thread and every user copies out of it before
// anything else can run.
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

func stringPointer(s string) unsafe.Pointer { return unsafe.Pointer(unsafe.StringData(s)) }
