package peerlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// pair starts the nodes a and b; b serves hops.
func pair(t testing.TB, h http.HandlerFunc) *Link {
	t.Helper()
	m := newMesh(t)
	a, _ := m.node("a", nil)
	m.node("b", hops(h))
	return a
}

func TestHop(t *testing.T) {
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		peer, ok := PeerFrom(r.Context())
		if !ok || peer.ID != "a" || peer.Region != "fra" {
			t.Errorf("peer %v %v", peer, ok)
		}
		w.(Responder).Accept(perigee.Load{InFlight: 3, Slots: 8})
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Echo", r.Header.Get("X-Ask"))
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s?%s %d %s", r.Method, r.Host, r.URL.Path, r.URL.RawQuery, r.ContentLength, b)
		w.(Responder).SetLoad(perigee.Load{InFlight: 1, Slots: 8})
	})
	r := request(t, "POST", "http://example.org/p%2Fq?x=1&y=%20", "hello")
	r.Header.Set("X-Ask", "why")
	resp, err := a.RoundTripHop("b", r)
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := LoadOf(resp); !ok || l != (perigee.Load{InFlight: 3, Slots: 8}) {
		t.Errorf("load before the body %v %v", l, ok)
	}
	body := readBody(t, resp)
	if want := "POST example.org /p/q?x=1&y=%20 5 hello"; body != want || resp.StatusCode != 201 || resp.Header.Get("X-Echo") != "why" {
		t.Fatalf("got %d %v %q, want %q", resp.StatusCode, resp.Header, body, want)
	}
	if resp.ContentLength != int64(len(body)) || resp.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
		t.Errorf("a short response has no length: %d, %v", resp.ContentLength, resp.Header)
	}
	if l, ok := LoadOf(resp); !ok || l != (perigee.Load{InFlight: 1, Slots: 8}) {
		t.Errorf("load %v %v", l, ok)
	}
	if rtt, ok := a.RTT("b"); !ok || rtt <= 0 {
		t.Errorf("rtt %v %v", rtt, ok)
	}
	if _, ok := a.RTT("c"); ok || a.Connected("c") || !a.Connected("b") {
		t.Error("wrong about who is connected")
	}
}

func TestHopResponses(t *testing.T) {
	tests := []struct {
		name    string
		method  string
		handler http.HandlerFunc
		check   func(*http.Response, string) error
	}{
		{"nothing written", "GET", func(http.ResponseWriter, *http.Request) {}, func(r *http.Response, body string) error {
			return want(r.StatusCode == 200 && body == "" && r.ContentLength == 0, r, body)
		}},
		{"no content", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); err != http.ErrBodyNotAllowed {
				t.Error("body of a 204:", err)
			}
		}, func(r *http.Response, body string) error {
			return want(r.StatusCode == 204 && body == "" && r.ContentLength == -1, r, body)
		}},
		{"head", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1234")
		}, func(r *http.Response, body string) error {
			return want(body == "" && r.ContentLength == 1234, r, body)
		}},
		{"head with body", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "hello")
		}, func(r *http.Response, body string) error {
			return want(body == "" && r.ContentLength == 5, r, body)
		}},
		{"early hints are not the response", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(404)
			w.WriteHeader(500)
		}, func(r *http.Response, body string) error {
			return want(r.StatusCode == 404 && r.Status == "404 Not Found", r, body)
		}},
		{"several values", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
			w.Header().Set("X-Other", "")
		}, func(r *http.Response, body string) error {
			return want(len(r.Header["Set-Cookie"]) == 2 && r.Header["Set-Cookie"][1] == "b=2" && len(r.Header["X-Other"]) == 1, r, body)
		}},
		{"fields of a connection stay", "GET", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("Transfer-Encoding", "chunked")
		}, func(r *http.Response, body string) error {
			return want(r.Header["Connection"] == nil && r.Header["Transfer-Encoding"] == nil, r, body)
		}},
		{"flushed head has no length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "ab")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "cd")
		}, func(r *http.Response, body string) error {
			return want(r.ContentLength == -1 && body == "abcd", r, body)
		}},
		{"long body has no length", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 3*dataChunk+7))
		}, func(r *http.Response, body string) error {
			return want(r.ContentLength == -1 && len(body) == 3*dataChunk+7, r, fmt.Sprint(len(body)))
		}},
		{"exactly a chunk", "GET", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("x"), dataChunk))
		}, func(r *http.Response, body string) error {
			return want(len(body) == dataChunk, r, fmt.Sprint(len(body)))
		}},
	}
	byPath := map[string]http.HandlerFunc{}
	a := pair(t, func(w http.ResponseWriter, r *http.Request) { byPath[r.URL.Path](w, r) })
	for i, tt := range tests {
		byPath[fmt.Sprintf("/%d", i)] = tt.handler
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := hopOK(t, a, "b", request(t, tt.method, fmt.Sprintf("http://f/%d", i), ""))
			if err := tt.check(resp, body); err != nil {
				t.Error(err)
			}
		})
	}
}

func want(ok bool, r *http.Response, body string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("got %s, length %d, %v, %q", r.Status, r.ContentLength, r.Header, body)
}

func TestHopRefused(t *testing.T) {
	for _, code := range []perigee.RefuseCode{
		perigee.RefusedOverloaded, perigee.RefusedDraining, perigee.RefusedNotHere, perigee.RefusedNotAllowed, perigee.RefusedDeadline,
	} {
		t.Run(string(code), func(t *testing.T) {
			wrote := make(chan error, 1)
			a := pair(t, func(w http.ResponseWriter, r *http.Request) {
				w.(Responder).Refuse(code, perigee.Load{InFlight: 9, Slots: 2}, "memory")
				_, err := w.Write([]byte("x"))
				wrote <- err
			})
			r := request(t, "POST", "http://f/", "body")
			_, err := a.RoundTripHop("b", r)
			var he *perigee.HopError
			if !errors.As(err, &he) || he.Code != code || he.Node != "b" || he.Load == nil || *he.Load != (perigee.Load{InFlight: 9, Slots: 2}) || he.Limit != "memory" {
				t.Fatalf("got %#v", err)
			}
			if b, err := io.ReadAll(r.Body); string(b) != "body" || err != nil {
				t.Errorf("body touched: %q %v", b, err)
			}
			if err := <-wrote; err == nil {
				t.Error("write after refuse succeeded")
			}
		})
	}
}

func TestRefuseAfterAcceptDoesNothing(t *testing.T) {
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.(Responder).Accept(perigee.Load{})
		w.(Responder).Refuse(perigee.RefusedNotHere, perigee.Load{}, "")
	})
	resp, _ := hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
	if _, ok := LoadOf(resp); ok || resp.StatusCode != 200 {
		t.Errorf("got %v", resp.Status)
	}
}

func TestHopCancel(t *testing.T) {
	t.Run("context before accepted", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		why, ended := errors.New("client left"), make(chan struct{})
		a := pair(t, func(w http.ResponseWriter, r *http.Request) {
			cancel(why)
			<-r.Context().Done()
			close(ended)
		})
		_, err := a.RoundTripHop("b", request(t, "POST", "http://f/", "x").WithContext(ctx))
		if !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		<-ended
	})
	t.Run("context in the body", func(t *testing.T) {
		ended := make(chan struct{})
		a := pair(t, stall(ended))
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v", err)
		}
		<-ended
	})
	t.Run("close", func(t *testing.T) {
		ended := make(chan struct{})
		a := pair(t, stall(ended))
		resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read after close: %v", err)
		}
		<-ended
	})
	t.Run("upload fails", func(t *testing.T) {
		ended := make(chan struct{})
		a := pair(t, func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			var se *StreamError
			if _, err := io.ReadAll(r.Body); !errors.As(err, &se) || se.Code != ResetCanceled || !se.Remote {
				t.Errorf("worker read: %v", err)
			}
			<-r.Context().Done()
		})
		r := request(t, "POST", "http://f/", "x")
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader("some"), iotestErr{}))
		r.ContentLength = -1
		if resp, err := a.RoundTripHop("b", r); err == nil {
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Error("no error")
			}
		}
		<-ended
	})
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("broken upload") }

// stall sends the head and waits for the end of its context.
func stall(ended chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(ended)
	}
}

func TestHopWorkerFails(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"panic": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			panic("boom")
		},
		"abort": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"short body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "part")
			w.(http.Flusher).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := pair(t, handler)
			resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
			if err == nil { // a reset may overtake the head
				_, err = io.ReadAll(resp.Body)
			}
			var se *StreamError
			if !errors.As(err, &se) || se.Code != ResetInternal || !se.Remote {
				t.Errorf("got %v", err)
			}
			eventually(t, "streams are freed", func() bool { return inUse(a) == 0 })
		})
	}
}

// inUse returns how many streams a Link's connections carry.
func inUse(l *Link) (n int64) {
	for _, c := range l.conns.snapshot() {
		n += c.streams.Load()
	}
	return n
}

func TestHopPanicBeforeAcceptedIsNoRefusal(t *testing.T) {
	a := pair(t, func(http.ResponseWriter, *http.Request) { panic("boom") })
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	var he *perigee.HopError
	var se *StreamError
	if errors.As(err, &he) || !errors.As(err, &se) || se.Code != ResetInternal {
		t.Errorf("got %v", err)
	}
}

func TestHopEarlyResponse(t *testing.T) {
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too much")
	})
	up, feed := io.Pipe()
	r := request(t, "POST", "http://f/", "x")
	r.Body, r.ContentLength = up, 1<<30
	resp, body := hopOK(t, a, "b", r)
	if resp.StatusCode != 413 || body != "too much" {
		t.Errorf("got %s %q", resp.Status, body)
	}
	if _, err := io.Copy(feed, zeros{}); err == nil { // ends because the body is closed
		t.Error("upload goes on")
	}
}

func TestHopDeadline(t *testing.T) {
	got := make(chan time.Duration, 1)
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.(Responder).Accept(perigee.Load{})
		d, ok := r.Context().Deadline()
		if !ok {
			t.Error("no deadline")
		}
		got <- time.Until(d)
		<-r.Context().Done()
		if _, err := w.Write(make([]byte, 64<<10)); err == nil {
			t.Error("write after the deadline")
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", "").WithContext(ctx))
	var se *StreamError // when the worker's clock was a little faster
	if !errors.Is(err, context.DeadlineExceeded) && (!errors.As(err, &se) || se.Code != ResetDeadline) {
		t.Errorf("got %v", err)
	}
	if d := <-got; d > 200*time.Millisecond {
		t.Errorf("worker thinks it has %v", d)
	}
}

func TestHopInvalidRequest(t *testing.T) {
	a := pair(t, func(http.ResponseWriter, *http.Request) { t.Error("reached the worker") })
	for name, change := range map[string]func(*http.Request){
		"method":          func(r *http.Request) { r.Method = "BAD METHOD" },
		"connect":         func(r *http.Request) { r.Method = "CONNECT" },
		"host":            func(r *http.Request) { r.Host = "a\r\nb" },
		"field name":      func(r *http.Request) { r.Header["a b"] = []string{"x"} },
		"field value":     func(r *http.Request) { r.Header["A"] = []string{"x\r\ny"} },
		"too many fields": func(r *http.Request) { r.Header["A"] = make([]string, maxFields+1) },
		"too long":        func(r *http.Request) { r.Header["A"] = []string{strings.Repeat("x", maxHead)} },
	} {
		r := httptest.NewRequest("POST", "http://f/", strings.NewReader("body"))
		change(r)
		_, err := a.RoundTripHop("b", r)
		var he *perigee.HopError
		if err == nil || errors.As(err, &he) {
			t.Errorf("%s: got %v", name, err)
		}
		if b, _ := io.ReadAll(r.Body); string(b) != "body" {
			t.Errorf("%s: body touched", name)
		}
	}
}

func TestHopManyConcurrent(t *testing.T) {
	release := make(chan struct{})
	a := pair(t, func(w http.ResponseWriter, r *http.Request) {
		w.(Responder).Accept(perigee.Load{})
		<-release
		_, _ = io.WriteString(w, r.URL.Path)
	})
	const n = 3 * spreadAbove
	errs := make(chan error, n)
	for i := range n {
		go func() {
			path := fmt.Sprintf("/%d", i)
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://f"+path, nil)
			if err != nil {
				errs <- err
				return
			}
			resp, err := a.RoundTripHop("b", r)
			if err == nil {
				var b []byte
				if b, err = io.ReadAll(resp.Body); err == nil && string(b) != path {
					err = fmt.Errorf("got %q for %q", b, path)
				}
			}
			errs <- err
		}()
	}
	eventually(t, "all requests run", func() bool { return inUse(a) == n })
	eventually(t, "a second connection", func() bool { return len(a.conns.node("b")) == 2 })
	close(release)
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestAcceptedLeaves: accepted is held back for a moment, in which most guests answer, and then leaves although
// this one goes on.
func TestAcceptedLeaves(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	heard := make(chan struct{})
	m.node("b", func(c *Config) {
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(Responder).Accept(perigee.Load{InFlight: 1})
			select {
			case <-heard:
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, "answer")
		})
	})
	r := request(t, "GET", "http://f/", "")
	ctx, cancel := context.WithTimeout(WithAccepted(r.Context(), func(perigee.Load) { close(heard) }), 20*time.Second)
	defer cancel()
	resp, err := a.RoundTripHop("b", r.WithContext(ctx))
	if err != nil {
		t.Fatalf("the handler waits for the sender to hear that it began: %v", err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "answer" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}
