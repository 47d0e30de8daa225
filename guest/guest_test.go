package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
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
	w := new(response)
	w.init(&out)
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
	rest := list("Host", "h.test", "X-Forwarded-For", "::1", "X-Forwarded-Proto", "https", "X-Forwarded-Proto", "http", "X-Many", "1", "X-Many", "2", "X-Empty", "")
	for name, tc := range map[string]struct {
		method, header string
		length         int64
	}{
		"GET":                 {"GET", "", 0},
		"GET with a body":     {"GET", list("Content-Length", "4"), 4},
		"POST":                {"POST", list("Content-Length", "4"), 4},
		"POST without a body": {"POST", list("Content-Length", "0"), 0},
		"POST, chunked":       {"POST", list("Transfer-Encoding", "chunked"), -1},
		"POST, who knows":     {"POST", "", -1},
		"a bad length":        {"PUT", list("Content-Length", "four"), -1},
	} {
		x := newExchange(&record{}, body, http.Header{})
		if err := x.read(list(tc.method, "/a%20b?c=d", "HTTP/2.0", "[::1]:80") + tc.header + rest); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r := x.request
		if r.ContentLength != tc.length || (r.Body == http.NoBody) != (tc.length == 0) || (r.TransferEncoding != nil) != strings.Contains(tc.header, "Transfer") {
			t.Errorf("%s: length %d, body %v, coding %q", name, r.ContentLength, r.Body, r.TransferEncoding)
		}
		if r.Method != tc.method || r.Host != "h.test" || r.URL.Path != "/a b" || r.ProtoMajor != 2 || r.RemoteAddr != "[::1]:80" || r.FormValue("c") != "d" {
			t.Errorf("%s: %+v", name, r)
		}
		want := http.Header{"X-Forwarded-For": {"::1"}, "X-Forwarded-Proto": {"https", "http"}, "X-Many": {"1", "2"}, "X-Empty": {""}}
		if strings.Contains(tc.header, "Content-Length") {
			_, length, _ := next(tc.header)
			want["Content-Length"] = []string{length[4:]}
		}
		if !reflect.DeepEqual(r.Header, want) {
			t.Errorf("%s: header %q", name, r.Header)
		}
	}
	many := list("GET", "/", "HTTP/1.1", "")
	for i := range 40 {
		many += list(fmt.Sprint("X-", i), fmt.Sprint(i))
	}
	x := newExchange(&record{}, body, nil)
	if err := x.read(many); err != nil || len(x.request.Header) != 40 || x.request.Header.Get("X-39") != "39" || x.request.Header.Get("X-7") != "7" {
		t.Errorf("many fields: %v, %q", err, x.request.Header)
	}
	for _, bad := range []string{"", list("GET"), list("GET", "no uri", "HTTP/1.1", ""), list("GET", "/", "HTTP/1.1", "", "Name"), list("GET", "/", "HTTP/1.1", "", "Name") + "\xff\xff\xff\xff"} {
		if newExchange(&record{}, body, nil).read(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestReadURI compares the short way with net/url.
func TestReadURI(t *testing.T) {
	list := []string{"", "/", "//", "//host/path", "///", "/a?b", "/a?", "/?", "/a?b?c", "*", "a", "http://h/", "/%", "/%41", "/a b", "/a#b", "/ü", "/a;b?c;d", "/a:b@c", "/a?b=c&d=e+f"}
	const alphabet = "/?%#&=+:;@!*'()~._- a4Z\x01\xff"
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		b := []byte{'/'}
		for range rng.IntN(12) {
			b = append(b, alphabet[rng.IntN(len(alphabet))])
		}
		list = append(list, string(b))
	}
	short := 0
	for _, s := range list {
		var got url.URL
		if !readURI(&got, s) {
			continue
		}
		short++
		if want, err := url.ParseRequestURI(s); err != nil || got != *want {
			t.Errorf("%q: %+v, want %+v, %v", s, got, want, err)
		}
	}
	if short < 1000 {
		t.Errorf("the short way was taken only %d times", short)
	}
}

// TestRequestContext checks a context that is asked before, or only after, the end of its request.
func TestRequestContext(t *testing.T) {
	for name, ask := range map[string]bool{"asked before": true, "asked after": false} {
		x := newExchange(&record{}, nil, nil)
		ctx := x.request.Context()
		var child context.Context
		if ask {
			var cancel context.CancelFunc
			child, cancel = context.WithCancel(ctx)
			defer cancel()
			if _, ok := ctx.Deadline(); ok || ctx.Err() != nil || ctx.Value("") != nil {
				t.Errorf("%s: it is %v", name, ctx)
			}
		}
		x.ctx.end()
		if <-ctx.Done(); ctx.Err() != context.Canceled {
			t.Errorf("%s: %v", name, ctx.Err())
		}
		if ask && child.Err() != context.Canceled {
			t.Errorf("%s: a child says %v", name, child.Err())
		}
	}
}

// TestServeReturns checks that a package which calls Serve in an init function can be tested.
func TestServeReturns(t *testing.T) {
	Serve(http.NotFoundHandler())
}
