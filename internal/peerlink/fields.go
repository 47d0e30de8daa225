package peerlink

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/quic-go/quic-go/quicvarint"

	"github.com/perigee-edge/perigee"
)

// appendLoad appends a load; the zero Load means that nothing is reported.
func appendLoad(b []byte, l perigee.Load) []byte {
	if l == (perigee.Load{}) {
		return append(b, 0)
	}
	b = append(b, 1)
	b = quicvarint.Append(b, uint64(max(0, l.InFlight)))
	b = quicvarint.Append(b, uint64(max(0, l.Slots)))
	return quicvarint.Append(b, uint64(l.Service))
}

func appendString(b []byte, s string) []byte {
	return append(quicvarint.Append(b, uint64(len(s))), s...)
}

// appendFields appends a list of header fields in any order of names. The caller has checked them.
func appendFields(b []byte, h http.Header) []byte {
	n := 0
	for name, values := range h {
		if travels(name) {
			n += len(values)
		}
	}
	b = quicvarint.Append(b, uint64(n))
	for name, values := range h {
		if !travels(name) {
			continue
		}
		for _, v := range values {
			b = appendString(b, name)
			b = appendString(b, v)
		}
	}
	return b
}

// travels reports whether a header field is sent: fields about one connection (RFC 9114, section
// 4.2) are not, and neither is the length, which the head has in a place of its own.
func travels(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "Content-Length", "Host":
		return false
	}
	return !strings.HasPrefix(name, http.TrailerPrefix)
}

// checkFields reports why a list of header fields can't be sent in a head whose other parts have
// the given size.
func checkFields(h http.Header, others int) error {
	const lengths = 8 // of name and value, at most
	n, size := 0, others+64
	for name, values := range h {
		if !travels(name) {
			continue
		}
		if !validToken(name) {
			return fmt.Errorf("header field name %.80q has characters that HTTP does not allow", name)
		}
		for _, v := range values {
			if !validValue(v) {
				return fmt.Errorf("value of header field %q has characters that HTTP does not allow", name)
			}
			n, size = n+1, size+len(name)+len(v)+lengths
		}
	}
	if n > maxFields || size > maxHead {
		return fmt.Errorf("head of %d fields and about %d bytes: the limits are %d and %d", n, size, maxFields, maxHead)
	}
	return nil
}

// cursor reads a payload. After the first error all reads return zero values. Strings share the
// payload's memory.
type cursor struct {
	s   string
	err error
}

func (c *cursor) fail(what string) {
	if c.err == nil {
		c.err = malformed("malformed %s", what)
	}
	c.s = ""
}

func (c *cursor) uint() uint64 {
	if c.s == "" {
		c.fail("integer")
		return 0
	}
	n := 1 << (c.s[0] >> 6)
	if len(c.s) < n {
		c.fail("integer")
		return 0
	}
	v := uint64(c.s[0] & 0x3f)
	for i := 1; i < n; i++ {
		v = v<<8 | uint64(c.s[i])
	}
	c.s = c.s[n:]
	return v
}

func (c *cursor) micros() time.Duration {
	const most = uint64(365 * 24 * time.Hour / time.Microsecond)
	return time.Duration(min(c.uint(), most)) * time.Microsecond
}

func (c *cursor) size() int64 { return int64(c.uint()) - 1 }

func (c *cursor) str() string {
	n := c.uint()
	if n > uint64(len(c.s)) {
		c.fail("string")
		return ""
	}
	s := c.s[:n]
	c.s = c.s[n:]
	return s
}

// load returns the zero Load if nothing was reported.
func (c *cursor) load() (l perigee.Load) {
	if c.uint() == 0 {
		return l
	}
	const most = 1<<31 - 1
	l.InFlight = int32(min(c.uint(), most))
	l.Slots = int32(min(c.uint(), most))
	l.Service = uint32(min(c.uint(), most))
	return l
}

// fields reads a list of header fields. Names become canonical.
func (c *cursor) fields() http.Header {
	n := c.uint()
	if n > maxFields || n > uint64(len(c.s))/2 {
		c.fail("field count")
		return nil
	}
	h := make(http.Header, n)
	values := make([]string, n) // one array for all fields that occur once
	for i := range values {
		name, value := c.str(), c.str()
		if c.err != nil {
			return nil
		}
		if !validToken(name) || !validValue(value) {
			c.fail("field")
			return nil
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if old, ok := h[name]; ok {
			h[name] = append(old, value)
			continue
		}
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
	return h
}

// validToken reports whether s is a token (RFC 9110, section 5.6.2).
func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c >= 0x80 || tokenChars[c/64]&(1<<(c%64)) == 0 {
			return false
		}
	}
	return s != ""
}

var tokenChars = func() (set [2]uint64) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		set[c/64] |= 1 << (c % 64)
	}
	return set
}()

// validValue reports whether s has no control character but tab.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
