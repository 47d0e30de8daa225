package httpwasm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// The kinds of bodies.
const (
	requestBody = iota
	responseBody
)

const eof = 1 << 32

// readBody reads the next part of a body, as much as there is at once. It returns eof<<32 | length.
func (c *Call) readBody(mod api.Module, s []uint64) {
	c.begun("read_body")
	kind, ptr, limit := uint32(s[0]), uint32(s[1]), uint32(s[2])
	if limit == 0 {
		c.Trap("read_body with a limit of 0")
	}
	buf := c.Read(mod, ptr, limit)
	switch kind {
	case requestBody:
		s[0] = c.readRequestBody(buf)
	case responseBody:
		if c.features&bufferResponse == 0 {
			c.Trap("can't read the response body without the feature buffer-response")
		}
		n := copy(buf, c.Answer.Body()[min(c.read, len(c.Answer.Body())):])
		c.read += n
		if s[0] = uint64(n); c.read >= len(c.Answer.Body()) {
			s[0] |= eof
		}
	default:
		c.Trap("body kind %d is unknown; use 0 or 1", kind)
	}
}

func (c *Call) readRequestBody(buf []byte) uint64 {
	if c.Phase == abi.Responding {
		c.Trap("can't read the request body after the next handler has run")
	}
	if c.Request.Body == nil {
		return eof
	}
	for {
		var n int
		var err error
		c.Await(func() {
			if c.Answer.Waits() { // the client may wait for it before it sends more
				c.Must(c.Answer.Flush())
			}
			n, err = c.Request.Body.Read(buf)
		})
		if c.features&bufferRequest != 0 {
			if int64(len(c.readRequest)+n) > c.Limits.Buffer {
				c.Fail(&abi.GuestError{Kind: abi.Trap, Detail: fmt.Sprintf("more than %d bytes of request body while request buffering is on", c.Limits.Buffer)})
			}
			c.readRequest = append(c.readRequest, buf[:n]...)
		}
		c.bodyRead += int64(n)
		switch {
		case errors.Is(err, io.EOF), n > 0 && c.bodyRead == c.Request.ContentLength:
			return eof | uint64(n)
		case err != nil:
			c.Fail(fmt.Errorf("read the request: %w", err))
		case n > 0:
			return uint64(n)
		}
	}
}

// writeBody adds to a body. The first call in handle_response replaces what the next handler wrote.
// An empty write to the response asks that what there is be sent.
func (c *Call) writeBody(mod api.Module, s []uint64) {
	kind, p := uint32(s[0]), c.Read(mod, uint32(s[1]), uint32(s[2]))
	switch kind {
	case requestBody:
		c.beforeNext("write the request body")
		c.replaced = true
		if int64(len(c.newRequest)+len(p)) > c.Limits.Buffer {
			c.Fail(&abi.GuestError{Kind: abi.Trap, Detail: fmt.Sprintf("a request body of more than %d bytes", c.Limits.Buffer)})
		}
		c.newRequest = append(c.newRequest, p...)
	case responseBody:
		c.mayAnswer("write the response body")
		if c.Phase == abi.Responding && !c.rewritten {
			c.rewritten = true
			c.Answer.ResetBody()
		}
		c.Await(func() {
			if len(p) == 0 {
				c.Must(c.Answer.Flush())
			} else {
				c.Must(c.Answer.Write(p))
			}
		})
	default:
		c.Trap("body kind %d is unknown; use 0 or 1", kind)
	}
}

// nextBody gives the next handler the body: what the guest wrote, or what it buffered and the rest, or
// what it left.
func (c *Call) nextBody(r *http.Request) {
	switch {
	case c.replaced:
		r.Body = io.NopCloser(bytes.NewReader(c.newRequest))
		r.ContentLength = int64(len(c.newRequest))
		if c.headerCopied {
			r.Header.Del("Content-Length")
		} else if r.Header.Get("Content-Length") != "" {
			r.Header = r.Header.Clone()
			r.Header.Del("Content-Length")
		}
	case len(c.readRequest) > 0:
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(c.readRequest), c.Request.Body), c.Request.Body}
	}
}
