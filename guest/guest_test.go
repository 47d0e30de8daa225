package guest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// record is a sink that writes down what the host would get.
type record struct {
	status int
	header http.Header
	pieces []string
	after  http.Header
}

func (r *record) trailer(h http.Header) { r.after = h }

func (r *record) head(status int)                    { r.status, r.header = status, http.Header{} }
func (r *record) field(name string, values []string) { r.header[name] = slices.Clone(values) }
func (r *record) body(p []byte)                      { r.pieces = append(r.pieces, string(p)) }

func serve(h http.HandlerFunc) *record {
	var out record
	w := newResponse(&out)
	h(w, nil)
	w.finish()
	return &out
}

func TestResponse(t *testing.T) {
	large := strings.Repeat("x", bufferSize)
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		status  int
		header  http.Header
		pieces  []string
	}{
		"nothing": {func(w http.ResponseWriter, _ *http.Request) {}, 200, http.Header{}, nil},
		"small writes are one": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "a")
			io.WriteString(w, "b")
		}, 200, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, []string{"ab"}},
		"a large write": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<html>")
			fmt.Fprint(w, large)
			fmt.Fprint(w, "end")
		}, 200, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, []string{"<html>", large, "end"}},
		"flush": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "one")
			w.(http.Flusher).Flush()
			fmt.Fprint(w, "two")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}, 200, http.Header{"Content-Type": {"text/event-stream"}}, []string{"one", "", "two", ""}},
		"status": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil // no guess wanted
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
			w.WriteHeader(http.StatusOK)
			w.Header().Set("Too", "late")
			fmt.Fprint(w, "no")
		}, 404, http.Header{"Content-Type": nil}, []string{"no"}},
		"no guess when encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			fmt.Fprint(w, "..")
		}, 200, http.Header{"Content-Encoding": {"br"}}, []string{".."}},
		"no content": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
			if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Errorf("write after 204: %v", err)
			}
		}, 204, http.Header{}, nil},
	} {
		got := serve(tc.handler)
		if got.status != tc.status || !reflect.DeepEqual(got.header, tc.header) || !reflect.DeepEqual(got.pieces, tc.pieces) {
			t.Errorf("%s: %d %v %.200q", name, got.status, got.header, got.pieces)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a status of 42 was taken")
		}
	}()
	serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(42) })
}

func TestRequest(t *testing.T) {
	body := io.NopCloser(strings.NewReader("body"))
	for name, tc := range map[string]struct {
		method string
		header http.Header
		length int64
	}{
		"GET":                 {"GET", http.Header{}, 0},
		"GET with a body":     {"GET", http.Header{"Content-Length": {"4"}}, 4},
		"POST":                {"POST", http.Header{"Content-Length": {"4"}}, 4},
		"POST without a body": {"POST", http.Header{"Content-Length": {"0"}}, 0},
		"POST, chunked":       {"POST", http.Header{"Transfer-Encoding": {"chunked"}}, -1},
		"POST, who knows":     {"POST", http.Header{}, -1},
		"a bad length":        {"PUT", http.Header{"Content-Length": {"four"}}, -1},
	} {
		tc.header.Set("Host", "h.test")
		r, err := newRequest(t.Context(), head{method: tc.method, uri: "/a%20b?c=d", proto: "HTTP/2.0", remoteAddr: "[::1]:80", header: tc.header}, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.ContentLength != tc.length || (r.Body == http.NoBody) != (tc.length == 0) {
			t.Errorf("%s: length %d, body %v", name, r.ContentLength, r.Body)
		}
		if r.Host != "h.test" || r.Header.Get("Host") != "" || r.URL.Path != "/a b" || r.ProtoMajor != 2 || r.RemoteAddr != "[::1]:80" || r.FormValue("c") != "d" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := newRequest(t.Context(), head{method: "GET", uri: "no uri", header: http.Header{}}, body); err == nil {
		t.Error("a bad URI was taken")
	}
}

// TestServeReturns checks that a package which calls Serve in an init function can be tested.
func TestServeReturns(t *testing.T) {
	Serve(http.NotFoundHandler())
}
