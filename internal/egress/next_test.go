package egress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// functions is a cluster of handlers.
type functions map[string]http.HandlerFunc

func (f functions) ServeFunction(name string, w http.ResponseWriter, r *http.Request) {
	if h := f[name]; h != nil {
		h(w, r)
		return
	}
	http.Error(w, "unknown", http.StatusNotFound)
}

func TestFunction(t *testing.T) {
	seen := make(chan string, 1)
	ended := make(chan error, 1)
	fns := functions{
		"echo": func(w http.ResponseWriter, r *http.Request) {
			seen <- fmt.Sprint(r.Method, " ", r.URL, " ", r.Header["X-A"], r.Header["Perigee-X"], r.RemoteAddr, perigee.DepthFrom(r.Context()), perigee.CallerFrom(r.Context()))
			w.Header().Set("X-B", "b")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
			_ = http.NewResponseController(w).Flush()
			b := make([]byte, 10)
			for {
				n, err := r.Body.Read(b)
				if n > 0 {
					_, _ = w.Write(b[:n])
				}
				if err != nil {
					break
				}
			}
			w.Header().Set(http.TrailerPrefix+"X-Sum", "4")
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		},
		"panic": func(http.ResponseWriter, *http.Request) { panic("bug") },
		"empty": func(http.ResponseWriter, *http.Request) {},
		"hang": func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(w, neverEnding{})
			ended <- err
		},
		"wait": func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- context.Cause(r.Context())
		},
	}
	e := newEgress(t, Config{Functions: fns})
	var allowed []string
	for name := range fns {
		allowed = append(allowed, "fn:"+name)
	}
	tr := newTransport(t, e, allowed...)

	t.Run("streams both ways", func(t *testing.T) {
		body, send := io.Pipe()
		r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://echo.internal/a/b?c", body)
		r.Header = http.Header{"X-A": {"1"}, "Perigee-X": {"forged"}}
		resp, err := tr.RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusAccepted || resp.Header.Get("X-B") != "b" {
			t.Fatalf("%v, %v", resp, err)
		}
		defer resp.Body.Close()
		if got, want := <-seen, "POST /a/b?c [1] []1f"; got != want {
			t.Errorf("saw %q, want %q", got, want)
		}
		for range 2 {
			_, _ = io.WriteString(send, "ab")
			b := make([]byte, 2)
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "ab" {
				t.Errorf("got %q, %v", b, err)
			}
		}
		send.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil || resp.Trailer.Get("X-Sum") != "4" {
			t.Errorf("end: %q, %v, %v", rest, err, resp.Trailer)
		}
	})
	t.Run("failures", func(t *testing.T) {
		resp, err := get(t, tr, "http://cut.internal")
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off: %q, %v", b, err)
		}
		if _, err := get(t, tr, "http://panic.internal"); !errors.Is(err, errCutOff) {
			t.Errorf("panic: %v", err)
		}
		if resp, err := get(t, tr, "http://empty.internal"); err != nil || resp.StatusCode != 200 {
			t.Errorf("empty: %v, %v", resp, err)
		}
	})
	t.Run("ends with its caller", func(t *testing.T) {
		resp, err := get(t, tr, "http://hang.internal")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = resp.Body.Read(make([]byte, 5))
		resp.Body.Close()
		if err := <-ended; err == nil {
			t.Error("a write after the end worked")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://wait.internal", nil)
		if _, err := tr.RoundTrip(r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		<-ended
	})
	if n := len(tr.running); n != 0 {
		t.Errorf("%d places were not given back", n)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// TestLoop has a function that calls itself, as its own upstream and as its own next.
func TestLoop(t *testing.T) {
	calls := 0
	fns := functions{}
	e := newEgress(t, Config{Functions: fns})
	tr := newTransport(t, e, "fn:loop")
	next, err := e.Next("loop", "fn:loop")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	fns["loop"] = func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls > 100 {
			panic("no end")
		}
		if r.URL.Path == "/next" {
			next.ServeHTTP(w, r)
			return
		}
		out, _ := http.NewRequestWithContext(r.Context(), "GET", "http://loop.internal/", nil)
		resp, err := tr.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}
	for _, path := range []string{"/", "/next"} {
		calls = 0
		resp, err := get(t, tr, "http://loop.internal"+path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusLoopDetected || calls != perigee.MaxDepth || !strings.Contains(string(b), "loop") {
			t.Errorf("%s: %d %q after %d calls", path, resp.StatusCode, b, calls)
		}
	}
}

// TestNextFunction: what the gateway says about the inner request stays inside, trailers go on.
func TestNextFunction(t *testing.T) {
	e := newEgress(t, Config{Functions: functions{"inner": func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Perigee-Receipt", "r")
		w.Header().Set("Trailer", "X-Sum, X-None")
		w.Header().Set("X-A", r.Header.Get("Perigee-X")+r.Header.Get("X-In"))
		_, _ = io.WriteString(w, "inner")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("X-Sum", "5")
		w.Header().Set(http.TrailerPrefix+"X-Late", "l")
	}, "empty": func(http.ResponseWriter, *http.Request) {}}})
	for name, want := range map[string]string{"inner": "inner", "empty": ""} {
		next, err := e.Next("f", "fn:"+name)
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = http.Header{"Perigee-X": {"forged"}, "X-In": {"in"}}
		next.ServeHTTP(rec, r)
		next.Close()
		resp := rec.Result()
		if rec.Code != 200 || rec.Body.String() != want || resp.Header.Get("Perigee-Receipt") != "" || resp.Header.Get("Trailer") != "" {
			t.Errorf("%s: %d %q %v", name, rec.Code, rec.Body, resp.Header)
		}
		if name == "inner" && (resp.Header.Get("X-A") != "in" || resp.Trailer.Get("X-Sum") != "5" || resp.Trailer.Get("X-Late") != "l" || !rec.Flushed) {
			t.Errorf("header %v, trailer %v", resp.Header, resp.Trailer)
		}
	}
}

// front is a server whose handler is a next.
func front(t *testing.T, h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func TestOrigin(t *testing.T) {
	var got *http.Request
	more := make(chan struct{})
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(t.Context())
		switch r.URL.Path {
		case "/stream":
			_, _ = io.WriteString(w, "one\n")
			_ = http.NewResponseController(w).Flush()
			<-more
			_, _ = io.WriteString(w, "two\n")
			w.Header().Set(http.TrailerPrefix+"X-Sum", "2")
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "1")
			w.Header().Set("X-End", "1")
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.Copy(w, r.Body)
		}
	}))
	e, o := loopback(t, addr, Limits{})
	next, err := e.Next("f", o)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	url := front(t, next)

	r, _ := http.NewRequestWithContext(t.Context(), "PUT", url+"/a%2fb?c=;d", strings.NewReader("body"))
	r.Host = "public.test"
	r.Header = http.Header{"X-Forwarded-For": {"192.0.2.9"}, "X-Forwarded-Host": {"public.test"}, "X-Forwarded-Proto": {"https"}, "Upgrade": {"websocket"}, "Connection": {"upgrade"}, "Perigee-Region": {"fra"}}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusTeapot || string(b) != "body" || resp.Header.Get("X-Hop") != "" || resp.Header.Get("X-End") != "1" || resp.Header.Get("Via") != via {
		t.Errorf("%d %q %v", resp.StatusCode, b, resp.Header)
	}
	h := got.Header
	if got.RequestURI != "/a%2fb?c=;d" || "http://"+got.Host != o || h.Get("X-Forwarded-For") != "192.0.2.9" || h.Get("X-Forwarded-Host") != "public.test" ||
		h.Get("X-Forwarded-Proto") != "https" || h.Get("Via") != via || h.Get("Upgrade") != "" || h.Get("Perigee-Region") != "" {
		t.Errorf("the origin got %s %s %v", got.Host, got.RequestURI, h)
	}

	resp, err = http.Get(url + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(resp.Body)
	if l, err := lines.ReadString('\n'); l != "one\n" {
		t.Errorf("first line %q, %v", l, err)
	}
	close(more)
	rest, err := io.ReadAll(lines)
	if string(rest) != "two\n" || err != nil || resp.Trailer.Get("X-Sum") != "2" {
		t.Errorf("rest %q, %v, trailer %v", rest, err, resp.Trailer)
	}
	resp.Body.Close()

	// A loop through a proxy outside of the cluster is seen by its traces.
	got = nil
	for n, want := range map[int]int{perigee.MaxDepth - 1: http.StatusTeapot, perigee.MaxDepth: http.StatusLoopDetected} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Via"] = []string{"1.1 other", strings.Repeat(via+", ", n)}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		if rec.Code != want {
			t.Errorf("after %d passes: %d, want %d", n, rec.Code, want)
		}
	}

	// TRACE and OPTIONS pass as many proxies as they may.
	for _, tt := range []struct{ method, sent, got string }{
		{"TRACE", "2", "1"}, {"OPTIONS", "1", "0"}, {"OPTIONS", "", ""}, {"TRACE", "many", "many"}, {"GET", "0", "0"},
		{"TRACE", "0", "refused"}, {"OPTIONS", "0", "refused"},
	} {
		got = nil
		r := httptest.NewRequest(tt.method, "/", nil)
		if tt.sent != "" {
			r.Header.Set("Max-Forwards", tt.sent)
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		switch {
		case tt.got == "refused":
			if got != nil || rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") == "" {
				t.Errorf("%s with Max-Forwards %q: %d, the origin got %v", tt.method, tt.sent, rec.Code, got)
			}
		case got == nil || got.Method != tt.method || got.Header.Get("Max-Forwards") != tt.got:
			t.Errorf("%s with Max-Forwards %q: %d, the origin got %v", tt.method, tt.sent, rec.Code, got)
		}
	}

	// Where there is no server in the context, a response that breaks off must not look whole either.
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("a response that broke off: recovered %v", p)
			}
		}()
		next.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/cut", nil))
	}()
	http.DefaultClient.CloseIdleConnections()
}

func TestOriginFails(t *testing.T) {
	v := newVictim(t)
	release := make(chan struct{})
	defer close(release)
	slow := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-release }))
	e, slowOrigin := loopback(t, slow, Limits{HeaderTime: 20 * time.Millisecond, Requests: 1})
	e.resolver.(*names).sets["gone.test"] = nil
	for _, tt := range []struct {
		next   string
		status int
		text   string
	}{
		{"http://127.0.0.1:" + v.port, 502, `"loopback"`},
		{"http://a.test:" + v.port, 502, `"loopback"`},
		{"http://169.254.169.254", 502, `"cloud-metadata"`},
		{"http://gone.test", 502, "no usable response"},
		{slowOrigin, 504, "in time"},
		{"fn:any", 404, `"any"`},
	} {
		next, err := e.Next("f", tt.next)
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
		if b := rec.Body.String(); rec.Code != tt.status || !strings.Contains(b, tt.text) || tt.status > 500 && !strings.Contains(b, tt.next) || strings.Count(b, "127.0.0.1") > strings.Count(tt.next, "127.0.0.1") {
			t.Errorf("%s: %d %s", tt.next, rec.Code, b)
		}
		next.Close()
	}
	if v.accepted.Load() != 0 {
		t.Error("an origin on loopback was reached")
	}
	next, _ := e.Next("f", "http://a.test:1")
	next.transport.running <- struct{}{}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
		t.Errorf("too many: %d %v", rec.Code, rec.Header())
	}
	for _, s := range []string{"https://*.a.test", "files", "", "https://a.test/path"} {
		if _, err := e.Next("f", s); err == nil {
			t.Errorf("next %q is accepted", s)
		}
	}
}

// TestNextUpgrade: a WebSocket is agreed to only by the answer to its very handshake, and asked for only if
// the sender takes it and the guest left the wish in place.
func TestNextUpgrade(t *testing.T) {
	answer := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}
	asked := make(chan http.Header, 1)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Header
		for name, value := range answer {
			w.Header().Set(name, value)
		}
		w.WriteHeader(http.StatusSwitchingProtocols)
	}))
	e, o := loopback(t, addr, Limits{})
	n, err := e.Next("f", o)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for _, accept := range []string{"", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="} {
		answer["Sec-WebSocket-Accept"] = accept
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Upgrade", "websocket")
		ctx, up := WithUpgrade(r.Context())
		w := httptest.NewRecorder()
		n.ServeHTTP(w, r.WithContext(ctx))
		if h := <-asked; h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" || len(h.Get("Sec-Websocket-Key")) != 24 {
			t.Errorf("the origin is asked with %v", h)
		}
		if w.Code != http.StatusBadGateway || up.Take() != nil {
			t.Errorf("accept %q: %d", accept, w.Code)
		}
	}
	taken, _ := WithUpgrade(t.Context())
	nobody := httptest.NewRequest("GET", "/", nil)
	nobody.Header.Set("Upgrade", "websocket")
	for name, r := range map[string]*http.Request{"no wish": httptest.NewRequest("GET", "/", nil).WithContext(taken), "nobody takes": nobody} {
		w := httptest.NewRecorder()
		n.ServeHTTP(w, r)
		if h := <-asked; h.Get("Upgrade") != "" || w.Code != http.StatusBadGateway {
			t.Errorf("%s: %d, asked with %v", name, w.Code, h)
		}
	}
}

// TestNextFunctionHasNoWebSockets: a handshake is refused with a reason, rather than asked as something else.
func TestNextFunctionHasNoWebSockets(t *testing.T) {
	asked := 0
	e := newEgress(t, Config{Functions: functions{"inner": func(http.ResponseWriter, *http.Request) { asked++ }}})
	next, err := e.Next("f", "fn:inner")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	ctx, _ := WithUpgrade(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	r.Header.Set("Upgrade", "websocket")
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	if rec.Code != http.StatusNotImplemented || !strings.Contains(rec.Body.String(), `No WebSocket passes f: its next is "fn:inner"`) || asked > 0 {
		t.Errorf("%d %q, the function was asked %d times", rec.Code, rec.Body, asked)
	}
	r.Header.Del("Upgrade") // by the guest, who has answered the handshake so
	next.ServeHTTP(httptest.NewRecorder(), r)
	if asked != 1 {
		t.Error("an ordinary request does not pass")
	}
}

// finalOnly is a recorder of responses that are not informational.
type finalOnly struct{ *httptest.ResponseRecorder }

func (f finalOnly) WriteHeader(status int) {
	if status >= 200 {
		f.ResponseRecorder.WriteHeader(status)
	}
}

// TestOriginExpects: an origin that refuses a request by its head is sent no body, and nobody reads it.
func TestOriginExpects(t *testing.T) {
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, r.Header.Get("Expect"), http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	e, o := loopback(t, addr, Limits{})
	next, err := e.Next("f", o)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	for path, want := range map[string]string{"/no": "100-continue\n, 4 bytes left", "/": "body, 0 bytes left"} {
		body := strings.NewReader("body")
		r := httptest.NewRequest("POST", path, body)
		r.Header.Set("Expect", "100-continue")
		rec := httptest.NewRecorder()
		next.ServeHTTP(finalOnly{rec}, r)
		if got := fmt.Sprintf("%s, %d bytes left", rec.Body, body.Len()); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// TestNextFunctionHints passes on the Early Hints of a function that another stands before.
func TestNextFunctionHints(t *testing.T) {
	e := newEgress(t, Config{Functions: functions{"page": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "page")
	}}})
	next, err := e.Next("shop", "fn:page")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(next)
	defer server.Close()
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(status, " ", h.Get("Link")))
		return nil
	}})
	r, _ := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "page" || !slices.Equal(hints, []string{"103 </style.css>; rel=preload"}) {
		t.Errorf("%q after hints %q", b, hints)
	}
}
