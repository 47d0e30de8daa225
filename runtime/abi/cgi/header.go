package cgi

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// header reads the header of a response as it comes, line by line (RFC 3875, section 6): fields, each on
// one line that ends with LF or CRLF, and an empty line.
type header struct {
	answer *abi.Answer
	limit  int // bytes of all lines

	line []byte // the part of a line that has come
	size int
	done bool

	status, location, contentType bool // they have come
}

// feed takes the next bytes and returns how many belong to the header.
func (h *header) feed(p []byte) (n int, err error) {
	for n < len(p) && !h.done {
		part, _, whole := bytes.Cut(p[n:], []byte{'\n'})
		n += len(part)
		h.size += len(part)
		if whole {
			n++
			h.size++
		}
		if h.size > h.limit {
			return n, &abi.GuestError{Kind: abi.ResponseTooLarge, Detail: fmt.Sprintf("headers of more than %d bytes", h.limit)}
		}
		h.line = append(h.line, part...)
		if !whole {
			return n, nil
		}
		line := string(bytes.TrimSuffix(h.line, []byte{'\r'}))
		h.line = h.line[:0]
		if line == "" {
			return n, h.end()
		}
		if err := h.field(line); err != nil {
			return n, err
		}
	}
	return n, nil
}

// field takes one field.
func (h *header) field(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok || !abi.Token(name) {
		return bad("line %.80q of the header is not \"Name: value\"", line)
	}
	name, value = http.CanonicalHeaderKey(name), strings.Trim(value, " \t")
	switch {
	case name == "Status":
		if h.status {
			return bad("the header has two fields %s", name)
		}
		h.status = true
		return h.setStatus(value)
	case name == "Location":
		if h.location || value == "" {
			return bad("the header has two fields %s, or one that is empty", name)
		}
		h.location = true
	case name == "Content-Type":
		if h.contentType {
			return bad("the header has two fields %s", name)
		}
		h.contentType = true
	case strings.HasPrefix(name, "X-Cgi-"): // for the server, if it knows them
		return nil
	}
	return h.answer.Header().Add(name, value)
}

// setStatus takes the value of Status: three digits, and a reason that nobody needs.
func (h *header) setStatus(value string) error {
	code, _, _ := strings.Cut(value, " ")
	if len(code) != 3 {
		return bad("Status %.80q; use three digits and a text", value)
	}
	n := 0
	for _, c := range []byte(code) {
		if c < '0' || c > '9' {
			return bad("Status %.80q; use three digits and a text", value)
		}
		n = 10*n + int(c-'0')
	}
	return h.answer.SetStatus(n)
}

// end checks what has to be there.
func (h *header) end() error {
	h.done, h.line = true, nil
	switch {
	case h.location && !h.status:
		return h.answer.SetStatus(http.StatusFound)
	case !h.location && !h.status && !h.contentType:
		return bad("the header has none of Content-Type, Location and Status")
	}
	return nil
}

func bad(format string, args ...any) error {
	return &abi.GuestError{Kind: abi.BadResponse, Detail: fmt.Sprintf(format, args...)}
}
