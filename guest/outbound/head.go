package outbound

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// formatHead writes the head of a request in the form of perigee_http. hasBody says that a body follows.
func formatHead(r *http.Request) (head string, hasBody bool, err error) {
	if r.URL == nil {
		return "", false, fmt.Errorf("outbound: the request has no URL")
	}
	method := r.Method
	if method == "" {
		method = http.MethodGet
	}
	u := *r.URL
	u.Fragment, u.RawFragment = "", ""
	if u.User != nil && r.Header.Get("Authorization") == "" {
		c := r.Clone(r.Context())
		password, _ := u.User.Password()
		c.SetBasicAuth(u.User.Username(), password)
		r = c
	}
	u.User = nil
	var b strings.Builder
	b.WriteString(method + " " + u.String() + "\n")
	hasBody = r.Body != nil && r.Body != http.NoBody
	switch {
	case hasBody && r.ContentLength > 0:
		b.WriteString("content-length: " + strconv.FormatInt(r.ContentLength, 10) + "\n")
	case !hasBody && (method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch):
		b.WriteString("content-length: 0\n")
	}
	for name, values := range r.Header {
		if name == "Content-Length" {
			continue
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n\x00") {
				return "", false, fmt.Errorf("outbound: header %q: a value has a line break", name)
			}
			b.WriteString(name + ": " + v + "\n")
		}
	}
	return b.String(), hasBody, nil
}

// parseResponse reads the head of a response.
func parseResponse(head string, r *http.Request) (*http.Response, error) {
	line, fields, _ := strings.Cut(head, "\n")
	code, proto, _ := strings.Cut(line, " ")
	status, err := strconv.Atoi(code)
	if err != nil {
		return nil, fmt.Errorf("outbound: the host's response starts with %q", line)
	}
	resp := &http.Response{
		Status: code + " " + http.StatusText(status), StatusCode: status, Proto: proto, Header: http.Header{}, Trailer: http.Header{},
		ContentLength: -1, Request: r,
	}
	resp.ProtoMajor, resp.ProtoMinor, _ = http.ParseHTTPVersion(proto)
	parseFields(fields, resp.Header)
	if n, err := strconv.ParseInt(resp.Header.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		resp.ContentLength = n
	}
	return resp, nil
}

// parseFields adds fields to a header.
func parseFields(text string, h http.Header) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		h.Add(name, strings.TrimPrefix(value, " "))
	}
}
