package guest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// exchange is a request as the handler sees it, and its response. One is made before the module's image
// is, with room for an ordinary request, so that the first request after it fills instead of allocates.
type exchange struct {
	head     []byte // room for the host's text
	ctx      requestContext
	request  *http.Request // has ctx
	url      url.URL
	header   http.Header // the request's
	facts    [len(factNames)]string
	values   [16]string // of other fields
	body     io.ReadCloser
	trailer  http.Header // what body finds at its end
	response response
}

// factNames are the fields that the gateway adds to each request. They are in the header of an exchange
// from the beginning, since putting them there is dear.
var factNames = [...]string{"Perigee-Client-Country", "Perigee-Client-Region", "Perigee-Entry-Region", "Perigee-Region", "Perigee-Request-Id", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

func newExchange(out sink, body io.ReadCloser, trailer http.Header) *exchange {
	x := &exchange{head: make([]byte, 2<<10), header: make(http.Header, 24), body: body, trailer: trailer}
	x.request = (&http.Request{}).WithContext(&x.ctx)
	for i, name := range factNames {
		x.header[name] = x.facts[i : i+1 : i+1]
	}
	x.response.init(out)
	return x
}

// fact returns the place of a name in factNames; -1 = none.
func fact(name string) int {
	switch name {
	case "Perigee-Client-Country":
		return 0
	case "Perigee-Client-Region":
		return 1
	case "Perigee-Entry-Region":
		return 2
	case "Perigee-Region":
		return 3
	case "Perigee-Request-Id":
		return 4
	case "X-Forwarded-For":
		return 5
	case "X-Forwarded-Host":
		return 6
	case "X-Forwarded-Proto":
		return 7
	}
	return -1
}

// errHead means that the host's text of a request is not as it should be.
var errHead = errors.New("read request: its head is cut")

// read makes the request what the host says of it in a list of texts, each behind its length: method, URI,
// protocol, source address, and then name and value of the fields, those of one name together. The request
// keeps parts of the list. Its body is read only if it says that it has one.
func (x *exchange) read(list string) error {
	r := x.request
	for _, to := range [...]*string{&r.Method, &r.RequestURI, &r.Proto, &r.RemoteAddr} {
		var ok bool
		if *to, list, ok = next(list); !ok {
			return errHead
		}
	}
	r.ProtoMajor, r.ProtoMinor = 1, 1
	if major, minor, ok := http.ParseHTTPVersion(r.Proto); ok {
		r.ProtoMajor, r.ProtoMinor = major, minor
	}
	length, coding, err := x.readFields(list)
	if err != nil {
		return err
	}
	if r.URL = &x.url; !readURI(r.URL, r.RequestURI) {
		if r.URL, err = url.ParseRequestURI(r.RequestURI); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
	}
	r.Header = x.header
	if r.ContentLength = bodyLength(r.Method, length, coding); coding != "" && length == "" {
		r.TransferEncoding = []string{"chunked"}
		delete(r.Header, "Transfer-Encoding")
	}
	if r.Body = http.NoBody; r.ContentLength != 0 {
		r.Body, r.Trailer = x.body, x.trailer
	}
	return nil
}

// readFields fills the header, and returns the fields that say how long the body is. Host is not in the
// header, as in net/http.
func (x *exchange) readFields(list string) (length, coding string, err error) {
	var seen [len(factNames)]bool
	last, used := "", 0
	for len(list) > 0 {
		name, rest, named := next(list)
		value, rest, valued := next(rest)
		if list = rest; !named || !valued {
			return "", "", errHead
		}
		if name == last {
			x.header[name] = append(x.header[name], value)
			continue
		}
		last = name
		if i := fact(name); i >= 0 {
			x.facts[i], seen[i] = value, true
			continue
		}
		switch name {
		case "Host":
			x.request.Host, last = value, ""
			continue
		case "Content-Length":
			length = value
		case "Transfer-Encoding":
			coding = value
		}
		if used == len(x.values) {
			x.header[name] = []string{value}
			continue
		}
		x.values[used] = value
		x.header[name] = x.values[used : used+1 : used+1]
		used++
	}
	for i, name := range factNames {
		if !seen[i] {
			delete(x.header, name)
		}
	}
	return length, coding, nil
}

// next takes the first text off a list. It returns false for a list that is cut.
func next(list string) (text, rest string, ok bool) {
	if len(list) < 4 {
		return "", "", false
	}
	end := 4 + int(uint32(list[0])|uint32(list[1])<<8|uint32(list[2])<<16|uint32(list[3])<<24)
	if end > len(list) {
		return "", "", false
	}
	return list[4:end], list[end:], true
}

// readURI is url.ParseRequestURI for what nearly all URIs are: a path of characters that stand for
// themselves, and perhaps a query. It reports whether it was one.
func readURI(u *url.URL, s string) bool {
	if s == "" || s[0] != '/' {
		return false
	}
	path := len(s)
	for i := range len(s) {
		c := s[i]
		switch {
		case uriPlain[c]:
		case c == '?' && path == len(s) && i+1 < len(s):
			path = i
		default:
			return false
		}
	}
	if u.Path = s[:path]; path < len(s) {
		u.RawQuery = s[path+1:]
	}
	return true
}

// uriPlain are the bytes that need no escape, in paths and queries.
var uriPlain = func() (plain [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/=&$+,:;@") {
		plain[c] = true
	}
	return plain
}()

// bodyLength returns what net/http's server would: the length, 0 for no body, -1 for unknown.
func bodyLength(method, length, coding string) int64 {
	if length != "" {
		if n, err := strconv.ParseInt(strings.TrimSpace(length), 10, 64); err == nil && n >= 0 {
			return n
		}
		return -1
	}
	if coding != "" {
		return -1
	}
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch: // hosts that hide Transfer-Encoding
		return -1
	}
	return 0
}

// first returns the first of the values of a field, as http.Header's Get does for canonical names.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
