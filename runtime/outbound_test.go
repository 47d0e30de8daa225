package runtime_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

func loadCaller(t *testing.T, rt http.RoundTripper) *runtime.Runtime {
	t.Helper()
	r := open(t, runtime.Config{})
	err := r.Load(t.Context(), "c", runtime.Spec{
		Function: "c", Wasm: build(t, filepath.Join("testdata", "caller")), Outbound: rt,
		Limits: perigee.Limits{Memory: 64 * perigee.MiB, Timeout: perigee.Duration(30 * time.Second)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOutbound covers what the packages guest and guest/outbound promise of requests that a guest makes.
func TestOutbound(t *testing.T) {
	release := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case "/echo":
			if r.Header.Get("X-From") != "guest" {
				t.Errorf("got %v", r.Header)
			}
			_ = http.NewResponseController(w).EnableFullDuplex()
			b := make([]byte, 1000)
			for {
				n, err := r.Body.Read(b)
				_, _ = w.Write(b[:n])
				if err != nil {
					break
				}
			}
		default:
			w.Header().Set("X-Up", "yes")
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprint(w, "from upstream")
			w.Header().Set("X-Sum", "13")
		}
	}))
	defer up.Close()
	defer close(release)
	r := loadCaller(t, http.DefaultTransport)
	ask := func(req *http.Request) string {
		t.Helper()
		w, _, err := invoke(t, r, "c", req)
		if err != nil {
			t.Fatal(err)
		}
		return w.Body.String()
	}
	for range 2 { // from an image, and reset
		if got, want := ask(get("/get?url="+up.URL)), `200 OK [yes] "from upstream" <nil> map[X-Sum:[13]]`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := ask(get("/get?url=http://127.0.0.1:1/")); !strings.HasPrefix(got, "true Get \"http://127.0.0.1:1/\": ") {
		t.Errorf("refused: %s", got)
	}
	if got := ask(get("/timeout?url=" + up.URL + "/hang")); got != "true true true" {
		t.Errorf("timeout: %s", got)
	}
	if got := ask(get("/deadline")); got != "true 30s" {
		t.Errorf("deadline: %s", got)
	}
	if got := ask(get("/warmed")); got != "[first second]" {
		t.Errorf("warmed: %s", got)
	}
	a, b := strings.Fields(ask(get("/rand"))), strings.Fields(ask(get("/rand")))
	if a[0] != b[0] || a[2] == b[2] || a[1] != "false" {
		t.Errorf("random numbers of two requests: %s, %s", a, b)
	}

	body := strings.Repeat("0123456789", 10_000)
	req := httptest.NewRequest("POST", "/stream?url="+up.URL+"/echo", strings.NewReader(body))
	req.Trailer = http.Header{"X-Client-Sum": {"77"}}
	w, _, err := invoke(t, r, "c", req)
	if err != nil || w.Body.String() != body {
		t.Fatalf("%d bytes, %v", w.Body.Len(), err)
	}
	if tr := w.Result().Trailer; tr.Get("X-Sum") != "100000" || tr.Get("X-Late") != "77" {
		t.Errorf("trailers %v", tr)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := r.Invoke(ctx, "c", httptest.NewRecorder(), get("/get?url="+up.URL+"/hang"), nil); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("the end of the request: %v after %v", err, time.Since(start))
	}
	if got := loadCaller(t, nil); got != nil {
		w, _, err := invoke(t, got, "c", get("/get?url=http://a.example/"))
		if err != nil || !strings.Contains(w.Body.String(), "outbound is not allowed: list the origin under outbound in perigee.toml") {
			t.Errorf("%s, %v", w.Body.String(), err)
		}
	}
}

// TestMiddleware covers guest.Middleware.
func TestMiddleware(t *testing.T) {
	var got *http.Request
	var body string
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		w.Header().Set("X-Next", "n")
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "from next")
		w.Header().Set(http.TrailerPrefix+"X-Sum", "9")
	})
	r := loadCaller(t, nil)
	ask := func(req *http.Request) *httptest.ResponseRecorder {
		t.Helper()
		w := httptest.NewRecorder()
		got = nil
		if _, err := r.Invoke(t.Context(), "c", w, req, next); err != nil {
			t.Fatal(err)
		}
		return w
	}
	for range 3 {
		w := ask(get("/next/a?b"))
		if w.Code != http.StatusUnauthorized || got != nil {
			t.Fatalf("without a key: %d, next saw %v", w.Code, got)
		}
		req := httptest.NewRequest("POST", "/next/a%2fb?b", strings.NewReader("streamed"))
		req.Header.Set("X-Key", "good")
		req.Header.Set("X-Kept", "k")
		w = ask(req)
		if w.Code != http.StatusCreated || w.Body.String() != "from next" || w.Header().Get("X-Middleware") != "was here" || w.Header().Get("X-Next") != "n" || w.Result().Trailer.Get("X-Sum") != "9" {
			t.Errorf("%d %s %v", w.Code, w.Body, w.Result())
		}
		if got.URL.Path != "/a/b" || got.URL.RawQuery != "b" || body != "streamed" || got.Header.Get("X-Key") != "" || got.Header.Get("X-Kept") != "k" || len(got.Header["X-Added"]) != 2 {
			t.Errorf("next saw %s %v %q", got.URL, got.Header, body)
		}
		w = ask(httptest.NewRequest("POST", "/upper/x", strings.NewReader("old")))
		if w.Code != http.StatusAccepted || w.Body.String() != "FROM NEXT" || w.Header().Get("X-Was") != "201n" || w.Header().Get("X-Next") != "" {
			t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
		}
		if got.Method != "PUT" || got.Host != "other.test" || body != "new body" {
			t.Errorf("next saw %s %s %q", got.Method, got.Host, body)
		}
		w = ask(get("/drop/"))
		if w.Code != http.StatusTeapot || w.Body.Len() != 0 || w.Header().Get("X-Next") != "" {
			t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
		}
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("recovered %v", p)
			}
		}()
		req := get("/next/abort")
		req.Header.Set("X-Key", "good")
		_, err := r.Invoke(t.Context(), "c", httptest.NewRecorder(), req, next)
		t.Errorf("next was cut off: %v", err)
	}()
	if _, err := r.Invoke(t.Context(), "c", httptest.NewRecorder(), get("/twice/"), next); err == nil || !strings.Contains(err.Error(), "next was called twice") {
		t.Errorf("twice: %v", err)
	}
	if w := ask(get("/drop/")); w.Code != http.StatusTeapot {
		t.Errorf("after a failure: %d", w.Code)
	}
}
