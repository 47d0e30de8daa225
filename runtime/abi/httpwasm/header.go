package httpwasm

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tetratelabs/wazero/api"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// The kinds of fields.
const (
	requestHeader = iota
	responseHeader
	requestTrailer
	responseTrailer
)

// fields returns a kind of fields to be changed. The request's are copied first: they belong to the
// caller.
func (c *Call) fields(kind uint64, what string) *abi.Fields {
	switch uint32(kind) {
	case requestHeader:
		c.beforeNext(what + " of the request")
		if !c.headerCopied {
			c.headerCopied, c.requestHeader = true, abi.NewFields(c.Request.Header, c.Limits)
		}
		return &c.requestHeader
	case responseHeader:
		c.mayAnswer(what)
		return c.Answer.Header()
	case requestTrailer:
		c.beforeNext(what + " of the request")
		if !c.trailerCopied {
			c.trailerCopied, c.requestTrailer = true, abi.NewFields(c.Request.Trailer, c.Limits)
		}
		return &c.requestTrailer
	case responseTrailer:
		c.mayAnswer(what)
		return c.Answer.Trailer()
	}
	c.Trap("header kind %d is unknown; use 0 to 3", uint32(kind))
	return nil
}

// values returns the values of a kind of fields. The request's header includes what net/http keeps
// elsewhere: the host, and how its body is delimited.
func (c *Call) values(kind uint64, name string) []string {
	switch uint32(kind) {
	case requestHeader:
		return c.requestValues(http.CanonicalHeaderKey(name))
	case responseHeader:
		return c.Answer.Header().Values(name)
	case requestTrailer:
		if c.trailerCopied {
			return c.requestTrailer.Values(name)
		}
		return c.Request.Trailer.Values(name)
	case responseTrailer:
		return c.Answer.Trailer().Values(name)
	}
	c.Trap("header kind %d is unknown; use 0 to 3", uint32(kind))
	return nil
}

func (c *Call) requestValues(name string) []string {
	r := c.Request
	switch {
	case name == "Host":
		return []string{r.Host}
	case name == "Content-Length" && (r.ContentLength > 0 || r.ContentLength == 0 && bodyExpected(r.Method)):
		return []string{strconv.FormatInt(r.ContentLength, 10)}
	case name == "Transfer-Encoding" && r.ContentLength < 0:
		return []string{"chunked"}
	case c.headerCopied:
		return c.requestHeader.Values(name)
	}
	return r.Header[name]
}

// bodyExpected reports whether a request without a body says so by a Content-Length of 0.
func bodyExpected(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

func (c *Call) names(kind uint64) []string {
	var h http.Header
	switch uint32(kind) {
	case requestHeader:
		if h = c.Request.Header; c.headerCopied {
			h = c.requestHeader.Map()
		}
	case responseHeader:
		return c.Answer.Header().Names()
	case requestTrailer:
		if h = c.Request.Trailer; c.trailerCopied {
			h = c.requestTrailer.Map()
		}
	case responseTrailer:
		return c.Answer.Trailer().Names()
	default:
		c.Trap("header kind %d is unknown; use 0 to 3", uint32(kind))
	}
	names := make([]string, 0, len(h)+2)
	for name := range h {
		names = append(names, name)
	}
	if uint32(kind) == requestHeader {
		for _, name := range []string{"Host", "Content-Length", "Transfer-Encoding"} {
			if !slices.Contains(names, name) && len(c.requestValues(name)) > 0 {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// replyList writes NUL-terminated strings if they are not longer than limit together, and returns
// count<<32 | length either way.
func (c *Call) replyList(mod api.Module, ptr, limit uint64, list []string) uint64 {
	n := 0
	for _, s := range list {
		n += len(s) + 1
	}
	if n > 0 && n <= int(uint32(limit)) {
		c.Write(mod, uint32(ptr), []byte(strings.Join(list, "\x00")+"\x00"))
	}
	return uint64(len(list))<<32 | uint64(n)
}

func (c *Call) getHeaderNames(mod api.Module, s []uint64) {
	c.begun("get_header_names")
	names := c.names(s[0])
	for i, name := range names {
		names[i] = strings.ToLower(name)
	}
	s[0] = c.replyList(mod, s[1], s[2], names)
}

func (c *Call) getHeaderValues(mod api.Module, s []uint64) {
	c.begun("get_header_values")
	name := c.fieldName(mod, s[1], s[2])
	s[0] = c.replyList(mod, s[3], s[4], c.values(s[0], name))
}

func (c *Call) setHeaderValue(mod api.Module, s []uint64) {
	f := c.fields(s[0], "set a header")
	name, value := c.fieldName(mod, s[1], s[2]), c.ReadString(mod, uint32(s[3]), uint32(s[4]))
	if uint32(s[0]) == requestHeader && http.CanonicalHeaderKey(name) == "Host" {
		c.Request.Host = value
		return
	}
	c.Must(f.Set(name, value))
}

func (c *Call) addHeaderValue(mod api.Module, s []uint64) {
	f := c.fields(s[0], "add a header")
	name, value := c.fieldName(mod, s[1], s[2]), c.ReadString(mod, uint32(s[3]), uint32(s[4]))
	c.Must(f.Add(name, value))
}

func (c *Call) removeHeader(mod api.Module, s []uint64) {
	f := c.fields(s[0], "remove a header")
	f.Remove(c.fieldName(mod, s[1], s[2]))
}

func (c *Call) fieldName(mod api.Module, ptr, n uint64) string {
	if uint32(n) == 0 {
		c.Trap("a header name is empty")
	}
	return c.ReadString(mod, uint32(ptr), uint32(n))
}
