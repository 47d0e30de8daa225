package guest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// head is a request without its body, as the host tells it.
type head struct {
	method, uri, proto, remoteAddr string
	header                         http.Header // with Host, canonical names
}

// first returns the first of the values of a field, as http.Header's Get does for canonical names.
func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// canonicals has the canonical forms of names that this module has met: mostly before its image was made.
var canonicals = map[string]string{}

// maxCanonicals bounds them in an instance that is not made anew for each request.
const maxCanonicals = 1000

// canonical is http.CanonicalHeaderKey, which is dear.
func canonical(name []byte) string {
	c, ok := canonicals[string(name)]
	if !ok {
		c = http.CanonicalHeaderKey(string(name))
		if len(canonicals) < maxCanonicals {
			canonicals[string(name)] = c
		}
	}
	return c
}

// newRequest makes the request that the handler sees. body is read only when the request says that
// it has one.
func newRequest(ctx context.Context, h head, body io.ReadCloser) (*http.Request, error) {
	u, err := url.ParseRequestURI(h.uri)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	r := http.Request{
		Method:     h.method,
		URL:        u,
		Proto:      h.proto,
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     h.header,
		Host:       first(h.header["Host"]),
		RequestURI: h.uri,
		RemoteAddr: h.remoteAddr,
	}
	delete(r.Header, "Host") // as net/http does: it is in r.Host
	if major, minor, ok := http.ParseHTTPVersion(h.proto); ok {
		r.ProtoMajor, r.ProtoMinor = major, minor
	}
	r.ContentLength = bodyLength(&r)
	if r.Body = body; r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	return r.WithContext(ctx), nil
}

// bodyLength returns what net/http's server would: the length, 0 for no body, -1 for unknown.
func bodyLength(r *http.Request) int64 {
	if s := first(r.Header["Content-Length"]); s != "" {
		if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil && n >= 0 {
			return n
		}
		return -1
	}
	if te := first(r.Header["Transfer-Encoding"]); te != "" {
		r.TransferEncoding = []string{"chunked"}
		delete(r.Header, "Transfer-Encoding")
		return -1
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch: // hosts that hide Transfer-Encoding
		return -1
	}
	return 0
}
