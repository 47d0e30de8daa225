package abi_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee/runtime/abi"
)

var limits = abi.Limits{Response: 1 << 20, Buffer: 1 << 18, Headers: 20, HeaderBytes: 1 << 10}

// must fails the test on an error that a guest would have been told.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnswerOnTheWire sends answers through net/http's server and reads the bytes: what a guest says
// must never frame a message.
func TestAnswerOnTheWire(t *testing.T) {
	set := func(pairs ...string) func(*testing.T, *abi.Answer) {
		return func(t *testing.T, a *abi.Answer) {
			for i := 0; i < len(pairs); i += 2 {
				must(t, a.Header().Add(pairs[i], pairs[i+1]))
			}
		}
	}
	for name, tc := range map[string]struct {
		method string
		fill   func(*testing.T, *abi.Answer)
		body   string
		head   []string // lines that must be there
		not    []string // texts that must not
	}{
		"plain":                 {"GET", set("X-A", "1", "X-A", "2"), "hello", []string{"HTTP/1.1 200 OK", "X-A: 1", "X-A: 2", "Content-Length: 5"}, nil},
		"nothing":               {"GET", set(), "", []string{"HTTP/1.1 200 OK", "Content-Length: 0"}, nil},
		"two lengths":           {"GET", set("Content-Length", "2", "Content-Length", "5"), "hello", []string{"Content-Length: 5"}, []string{"Content-Length: 2"}},
		"a wrong length":        {"GET", set("Content-Length", "99"), "hello", []string{"Content-Length: 5"}, []string{"99"}},
		"an odd length":         {"GET", set("Content-Length", "+5"), "hello", []string{"Content-Length: 5"}, []string{"+5"}},
		"transfer encoding":     {"GET", set("Transfer-Encoding", "chunked", "TE", "trailers"), "hello", []string{"Content-Length: 5"}, []string{"chunked", "trailers"}},
		"hop by hop":            {"GET", set("Connection", "close, X-Mine", "X-Mine", "1", "Keep-Alive", "timeout=5", "Upgrade", "h2c", "Proxy-Connection", "x"), "", nil, []string{"X-Mine", "Keep-Alive", "h2c", "Proxy-", "close"}},
		"reserved":              {"GET", set("perigee-receipt", "x", "Perigee-Hop-Entry", "x"), "", nil, []string{"erigee"}},
		"line breaks":           {"GET", set("X-A", "1\r\nSet-Cookie: evil=1\r\n\r\nbody"), "", []string{"X-A: 1  Set-Cookie: evil=1    body"}, []string{"\r\nSet-Cookie"}},
		"line breaks in a name": {"GET", set("X-A: 1\r\nSet-Cookie", "evil"), "", nil, []string{"evil"}},
		"control characters":    {"GET", set("X-A", "a\x00b", "X-B", "a\x7fb", "X-C", "a\tb"), "", []string{"X-C: a\tb"}, []string{"X-A", "X-B"}},
		"bad names":             {"GET", set("", "x", "a b", "x", "a:b", "x", "ä", "x"), "", nil, []string{": x"}},
		"a status":              {"GET", func(t *testing.T, a *abi.Answer) { must(t, a.SetStatus(404)) }, "no", []string{"HTTP/1.1 404 Not Found", "Content-Length: 2"}, nil},
		"no content": {"GET", func(t *testing.T, a *abi.Answer) {
			must(t, a.SetStatus(204))
			must(t, a.Header().Set("Content-Length", "7"))
		}, "ignored", []string{"HTTP/1.1 204 No Content"}, []string{"ignored", "Content-Length"}},
		"not modified":       {"GET", func(t *testing.T, a *abi.Answer) { must(t, a.SetStatus(304)) }, "ignored", []string{"HTTP/1.1 304 Not Modified"}, []string{"ignored"}},
		"head":               {"HEAD", set(), "hello", []string{"Content-Length: 5"}, []string{"hello"}},
		"head with a length": {"HEAD", set("Content-Length", "12345"), "", []string{"Content-Length: 12345"}, nil},
		"head with two":      {"HEAD", set("Content-Length", "1", "Content-Length", "2"), "", nil, []string{"Content-Length"}},
		"trailers": {"GET", func(t *testing.T, a *abi.Answer) {
			must(t, a.Trailer().Set("X-Sum", "42"))
			must(t, a.Trailer().Set("Content-Length", "3"))
		}, "hello", []string{"Transfer-Encoding: chunked", "X-Sum: 42"}, []string{"Content-Length"}},
		"a long body":             {"GET", set(), strings.Repeat("x", 100_000), []string{"Transfer-Encoding: chunked"}, []string{"Content-Length"}},
		"a long body of a length": {"GET", set("Content-Length", "100000"), strings.Repeat("x", 100_000), []string{"Content-Length: 100000"}, []string{"chunked"}},
	} {
		t.Run(name, func(t *testing.T) {
			wire := exchange(t, tc.method, func(w http.ResponseWriter) {
				a := abi.NewAnswer(w, tc.method, limits)
				tc.fill(t, a)
				must(t, a.Write([]byte(tc.body[:len(tc.body)/2])))
				must(t, a.Write([]byte(tc.body[len(tc.body)/2:])))
				must(t, a.Finish())
			})
			for _, line := range tc.head {
				if !strings.Contains(wire, line+"\r\n") {
					t.Errorf("no line %q in\n%.1000s", line, wire)
				}
			}
			for _, text := range tc.not {
				if strings.Contains(wire, text) {
					t.Errorf("%q is in\n%.1000s", text, wire)
				}
			}
		})
	}
}

// exchange returns the bytes of a response to one request.
func exchange(t *testing.T, method string, handle func(http.ResponseWriter)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { handle(w) }))
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, method+" / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	must(t, err)
	wire, err := io.ReadAll(bufio.NewReader(conn))
	must(t, err)
	return strings.Replace(string(wire), "Connection: close\r\n", "", 1) // the server's own
}

// TestAnswerErrors covers what a guest can't answer.
func TestAnswerErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		kind abi.Kind
		fill func(a *abi.Answer) error
	}{
		"too much body": {abi.ResponseTooLarge, func(a *abi.Answer) error {
			return errors.Join(a.Write(make([]byte, limits.Response)), a.Write([]byte("x")))
		}},
		"too much body to keep": {abi.ResponseTooLarge, func(a *abi.Answer) error {
			a.Keep()
			return errors.Join(a.Write(make([]byte, limits.Buffer)), a.Write([]byte("x")))
		}},
		"too many headers": {abi.ResponseTooLarge, func(a *abi.Answer) (err error) {
			for range limits.Headers + 1 {
				err = a.Header().Add("X", "")
			}
			return err
		}},
		"too large headers": {abi.ResponseTooLarge, func(a *abi.Answer) error {
			return a.Header().Add("X", strings.Repeat("x", limits.HeaderBytes))
		}},
		"more than the length": {abi.BadResponse, func(a *abi.Answer) error {
			return errors.Join(a.Header().Set("Content-Length", "50000"), a.Write(make([]byte, 40_000)), a.Write(make([]byte, 20_000)))
		}},
		"less than the length": {abi.BadResponse, func(a *abi.Answer) error {
			return errors.Join(a.Header().Set("Content-Length", "50000"), a.Write(make([]byte, 40_000)), a.Finish())
		}},
		"a status of 101": {abi.BadResponse, func(a *abi.Answer) error { return a.SetStatus(101) }},
		"a status of 0":   {abi.BadResponse, func(a *abi.Answer) error { return a.SetStatus(0) }},
	} {
		err := tc.fill(abi.NewAnswer(httptest.NewRecorder(), "GET", limits))
		var guest *abi.GuestError
		if !errors.As(err, &guest) || guest.Kind != tc.kind {
			t.Errorf("%s: %v, want %s", name, err, tc.kind)
		}
	}
}

// TestFieldsCount checks that replaced and removed fields do not count for ever.
func TestFieldsCount(t *testing.T) {
	f := abi.NewFields(http.Header{"A": {"1", "2"}}, limits)
	for range 1000 {
		must(t, f.Set("a", "x"))
		must(t, f.Add("b", "y"))
		f.Remove("B")
		f.Remove("never there")
	}
	if got := f.Names(); len(got) != 1 || got[0] != "A" || f.Len() != 1 {
		t.Errorf("names %v", got)
	}
}

// hinted is a recorder that tells informational responses from final ones.
type hinted struct {
	*httptest.ResponseRecorder
	hints []http.Header
}

func (h *hinted) WriteHeader(status int) {
	if status >= 200 {
		h.ResponseRecorder.WriteHeader(status)
		return
	}
	h.hints = append(h.hints, h.Header().Clone())
}

// TestNextWriter covers what a wrapped handler can do to the answer.
func TestNextWriter(t *testing.T) {
	rec := &hinted{ResponseRecorder: httptest.NewRecorder()}
	a := abi.NewAnswer(rec, "GET", limits)
	w := a.Next()
	w.Header()["Link"], w.Header()["Perigee-X"] = []string{"</a>"}, []string{"x"}
	w.WriteHeader(http.StatusEarlyHints)
	clear(w.Header()) // as httputil.ReverseProxy does
	w.Header().Set(http.TrailerPrefix+"X-Sum", "42")
	w.WriteHeader(http.StatusCreated)
	w.WriteHeader(http.StatusTeapot)
	_, err := io.WriteString(w, "made")
	must(t, err)
	must(t, http.NewResponseController(w).Flush())
	must(t, w.Close())
	must(t, a.Finish())
	res := rec.Result()
	if res.StatusCode != http.StatusCreated || rec.Body.String() != "made" || res.Trailer.Get("X-Sum") != "42" || !rec.Flushed {
		t.Errorf("%v %q %v", res.Status, rec.Body, res.Trailer)
	}
	if len(rec.hints) != 1 || len(rec.hints[0]) != 1 || rec.hints[0].Get("Link") != "</a>" || len(res.Header["Link"]) > 0 {
		t.Errorf("hints %v, header %v", rec.hints, res.Header)
	}
	bad := abi.NewAnswer(httptest.NewRecorder(), "GET", limits).Next()
	bad.WriteHeader(700)
	if _, err := bad.Write(nil); err == nil || bad.Close() == nil {
		t.Error("a status of 700 was taken")
	}
}

// TestAnswerWaits checks that it is known whether the client may lack something, also after the head has
// left.
func TestAnswerWaits(t *testing.T) {
	a := abi.NewAnswer(httptest.NewRecorder(), http.MethodGet, limits)
	for step, tc := range []struct {
		do   func() error
		want bool
	}{
		{func() error { return nil }, false},
		{func() error { return a.Write([]byte("first")) }, true},
		{a.Flush, false},
		{func() error { return a.Write(nil) }, false},
		{func() error { return a.Write([]byte("second")) }, true},
		{a.Flush, false},
	} {
		if err := tc.do(); err != nil || a.Waits() != tc.want {
			t.Errorf("step %d: waits %v, %v", step, a.Waits(), err)
		}
	}
}
