package peerlink

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go/quicvarint"
)

const (
	flagAnswerFirst = 1 << 0 // the worker says accepted or refused before anything else
	flagNoBody      = 1 << 1
	flagHold        = 1 << 2 // the requester waits until the worker wants the body
)

// requestHead is the payload of a request frame.
type requestHead struct {
	flags     uint64
	timeout   time.Duration // 0 = none
	size      int64         // of the body; -1 = not known
	method    string
	authority string
	target    string
	header    http.Header
}

func (h *requestHead) append(b []byte) []byte {
	b = quicvarint.Append(b, h.flags)
	b = quicvarint.Append(b, uint64(max(0, h.timeout.Microseconds())))
	b = quicvarint.Append(b, uint64(h.size+1))
	b = appendString(b, h.method)
	b = appendString(b, h.authority)
	b = appendString(b, h.target)
	return appendFields(b, h.header)
}

func decodeRequest(payload string) (requestHead, error) {
	c := cursor{s: payload}
	h := requestHead{flags: c.uint(), timeout: c.micros(), size: c.size(), method: c.str(), authority: c.str(), target: c.str()}
	h.header = c.fields()
	switch {
	case c.err != nil:
		return h, c.err
	case !validToken(h.method) || h.method == http.MethodConnect:
		return h, malformed("method %.40q", h.method)
	case !validAuthority(h.authority):
		return h, malformed("authority %.80q", h.authority)
	}
	return h, nil
}

func validAuthority(s string) bool { return validValue(s) && !strings.ContainsAny(s, "/?#@ ") }

// url parses the target, which is in the form of an HTTP request line: a path with a query, or "*".
func (h *requestHead) url() (*url.URL, error) {
	if !strings.HasPrefix(h.target, "/") && h.target != "*" {
		return nil, malformed("target %.80q", h.target)
	}
	u, err := url.ParseRequestURI(h.target)
	if err != nil {
		return nil, malformed("target %.80q: %v", h.target, err)
	}
	return u, nil
}

// responseHead is the payload of a response frame.
type responseHead struct {
	status int
	size   int64 // of the body; -1 = not known
	header http.Header
}

// append appends the payload and returns where its size stands, for patchSize.
func (h *responseHead) append(b []byte) ([]byte, int) {
	b = quicvarint.Append(b, uint64(h.status))
	at := len(b)
	b = append(b, 0xc0, 0, 0, 0, 0, 0, 0, 0) // a varint of 8 bytes
	patchSize(b, at, h.size)
	return appendFields(b, h.header), at
}

func patchSize(b []byte, at int, size int64) {
	for i, v := 7, uint64(size+1); i >= 0; i, v = i-1, v>>8 {
		b[at+i] = byte(v)
	}
	b[at] |= 0xc0
}

func decodeResponse(payload string) (responseHead, error) {
	c := cursor{s: payload}
	h := responseHead{status: int(min(c.uint(), 1000)), size: c.size(), header: c.fields()}
	if c.err == nil && (h.status < 200 || h.status > 999) {
		c.fail("status")
	}
	return h, c.err
}

// bodySize reads a Content-Length header field; -1 = none.
func bodySize(h http.Header) (int64, error) {
	v := h["Content-Length"]
	if len(v) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(v[0], 10, 61)
	if err != nil || len(v) > 1 {
		return -1, fmt.Errorf("content length %.40q is not a number", v)
	}
	return int64(n), nil
}
