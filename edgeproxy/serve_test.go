package edgeproxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/perigee-edge/perigee"
)

func TestServeHere(t *testing.T) {
	w := newWorld("fra-1")
	p := newProxy(t, w, "fra-1", newLocal(greet), newHops())
	rec, _ := send(p, request("GET", "/", nil))
	equal(t, "status", rec.Code, 200)
	equal(t, "body", rec.Body.String(), "hello from fra")
	r := receiptOf(t, rec.Header())
	r.ID = ""
	equal(t, "receipt", r, Receipt{Entry: "fra", Region: "fra", Node: "fra-1", Revision: testRev, Start: StartWarm, Reason: "local-warm"})
}

// TestWhatTheGuestSees sends all that a client might forge.
func TestWhatTheGuestSees(t *testing.T) {
	var seen *http.Request
	local := newLocal(func(w http.ResponseWriter, r *http.Request) { seen = r })
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops())
	r := request("GET", "/a%2Fb?x=1&perigee-prefer=syd&y=%20", nil)
	r.Host = "Hello.Example.com.:8443"
	r.RemoteAddr = "[::ffff:192.0.2.7]:4711"
	for _, name := range []string{
		"Perigee-Region", "Perigee-Entry-Region", "Perigee-Request-Id", "Perigee-Hop-Function", "Perigee-Hop-Fault", "Perigee-Client-Ip",
		"Perigee-Receipt", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-Real-Ip", "Upgrade", "X_Under",
	} {
		r.Header[name] = []string{"forged"}
	}
	r.Header.Set("X-Mine", "kept")
	rec, _ := send(p, r)
	want := map[string]string{
		"Perigee-Region": "fra", "Perigee-Entry-Region": "fra", "Perigee-Client-Region": "fra", "Perigee-Request-Id": receiptOf(t, rec.Header()).ID,
		"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "Hello.Example.com.:8443", "X-Mine": "kept",
	}
	for name, values := range seen.Header {
		if len(values) != 1 || values[0] != want[name] {
			t.Errorf("%s: the guest sees %q, want %q", name, values, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("the guest misses %v", want)
	}
	equal(t, "host", seen.Host, "Hello.Example.com.:8443")
	equal(t, "URL", seen.URL.String(), "/a%2Fb?x=1&y=%20")
	equal(t, "request URI", seen.RequestURI, "/a%2Fb?x=1&y=%20")
	if r.URL.RawQuery != "x=1&perigee-prefer=syd&y=%20" || r.Header.Get("Forwarded") != "forged" {
		t.Error("the caller's request was changed")
	}
}

func TestRefusedRequests(t *testing.T) {
	for _, c := range []struct {
		name   string
		edit   func(*http.Request)
		status int
		says   string
	}{
		{"unknown host", func(r *http.Request) { r.Host = "other.example.com" }, 404, `No function answers at "other.example.com/"`},
		{"IP address", func(r *http.Request) { r.Host = "[::1]:80" }, 404, "No function"},
		{"no host", func(r *http.Request) { r.Host = "" }, 400, "names no host"},
		{"bad host", func(r *http.Request) { r.Host = "a_b.example.com" }, 400, "no host name"},
		{"other server name", func(r *http.Request) { r.TLS = &tls.ConnectionState{ServerName: "other.example.com"} }, 421, "opened for \"other.example.com\""},
		{"no server name", func(r *http.Request) { r.TLS = &tls.ConnectionState{} }, 421, "opened for \"\""},
		{"CONNECT", func(r *http.Request) { r.Method = "CONNECT" }, 405, "CONNECT"},
		{"odd path", func(r *http.Request) { r.URL.Path = "*" }, 400, "slash"},
		{"force not allowed", func(r *http.Request) { r.Header.Set(headerForce, "syd") }, 403, `Rule: steer = "prefer"`},
		{"many fields", func(r *http.Request) { r.Header["X-Many"] = make([]string, maxFields+1) }, 431, "more than 128 header fields"},
		{"long path", func(r *http.Request) { r.Host = "x.y"; r.URL.Path = "/" + strings.Repeat("a", 9000) }, 404, "aaa…"},
	} {
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops())
		r := request("GET", "/", nil)
		c.edit(r)
		rec, _ := send(p, r)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.says) {
			t.Errorf("%s: %d\n%s", c.name, rec.Code, rec.Body)
		}
		rc := receiptOf(t, rec.Header())
		if rc.Reason != ReasonRefused || rc.Region != "" || rc.Node != "" || !strings.Contains(rec.Body.String(), rc.ID) {
			t.Errorf("%s: receipt %+v", c.name, rc)
		}
		if rec.Header().Get("Cache-Control") != "no-store" || len(rec.Body.String()) > 600 {
			t.Errorf("%s: header %v, %d bytes", c.name, rec.Header(), rec.Body.Len())
		}
		if (c.status == 405) != (rec.Header().Get("Allow") != "") {
			t.Errorf("%s: Allow %q", c.name, rec.Header().Get("Allow"))
		}
	}
}

func TestAllowedForms(t *testing.T) {
	for name, edit := range map[string]func(*http.Request){
		"server name in other letters": func(r *http.Request) { r.TLS = &tls.ConnectionState{ServerName: "HELLO.example.com"} },
		"absolute form":                func(r *http.Request) { r.URL.Scheme, r.URL.Host, r.URL.Path = "http", testHost, "" },
		"port":                         func(r *http.Request) { r.Host += ":443" },
		"OPTIONS":                      func(r *http.Request) { r.Method = "OPTIONS" },
		"own method":                   func(r *http.Request) { r.Method = "QUERY" },
	} {
		var seen *http.Request
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(_ http.ResponseWriter, r *http.Request) { seen = r }), newHops())
		r := request("GET", "/", nil)
		edit(r)
		rec, _ := send(p, r)
		equal(t, name, rec.Code, 200)
		equal(t, name+": URL", seen.URL.String(), "/")
	}
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(nil), newHops())
	r := request("OPTIONS", "/", nil)
	r.URL.Path, r.RequestURI, r.Host = "*", "*", "whatever"
	rec, _ := send(p, r)
	equal(t, "OPTIONS *", rec.Code, 204)
	equal(t, "OPTIONS *: Allow", rec.Header().Get("Allow"), methods)
	receiptOf(t, rec.Header())
}

func TestProblemAsJSON(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(nil), newHops())
	r := request("GET", "/", nil)
	r.Host = "other.example.com"
	r.Header.Set("Accept", "application/json")
	rec, _ := send(p, r)
	var got problemJSON
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Status != 404 || got.Error == "" || got.Hint == "" || got.Request != receiptOf(t, rec.Header()).ID || rec.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %+v, %v", got, rec.Header())
	}
}

func TestReceiptLevels(t *testing.T) {
	for _, c := range []struct {
		node, function string
		want           func(Receipt, bool) bool
	}{
		{ReceiptFull, "", func(r Receipt, ok bool) bool { return ok && r.Node == "fra-1" && r.Revision == testRev }},
		{"", "", func(r Receipt, ok bool) bool { return ok && r.Node == "" && r.Region == "fra" && r.ID != "" }},
		{ReceiptRegion, ReceiptFull, func(r Receipt, ok bool) bool { return ok && r.Node == "fra-1" }},
		{ReceiptFull, ReceiptOff, func(_ Receipt, ok bool) bool { return !ok }},
		{ReceiptOff, "", func(_ Receipt, ok bool) bool { return !ok }},
		{ReceiptOff, ReceiptRegion, func(r Receipt, ok bool) bool { return ok }},
	} {
		w := newWorld("fra-1")
		w.change(func(m *perigee.Manifest) { m.Receipt = c.function })
		p := newProxy(t, w, "fra-1", newLocal(greet), newHops(), func(cfg *Config) { cfg.Receipt = c.node })
		rec, _ := send(p, request("GET", "/", nil))
		if r, ok := ReceiptOf(rec.Header()); !c.want(r, ok) {
			t.Errorf("node %q, function %q: %+v %v", c.node, c.function, r, ok)
		}
	}
	dev := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), func(cfg *Config) { cfg.Receipt, cfg.Dev = "", true })
	rec, _ := send(dev, request("GET", "/", nil))
	equal(t, "in dev", receiptOf(t, rec.Header()).Node, "fra-1")
}

func TestGuestsResponse(t *testing.T) {
	write := func(f func(w http.ResponseWriter)) *httptest.ResponseRecorder {
		t.Helper()
		local := newLocal(func(w http.ResponseWriter, _ *http.Request) { f(w) })
		rec, aborted := send(newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()), request("GET", "/", nil))
		equal(t, "aborted", aborted, false)
		receiptOf(t, rec.Header())
		return rec
	}
	rec := write(func(w http.ResponseWriter) {
		for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Perigee-Receipt", "Perigee-Hop-Fault", "X-Listed"} {
			w.Header().Set(name, "X-Listed")
		}
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		w.Header().Set("Trailer", "X-Sum, Perigee-Receipt")
		w.WriteHeader(201)
		w.WriteHeader(500) // too late
		_, _ = io.WriteString(w, "made")
		w.Header().Set("X-Sum", "4")
		w.Header().Set(http.TrailerPrefix+"Perigee-Receipt", "entry=forged")
		w.Header().Set(http.TrailerPrefix+"X-Late", "5")
	})
	equal(t, "status", rec.Code, 201)
	h := rec.Result().Header
	for _, name := range []string{ReceiptHeader, headerTiming} { // ours
		delete(h, name)
	}
	equal(t, "header", fmt.Sprintf("%d %v %v", len(h), h["Set-Cookie"], h["Trailer"]), "2 [a=1 b=2] [X-Sum]")
	equal(t, "trailer", fmt.Sprint(rec.Result().Trailer), "map[X-Late:[5] X-Sum:[4]]")

	equal(t, "nothing written", write(func(w http.ResponseWriter) {}).Code, 200)
	equal(t, "204 with a body", write(func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "2")
		w.WriteHeader(204)
		_, _ = io.WriteString(w, "no")
	}).Body.Len(), 0)
	rec = write(func(w http.ResponseWriter) { w.Header().Set("Content-Length", "9"); w.WriteHeader(304) })
	equal(t, "304", fmt.Sprintf("%d %s", rec.Code, rec.Header().Get("Content-Length")), "304 9")
	for _, f := range []func(http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(99) },
		func(w http.ResponseWriter) { w.WriteHeader(600); _, _ = io.WriteString(w, "x") },
		func(w http.ResponseWriter) { w.Header().Set("Content-Length", "x"); w.(http.Flusher).Flush() },
		func(w http.ResponseWriter) { w.Header()["Content-Length"] = []string{"1", "2"}; w.WriteHeader(200) },
	} {
		rec := write(f)
		if rec.Code != 502 || !strings.Contains(rec.Body.String(), "not valid HTTP") {
			t.Errorf("bad head: %d %s", rec.Code, rec.Body)
		}
		equal(t, "a bad head names where it ran", receiptOf(t, rec.Header()).Node, "fra-1")
	}
}

func TestResponseHeldToItsLength(t *testing.T) {
	local := newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "short")
	})
	rec, aborted := send(newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()), request("GET", "/", nil))
	if !aborted || rec.Body.String() != "short" {
		t.Errorf("aborted %v, body %q", aborted, rec.Body)
	}
	rec, aborted = send(newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()), request("HEAD", "/", nil))
	if aborted || rec.Body.Len() > 0 || rec.Header().Get("Content-Length") != "10" {
		t.Errorf("HEAD: aborted %v, body %q, %v", aborted, rec.Body, rec.Header())
	}
	local = newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "2")
		_, err := io.WriteString(w, "long")
		if !errors.Is(err, errTooLong) {
			t.Errorf("writing too much: %v", err)
		}
		_, _ = io.WriteString(w, "ok")
	})
	rec, aborted = send(newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()), request("GET", "/", nil))
	if aborted || rec.Body.String() != "ok" {
		t.Errorf("aborted %v, body %q", aborted, rec.Body)
	}
}

func TestLocalFailures(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		ran    bool
	}{
		{&GuestError{Kind: FaultTrap, Detail: "unreachable"}, 502, true},
		{&GuestError{Kind: FaultDeadline}, 504, true},
		{context.DeadlineExceeded, 504, true},
		{errors.New("disk"), 500, true},
		{&perigee.HopError{Code: perigee.RefusedOverloaded}, 503, false},
		{&perigee.HopError{Code: perigee.RefusedNotHere}, 503, false},
	} {
		rec, aborted := send(newProxy(t, newWorld("fra-1"), "fra-1", failing(c.err), newHops()), request("GET", "/", nil))
		r := receiptOf(t, rec.Header())
		if aborted || rec.Code != c.status || (r.Node == "fra-1") != c.ran || (r.Reason == ReasonRefused) == c.ran {
			t.Errorf("%v: %d, receipt %+v", c.err, rec.Code, r)
		}
		if (c.status == 503) != (rec.Header().Get("Retry-After") != "") {
			t.Errorf("%v: Retry-After %q", c.err, rec.Header().Get("Retry-After"))
		}
	}
	late := newLocal(nil)
	late.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		_, _ = io.WriteString(w, "half")
		return Result{}, &GuestError{Kind: FaultTrap}
	}
	rec, aborted := send(newProxy(t, newWorld("fra-1"), "fra-1", late, newHops()), request("GET", "/", nil))
	if !aborted || rec.Body.String() != "half" {
		t.Errorf("crash in the middle: aborted %v, %q", aborted, rec.Body)
	}
}

func TestGuestReports(t *testing.T) {
	local := newLocal(nil)
	local.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		w.(Reporter).Report(Result{Start: StartImage, Fuel: 42})
		w.WriteHeader(200)
		return Result{Start: StartImage, Fuel: 50}, nil
	}
	rec, _ := send(newProxy(t, newWorld("fra-1"), "fra-1", local, newHops()), request("GET", "/", nil))
	r := receiptOf(t, rec.Header())
	equal(t, "start and fuel", fmt.Sprintf("%s %d", r.Start, r.Fuel), "image 42")
}

func TestTimeout(t *testing.T) {
	w := newWorld("fra-1")
	w.change(func(m *perigee.Manifest) { m.Limits.Timeout = perigee.Duration(20 * time.Millisecond) })
	local := newLocal(nil)
	local.handler = func(ctx context.Context, _ http.ResponseWriter, _ *http.Request) (Result, error) {
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	rec, _ := send(newProxy(t, w, "fra-1", local, newHops()), request("GET", "/", nil))
	if rec.Code != 504 || !strings.Contains(rec.Body.String(), `Rule: timeout = "20ms"`) {
		t.Errorf("%d\n%s", rec.Code, rec.Body)
	}
}

func TestClientGone(t *testing.T) {
	ctx, leave := context.WithCancel(context.Background())
	local := newLocal(nil)
	local.handler = func(ctx context.Context, _ http.ResponseWriter, _ *http.Request) (Result, error) {
		leave()
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops())
	rec, aborted := send(p, request("GET", "/", nil).WithContext(ctx))
	if !aborted || rec.Body.Len() > 0 {
		t.Errorf("aborted %v, %q", aborted, rec.Body)
	}
	equal(t, "counted as gone", counter(t, p, "perigee_edgeproxy_requests_total", "gone"), 1)
}

func TestPanicOfAnInvoker(t *testing.T) {
	local := newLocal(func(http.ResponseWriter, *http.Request) { panic("bug") })
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops())
	func() {
		defer func() { equal(t, "panic", recover(), any("bug")) }()
		p.ServeHTTP(httptest.NewRecorder(), request("GET", "/", nil))
	}()
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_requests_total", "5xx"), 1)
	p.front.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.front.wait(ctx); err != nil {
		t.Error("the gate still counts it")
	}
}

// counter sums the lines of a metric that contain the label value; "" is in all.
func counter(t *testing.T, p *Proxy, name, label string) (sum float64) {
	t.Helper()
	for line := range strings.Lines(metricsText(p)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		bare, labels, _ := strings.Cut(series, "{")
		if bare != name || label != "" && !strings.Contains(labels, `"`+label+`"`) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}

// metricsText is what a scrape of the proxy's metrics returns.
func metricsText(p *Proxy) string {
	reg := prometheus.NewPedanticRegistry()
	m := p.metrics
	reg.MustRegister(m.requests, m.seconds, m.hops, m.served, m.refusals, m.retries, m.hedges, m.certs, m.inFlight, m.refusedConns, m.droppedLines, m.encoded, m.webSockets)
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec.Body.String()
}
