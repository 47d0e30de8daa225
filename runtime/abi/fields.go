package abi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Fields is a header or trailer that a guest may change: http.Header with limits.
type Fields struct {
	h      http.Header
	limits Limits
	count  int
	bytes  int
}

// NewFields returns a copy of h with limits.
func NewFields(h http.Header, l Limits) Fields {
	f := Fields{h: make(http.Header, len(h)), limits: l}
	for name, values := range h {
		f.h[name] = slices.Clone(values)
		for _, v := range values {
			f.count++
			f.bytes += len(name) + len(v)
		}
	}
	return f
}

// Map returns the fields. Who changes them directly is not bound by the limits.
func (f *Fields) Map() http.Header { return f.h }

// Len returns how many names there are.
func (f *Fields) Len() int { return len(f.h) }

// Names returns the names, sorted.
func (f *Fields) Names() []string {
	names := make([]string, 0, len(f.h))
	for name := range f.h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Values returns the values of a name.
func (f *Fields) Values(name string) []string { return f.h[http.CanonicalHeaderKey(name)] }

// Add adds a value.
func (f *Fields) Add(name, value string) error {
	name = http.CanonicalHeaderKey(name)
	f.count++
	f.bytes += len(name) + len(value)
	if f.count > f.limits.Headers || f.bytes > f.limits.HeaderBytes {
		return &GuestError{Kind: ResponseTooLarge, Detail: fmt.Sprintf("headers: more than %d fields or %d bytes", f.limits.Headers, f.limits.HeaderBytes)}
	}
	f.h[name] = append(f.h[name], value)
	return nil
}

// Set replaces all values of a name.
func (f *Fields) Set(name, value string) error {
	f.Remove(name)
	return f.Add(name, value)
}

// Remove removes all values of a name.
func (f *Fields) Remove(name string) {
	name = http.CanonicalHeaderKey(name)
	for _, v := range f.h[name] {
		f.count--
		f.bytes -= len(name) + len(v)
	}
	delete(f.h, name)
}

// hopByHop are the headers of one connection (RFC 9110, section 7.6.1, and what is used like them).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// reserved is the prefix of names that only the gateway sets.
const reserved = "Perigee-"

func forbiddenHeader(name string) bool {
	return slices.Contains(hopByHop, name) || name == "Content-Length" || strings.HasPrefix(name, reserved)
}

// forbiddenTrailer also covers what receivers act on before the body (RFC 9110, section 6.5.1).
func forbiddenTrailer(name string) bool {
	switch name {
	case "Host", "Content-Type", "Content-Encoding", "Content-Range", "Set-Cookie", "Cache-Control", "Expires", "Location", "Vary", "Date", "Authorization", "Www-Authenticate":
		return true
	}
	return forbiddenHeader(name)
}

// clean returns the fields that may leave: with valid names and values, and none that are forbidden
// or named in Connection. What is dropped is noted, but for lengths, which are dropped always.
func (a *Answer) clean(h http.Header, forbidden func(string) bool) http.Header {
	var listed []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			listed = append(listed, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	out := make(http.Header, len(h))
	for name, values := range h {
		key := http.CanonicalHeaderKey(name)
		if !Token(key) || forbidden(key) || slices.Contains(listed, key) {
			if key != "Content-Length" {
				a.dropped = append(a.dropped, key)
			}
			continue
		}
		for _, v := range values {
			if v = lineBreaks.Replace(v); !printable(v) {
				a.dropped = append(a.dropped, key)
				continue
			}
			out[key] = append(out[key], strings.Trim(v, " \t"))
		}
	}
	return out
}

// lineBreaks turns what would end a header line into spaces, as net/http does.
var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")

// Token reports whether s is a field name (RFC 9110, section 5.6.2).
func Token(s string) bool {
	for _, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// printable reports whether s is a field value: no control characters but tab.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if (c < 0x20 && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}
