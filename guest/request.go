package guest

import (
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

// newRequest makes the request that the handler sees. body is read only when the request says that
// it has one.
func newRequest(h head, body io.ReadCloser) (*http.Request, error) {
	u, err := url.ParseRequestURI(h.uri)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	r := &http.Request{
		Method:     h.method,
		URL:        u,
		Proto:      h.proto,
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     h.header,
		Host:       h.header.Get("Host"),
		RequestURI: h.uri,
		RemoteAddr: h.remoteAddr,
	}
	r.Header.Del("Host") // as net/http does: it is in r.Host
	if major, minor, ok := http.ParseHTTPVersion(h.proto); ok {
		r.ProtoMajor, r.ProtoMinor = major, minor
	}
	r.ContentLength = bodyLength(r)
	if r.Body = body; r.ContentLength == 0 {
		r.Body = http.NoBody
	}
	return r, nil
}

// bodyLength returns what net/http's server would: the length, 0 for no body, -1 for unknown.
func bodyLength(r *http.Request) int64 {
	if s := r.Header.Get("Content-Length"); s != "" {
		if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil && n >= 0 {
			return n
		}
		return -1
	}
	if te := r.Header.Get("Transfer-Encoding"); te != "" {
		r.TransferEncoding = []string{"chunked"}
		r.Header.Del("Transfer-Encoding")
		return -1
	}
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch: // hosts that hide Transfer-Encoding
		return -1
	}
	return 0
}
