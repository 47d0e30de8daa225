package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// loopback returns an Egress whose functions may reach one address, under the name a.test.
func loopback(t *testing.T, addr string, l Limits) (e *Egress, origin string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(addr)
	return newEgress(t, Config{Resolver: one("a.test", "127.0.0.1"), Guard: Guard{Allow: networks(t, addr)}, Limits: l}), "http://a.test:" + port
}

func TestDefaultDeny(t *testing.T) {
	v := newVictim(t)
	var log bytes.Buffer
	e := newEgress(t, Config{
		Resolver: one("a.test", "127.0.0.1"), Guard: Guard{Allow: networks(t, "127.0.0.0/8")},
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	tr := newTransport(t, e, "https://a.test:"+v.port, "http://b.test:"+v.port)
	for _, url := range []string{
		"http://a.test:" + v.port, "http://127.0.0.1:" + v.port, "http://u:p@b.test:" + v.port, "ftp://b.test", "http://b.test", "//b.test", "http://other.internal/",
	} {
		_, err := get(t, tr, url)
		denied(t, url, err)
	}
	_, err := get(t, tr, "http://a.test:"+v.port)
	if want := `list "http://a.test:` + v.port + `" under outbound in perigee.toml`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	r, _ := http.NewRequest(http.MethodConnect, "http://b.test:"+v.port, nil)
	_, err = tr.RoundTrip(r)
	denied(t, "CONNECT", err)
	if v.accepted.Load() != 0 {
		t.Error("a connection was made")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "rule=not-listed") || !strings.Contains(log.String(), "function=f") {
		t.Errorf("want one line, with function and rule: %s", log.String())
	}
	if _, err := e.Transport("f", []string{"*"}); err == nil {
		t.Error(`"*" is accepted`)
	}
	if _, err := New(Config{Limits: Limits{Conns: -1}}); err == nil {
		t.Error("a negative limit is accepted")
	}
}

func TestNoProxy(t *testing.T) {
	v := newVictim(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:"+v.port)
	}
	e, o := loopback(t, serve(t, http.NotFoundHandler()), Limits{})
	e.guard.Allow = networks(t, "127.0.0.0/8")
	if resp, err := get(t, newTransport(t, e, o), o); err != nil || resp.StatusCode != 404 {
		t.Errorf("%v %v", resp, err)
	}
	if v.accepted.Load() != 0 {
		t.Error("the proxy of the environment was asked")
	}
}

func TestWhatIsSent(t *testing.T) {
	var got *http.Request
	var body string
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "not gzip")
		w.Header().Set("X-Sum", "8")
	}))
	e, o := loopback(t, addr, Limits{})
	r, _ := http.NewRequestWithContext(t.Context(), "POST", o+"/p%2fq?x=1#f", struct{ io.Reader }{strings.NewReader("streamed")})
	r.Host = "victim.test" // another site on the same server
	r.Header = http.Header{
		"X-A": {"1", "2"}, "Connection": {"X-Named, close"}, "X-Named": {"x"}, "Perigee-Hop-Depth": {"0"}, "perigee-region": {"x"},
		"Te": {"gzip"}, "Upgrade": {"websocket"}, "Proxy-Authorization": {"x"}, "Keep-Alive": {"x"},
	}
	resp, err := newTransport(t, e, o).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || string(b) != "not gzip" || resp.Trailer.Get("X-Sum") != "8" || resp.Request != r {
		t.Errorf("response %q, %v, trailer %v", b, err, resp.Trailer)
	}
	if got.Host != strings.TrimPrefix(o, "http://") || got.RequestURI != "/p%2fq?x=1" || body != "streamed" || len(got.Header["X-A"]) != 2 {
		t.Errorf("got %s %s %q %v", got.Host, got.RequestURI, body, got.Header)
	}
	for name := range got.Header {
		switch name {
		case "X-A", "User-Agent":
		default:
			t.Errorf("sent %s: %v", name, got.Header[name])
		}
	}
	if r.Host != "victim.test" || len(r.Header) != 9 {
		t.Error("the caller's request was changed")
	}
}

func TestRedirectIsAnAnswer(t *testing.T) {
	asked := 0
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "/again", http.StatusFound)
	}))
	e, o := loopback(t, addr, Limits{})
	if resp, err := get(t, newTransport(t, e, o), o); err != nil || resp.StatusCode != http.StatusFound || asked != 1 {
		t.Errorf("%v %v, asked %d times", resp, err, asked)
	}
}

func TestTLS(t *testing.T) {
	start := func(set func(*tls.Config)) (*Transport, string) {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		s.TLS = &tls.Config{}
		set(s.TLS)
		s.EnableHTTP2 = s.TLS.MaxVersion == 0
		s.StartTLS()
		t.Cleanup(s.Close)
		addr := s.Listener.Addr().String()
		_, port, _ := net.SplitHostPort(addr)
		e := newEgress(t, Config{Resolver: one("example.com", "127.0.0.1"), Guard: Guard{Allow: networks(t, addr)}})
		tr := newTransport(t, e, "https://example.com:"+port)
		var unknown x509.UnknownAuthorityError
		if _, err := get(t, tr, "https://example.com:"+port); s.TLS.MaxVersion == 0 && !errors.As(err, &unknown) {
			t.Errorf("an unknown authority: %v", err)
		}
		tr.http.TLSClientConfig.RootCAs = x509.NewCertPool()
		tr.http.TLSClientConfig.RootCAs.AddCert(s.Certificate())
		return tr, "https://example.com:" + port
	}
	tr, url := start(func(*tls.Config) {})
	resp, err := get(t, tr, url)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); string(b) != "HTTP/2.0" {
		t.Errorf("spoke %s", b)
	}
	tr, url = start(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	if _, err := get(t, tr, url); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestConnectionsAreNotShared(t *testing.T) {
	remotes := map[string]bool{}
	addr := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { remotes[r.RemoteAddr] = true }))
	e, o := loopback(t, addr, Limits{})
	for range 2 { // functions
		tr := newTransport(t, e, o)
		for range 3 {
			resp, err := get(t, tr, o)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	if len(remotes) != 2 {
		t.Errorf("%d connections for two functions, want one each", len(remotes))
	}
}

func limited(t *testing.T, what string, err error) {
	t.Helper()
	var l *LimitError
	if !errors.As(err, &l) || !l.Limited() {
		t.Errorf("%s: got %v, want a limit", what, err)
	}
}

func TestLimits(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write(make([]byte, 2000))
		case "/head":
			w.Header().Set("X", strings.Repeat("x", 9000))
		case "/late":
			select {
			case <-r.Context().Done():
			case <-hold:
			}
		}
	}))
	t.Run("requests of a function", func(t *testing.T) {
		e, o := loopback(t, addr, Limits{Requests: 2})
		tr := newTransport(t, e, o)
		first, err := get(t, tr, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := get(t, tr, o); err != nil {
			t.Fatal(err)
		}
		_, err = get(t, tr, o)
		limited(t, "a third", err)
		if _, err := get(t, newTransport(t, e, o), o); err != nil {
			t.Errorf("another function: %v", err)
		}
		first.Body.Close()
		first.Body.Close() // gives back one place only
		if _, err := get(t, tr, o); err != nil {
			t.Errorf("after one ended: %v", err)
		}
		_, err = get(t, tr, o)
		limited(t, "a third again", err)
	})
	t.Run("requests of the node", func(t *testing.T) {
		e, o := loopback(t, addr, Limits{NodeRequests: 1})
		held, err := get(t, newTransport(t, e, o), o)
		if err != nil {
			t.Fatal(err)
		}
		tr := newTransport(t, e, o)
		_, err = get(t, tr, o)
		limited(t, "a second", err)
		if len(tr.running) != 0 {
			t.Error("the function's place is lost")
		}
		held.Body.Close()
	})
	t.Run("connections", func(t *testing.T) {
		e, o := loopback(t, addr, Limits{Conns: 1, DialTime: 50 * time.Millisecond})
		e.resolver.(*names).sets["b.test"] = e.resolver.(*names).sets["a.test"]
		other := strings.Replace(o, "a.test", "b.test", 1)
		tr := newTransport(t, e, o, other)
		resp, err := get(t, tr, o+"/large")
		if err != nil {
			t.Fatal(err)
		}
		_, err = get(t, tr, other)
		limited(t, "a second connection", err)
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		eventually(t, "an idle connection gives up its place", func() bool {
			_, err := get(t, tr, other)
			return err == nil
		})
	})
	t.Run("response", func(t *testing.T) {
		e, o := loopback(t, addr, Limits{Response: 1999, HeaderBytes: 4000})
		tr := newTransport(t, e, o)
		resp, err := get(t, tr, o+"/large")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		limited(t, "a large response", err)
		if _, err := get(t, tr, o+"/head"); err == nil {
			t.Error("a large head is accepted")
		}
	})
	t.Run("time", func(t *testing.T) {
		e, o := loopback(t, addr, Limits{HeaderTime: 20 * time.Millisecond, DialTime: 20 * time.Millisecond})
		tr := newTransport(t, e, o)
		slow, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		late, _ := http.NewRequestWithContext(slow, "GET", o+"/late", nil)
		if _, err := tr.RoundTrip(late); !timedOut(err) || slow.Err() != nil {
			t.Errorf("no head: %v", err)
		}
		tr.Close()
		e.resolver.(*names).block = true
		if _, err := get(t, tr, o); !timedOut(err) {
			t.Errorf("no address: %v", err)
		}
		e, o = loopback(t, addr, Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		r, _ := http.NewRequestWithContext(ctx, "GET", o+"/late", nil)
		if _, err := newTransport(t, e, o).RoundTrip(r); !errors.Is(err, context.Canceled) {
			t.Errorf("the request's end: %v", err)
		}
	})
}
