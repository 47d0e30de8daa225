package runtime_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

func TestHello(t *testing.T) {
	if runtime.Instrumented > 1 {
		t.Skip("compiling takes half a minute under the race detector; TestGuestPackage covers more")
	}
	r := open(t, runtime.Config{})
	start := time.Now()
	load(t, r, "hello", hello(t), perigee.Limits{})
	t.Logf("admitted and loaded in %v", time.Since(start))
	req := get("http://hello.test/some/path?x=1")
	req.Header.Set("Perigee-Region", "fra")
	w, usage, err := invoke(t, r, "hello", req)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := w.Body.String(), "good day from fra at /some/path\n"; got != want {
		t.Errorf("body %q, want %q", got, want)
	}
	if h := w.Header(); h.Get("Content-Length") != strconv.Itoa(w.Body.Len()) || h.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("header %v", h)
	}
	if usage.Start != runtime.StartImage || usage.MemoryPages == 0 || !usage.Sent || usage.Wall < usage.Init || usage.BytesOut != int64(w.Body.Len()) {
		t.Errorf("usage %+v", usage)
	}
	if len(r.Loaded()) != 1 {
		t.Errorf("loaded %v", r.Loaded())
	}
	r.Unload("hello")
	if _, _, err := invoke(t, r, "hello", req); !errors.Is(err, runtime.ErrNotLoaded) {
		t.Errorf("after unload: %v", err)
	}
}

// TestGuestPackage covers what the package guest promises to a Go handler.
func TestGuestPackage(t *testing.T) {
	var logged bytes.Buffer
	r := open(t, runtime.Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	err := r.Load(t.Context(), "g", runtime.Spec{
		Function: "g", Wasm: testguest(t), Env: map[string]string{"GREETING": "good day"},
		Limits: perigee.Limits{Memory: 64 * perigee.MiB, Timeout: perigee.Duration(20 * time.Second)},
		Files:  fstest.MapFS{"a.txt": {Data: []byte("file a")}, "d/b.html": {Data: []byte("<p>b")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	do := func(t *testing.T, req *http.Request) (*httptest.ResponseRecorder, error) {
		w, _, err := invoke(t, r, "g", req)
		return w, err
	}
	ok := func(t *testing.T, target string) *httptest.ResponseRecorder {
		t.Helper()
		w, err := do(t, get(target))
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		return w
	}
	fails := func(t *testing.T, target string, kind string, words string) {
		t.Helper()
		w, err := do(t, get(target))
		var guest *runtime.GuestError
		if !errors.As(err, &guest) || string(guest.Kind) != kind || !strings.Contains(guest.Detail, words) {
			t.Errorf("%s: %v, want %s with %q", target, err, kind, words)
		}
		if w.Body.Len() > 0 {
			t.Errorf("%s: %q was sent", target, w.Body)
		}
	}

	t.Run("request", func(t *testing.T) {
		req := httptest.NewRequest("PATCH", "http://h.test:8443/facts?a=b%20c", strings.NewReader("12345"))
		req.Header.Add("X-Two", "1")
		req.Header.Add("X-Two", "2")
		w, err := do(t, req)
		want := "PATCH h.test:8443 /facts a=b%20c /facts?a=b%20c HTTP/1.1 192.0.2.1:1234 [1 2] 5 good day [g]\n"
		if err != nil || w.Body.String() != want {
			t.Errorf("%q, %v; want %q", w.Body, err, want)
		}
	})
	t.Run("bodies", func(t *testing.T) {
		for _, size := range []int{0, 1, 4096, 100_000, 3 << 20} {
			body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
			req := httptest.NewRequest("POST", "/echo", strings.NewReader(body))
			req.Header.Set("Content-Type", "x/y")
			w, err := do(t, req)
			if err != nil || w.Body.String() != body {
				t.Errorf("%d bytes: got %d, %v", size, w.Body.Len(), err)
			}
			if w.Header().Get("Length") != strconv.Itoa(size) || w.Header().Get("Content-Type") != "x/y" {
				t.Errorf("%d bytes: header %v", size, w.Header())
			}
		}
		req := httptest.NewRequest("PUT", "/echo", io.MultiReader(strings.NewReader("chunked")))
		if w, err := do(t, req); err != nil || w.Body.String() != "chunked" || w.Header().Get("Length") != "-1" {
			t.Errorf("unknown length: %q %v %v", w.Body, w.Header(), err)
		}
	})
	t.Run("fresh instance", func(t *testing.T) {
		for range 3 {
			if got := ok(t, "/count").Body.String(); got != "1" {
				t.Errorf("request number %s in its instance", got)
			}
		}
		if a, b := ok(t, "/random").Body.String(), ok(t, "/random").Body.String(); a == b || len(a) < 20 {
			t.Errorf("random: %q and %q", a, b)
		}
	})
	t.Run("clock", func(t *testing.T) {
		got, err := strconv.ParseInt(ok(t, "/time").Body.String(), 10, 64)
		if now := time.Now().Unix(); err != nil || got < now-60 || got > now {
			t.Errorf("time %d, now %d, %v", got, now, err)
		}
	})
	t.Run("response headers", func(t *testing.T) {
		w := ok(t, "/status")
		h := w.Header()
		if w.Code != http.StatusTeapot || h.Get("X-Kept") != "a  X-Split: b" || len(h["Set-Cookie"]) != 2 {
			t.Errorf("%d %v", w.Code, h)
		}
		for _, name := range []string{"Connection", "X-Private", "Perigee-Receipt", "X-Split"} {
			if _, has := h[name]; has {
				t.Errorf("%s was passed on", name)
			}
		}
	})
	t.Run("head", func(t *testing.T) {
		w, err := do(t, httptest.NewRequest("HEAD", "/count", nil))
		if err != nil || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "1" {
			t.Errorf("%q %v %v", w.Body, w.Header(), err)
		}
	})
	t.Run("files", func(t *testing.T) {
		if got := ok(t, "/files/a.txt").Body.String(); got != "file a" {
			t.Errorf("a.txt: %q", got)
		}
		if w := ok(t, "/files/d/b.html"); w.Body.String() != "<p>b" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("b.html: %q %v", w.Body, w.Header())
		}
		if w := ok(t, "/files/nothing"); w.Code != http.StatusNotFound {
			t.Errorf("nothing: %d", w.Code)
		}
		if got := ok(t, "/write").Body.String(); got != "" {
			t.Error("a guest wrote a file")
		}
		if got := ok(t, "/opens").Body.String(); got != "true" {
			t.Errorf("opens: %q", got)
		}
	})
	t.Run("sleep", func(t *testing.T) {
		if w := ok(t, "/sleep?d=30ms"); !strings.HasSuffix(w.Body.String(), "xtrue") || !w.Flushed {
			t.Errorf("%d bytes, flushed %v", w.Body.Len(), w.Flushed)
		}
	})
	t.Run("log", func(t *testing.T) {
		ok(t, "/log")
		for _, line := range []string{`level=WARN msg=guest function=g revision=g line="to standard error"`, `level=INFO msg=guest function=g revision=g line="to standard output"`} {
			if !strings.Contains(logged.String(), line) {
				t.Errorf("log lacks %s:\n%s", line, &logged)
			}
		}
	})
	t.Run("panic", func(t *testing.T) {
		fails(t, "/panic", "trap", "the handler's own words")
		if !strings.Contains(logged.String(), "panic: the handler's own words") {
			t.Error("the log lacks the panic")
		}
	})
	t.Run("exit", func(t *testing.T) { fails(t, "/exit", "no-response", "exited with code 0") })
	t.Run("memory", func(t *testing.T) { fails(t, "/memory", "memory", "out of memory") })
	t.Run("still well", func(t *testing.T) { ok(t, "/count") })
}

// TestStreaming runs over a real server: pieces arrive when they are flushed, and the guest reads the
// request while it answers.
func TestStreaming(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "g", testguest(t), perigee.Limits{})
	errs := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, err := r.Invoke(req.Context(), "g", w, req, nil)
		errs <- err
	}))
	defer srv.Close()
	body, send := io.Pipe()
	req, err := http.NewRequest("POST", srv.URL+"/stream", body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for _, want := range []string{"data: 0", "data: 1", "data: 2"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q: %v", lines.Text(), want, lines.Err())
		}
		lines.Scan()
		if _, err := send.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	send.Close()
	if lines.Scan() {
		t.Errorf("more: %q", lines.Text())
	}
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// TestSlowClient checks that a client that sends no body does not hold a request beyond its timeout.
func TestSlowClient(t *testing.T) {
	r := open(t, runtime.Config{})
	load(t, r, "g", testguest(t), perigee.Limits{Timeout: perigee.Duration(300 * time.Millisecond)})
	errs := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		usage, err := r.Invoke(req.Context(), "g", w, req, nil)
		if err != nil && !usage.Sent {
			w.WriteHeader(http.StatusGatewayTimeout)
		}
		errs <- err
	}))
	defer srv.Close()
	body, send := io.Pipe()
	defer send.Close()
	res, err := http.Post(srv.URL+"/echo", "x/y", body)
	var guest *runtime.GuestError
	if got := <-errs; !errors.As(got, &guest) || guest.Kind != runtime.GuestDeadline {
		t.Errorf("invoke: %v", got)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d", res.StatusCode)
	}
}
