package outbound

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/perigee-edge/perigee/runtime/abi"
)

// parseHead reads the head of a request. length is that of the body, -1 if it does not say.
func parseHead(text string, maxFields int) (r *http.Request, length int64, err error) {
	line, rest, _ := strings.Cut(text, "\n")
	method, target, _ := strings.Cut(line, " ")
	if !abi.Token(method) {
		return nil, 0, fmt.Errorf("method %.40q is no token", method)
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme == "" || u.Host == "" || strings.ContainsFunc(target, unicode.IsSpace) {
		return nil, 0, fmt.Errorf("%.80q is no absolute URL", target)
	}
	r = &http.Request{Method: method, URL: u, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	length = -1
	for n := 0; rest != ""; n++ {
		line, rest, _ = strings.Cut(rest, "\n")
		name, value, found := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		switch {
		case n == maxFields:
			return nil, 0, fmt.Errorf("more than %d fields", maxFields)
		case !found || !abi.Token(name):
			return nil, 0, fmt.Errorf("field %.40q: want a name, a colon and a value", line)
		case strings.ContainsFunc(value, func(c rune) bool { return c < 0x20 && c != '\t' || c == 0x7f }):
			return nil, 0, fmt.Errorf("field %.40q has a control character in its value", name)
		}
		switch key := http.CanonicalHeaderKey(name); key {
		case "Host", "Transfer-Encoding", "Connection", "Trailer": // the URL's, and the connection's
		case "Content-Length":
			if length >= 0 {
				return nil, 0, errors.New("content-length occurs twice")
			}
			if length, err = strconv.ParseInt(value, 10, 64); err != nil || length < 0 {
				return nil, 0, fmt.Errorf("content-length %.40q is no number", value)
			}
		default:
			r.Header[key] = append(r.Header[key], value)
		}
	}
	return r, length, nil
}

// formatHead writes the head of a response.
func formatHead(resp *http.Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s\n", resp.StatusCode, resp.Proto)
	if resp.ContentLength >= 0 && resp.Header.Get("Content-Length") == "" {
		fmt.Fprintf(&b, "content-length: %d\n", resp.ContentLength)
	}
	formatFields(&b, resp.Header)
	return b.String()
}

// formatFields writes fields in the order of their names. Their values have no line breaks, since they
// came over HTTP; those of a function in this process may.
func formatFields(b *strings.Builder, h http.Header) {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range h[name] {
			b.WriteString(strings.ToLower(name))
			b.WriteString(": ")
			b.WriteString(lineBreaks.Replace(v))
			b.WriteByte('\n')
		}
	}
}

var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")
