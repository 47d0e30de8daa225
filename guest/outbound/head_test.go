package outbound

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestFormatHead(t *testing.T) {
	for want, r := range map[string]*http.Request{
		"GET https://a.example/p?q=1\n|false":                      request("", "https://a.example/p?q=1#f", "", 0, nil),
		"POST http://a.example\ncontent-length: 0\n|false":         request("POST", "http://a.example", "", 0, nil),
		"POST http://a.example\ncontent-length: 4\n|true":          request("POST", "http://a.example", "body", 4, http.Header{"Content-Length": {"9"}}),
		"PUT http://a.example\n|true":                              request("PUT", "http://a.example", "body", -1, nil),
		"GET http://a.example/\nAuthorization: Basic dTpw\n|false": request("GET", "http://u:p@a.example/", "", 0, nil),
		"GET http://a.example/\nAuthorization: mine\n|false":       request("GET", "http://u:p@a.example/", "", 0, http.Header{"Authorization": {"mine"}}),
		"DELETE http://a.example/\nX-A: 1\nX-A: 2\n|false":         request("DELETE", "http://a.example/", "", 0, http.Header{"X-A": {"1", "2"}}),
		"GET http://a.example/\n|false":                            request("GET", "http://a.example/", "", 0, http.Header{}),
	} {
		head, body, err := formatHead(r)
		text, flag, _ := strings.Cut(want, "|")
		if err != nil || head != text || body != (flag == "true") {
			t.Errorf("got %q, %v, %v; want %q", head, body, err, want)
		}
	}
	if _, _, err := formatHead(request("GET", "http://a.example/", "", 0, http.Header{"X": {"a\nhost: b"}})); err == nil {
		t.Error("a line break in a value is sent")
	}
	if _, _, err := formatHead(&http.Request{}); err == nil {
		t.Error("a request without a URL is sent")
	}
}

func request(method, url, body string, length int64, h http.Header) *http.Request {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		panic(err)
	}
	if r.Method = method; body != "" {
		r, _ = http.NewRequest(method, url, strings.NewReader(body))
		r.ContentLength = length
	}
	if h != nil {
		r.Header = h
	}
	return r
}

func TestParseResponse(t *testing.T) {
	r := request("GET", "http://a.example/", "", 0, nil)
	resp, err := parseResponse("404 HTTP/2.0\ncontent-length: 7\nset-cookie: a=1: 2\nset-cookie: b\n", r)
	if err != nil || resp.StatusCode != 404 || resp.Status != "404 Not Found" || resp.ProtoMajor != 2 || resp.ContentLength != 7 ||
		!slices.Equal(resp.Header["Set-Cookie"], []string{"a=1: 2", "b"}) || resp.Request != r {
		t.Errorf("%+v, %v", resp, err)
	}
	if resp, err := parseResponse("200 HTTP/1.1", r); err != nil || resp.ContentLength != -1 || len(resp.Header) != 0 {
		t.Errorf("%+v, %v", resp, err)
	}
	if _, err := parseResponse("", r); err == nil {
		t.Error("no head is a head")
	}
}
