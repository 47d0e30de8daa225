package edgeproxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// script is a guest that answers with the head that a test wants, and with how often it was asked.
type script struct {
	mu      sync.Mutex
	head    http.Header
	status  int
	asked   []*http.Request
	handler func(http.ResponseWriter, *http.Request) // besides
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Clone(context.Background()))
	n, status, handler := len(s.asked), s.status, s.handler
	for name, values := range s.head {
		w.Header()[name] = values
	}
	s.mu.Unlock()
	if handler != nil {
		handler(w, r)
		return
	}
	if status != 0 {
		w.WriteHeader(status)
	}
	if status != http.StatusNotModified {
		fmt.Fprintf(w, "answer %d", n)
	}
}

func (s *script) set(status int, head ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.head = status, http.Header{}
	for i := 0; i < len(head); i += 2 {
		s.head.Add(head[i], head[i+1])
	}
}

func (s *script) runs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

func (s *script) last() *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

// cachedProxy is a gateway in front of a function that lets responses be stored.
func cachedProxy(t testing.TB, rules perigee.Cache, head ...string) (*Proxy, *script, *world) {
	w, s := newWorld("fra-1"), &script{}
	rules.Enabled = true
	w.change(func(m *perigee.Manifest) { m.Cache = rules })
	s.set(0, head...)
	return newProxy(t, w, "fra-1", newLocal(s.serve), newHops()), s, w
}

// fetched sends a request with these fields, and waits until what it caused is over.
func fetched(p *Proxy, method, target string, fields ...string) *httptest.ResponseRecorder {
	r := request(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		switch fields[i] {
		case "Host":
			r.Host = fields[i+1]
			continue
		case "address":
			r.RemoteAddr = fields[i+1]
			continue
		}
		r.Header.Add(fields[i], fields[i+1])
	}
	rec, _ := send(p, r)
	synctest.Wait()
	return rec
}

func TestCacheServesWhatIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Etag", `"v1"`, "Cache-Tag", "a")
		rec := fetched(p, "GET", "/x?b=2&a=1")
		equal(t, "body", rec.Body.String(), "answer 1")
		equal(t, "status of the miss", rec.Header().Get("Cache-Status"), "perigee; fwd=uri-miss; ttl=60; stored")
		equal(t, "start of the miss", receiptOf(t, rec.Header()).Start, StartWarm)

		time.Sleep(10 * time.Second)
		rec = fetched(p, "GET", "/x?b=2&a=1", "X-Other", "1")
		equal(t, "body", rec.Body.String(), "answer 1")
		equal(t, "status of the hit", rec.Header().Get("Cache-Status"), "perigee; hit; ttl=50")
		equal(t, "age", rec.Header().Get("Age"), "10")
		equal(t, "tags", rec.Header().Get("Cache-Tag"), "")
		r := receiptOf(t, rec.Header())
		r.ID = ""
		equal(t, "receipt", r, Receipt{Entry: "fra", Region: "fra", Node: "fra-1", Revision: testRev, Reason: ReasonCached})
		equal(t, "length", rec.Header().Get("Content-Length"), "8")

		rec = fetched(p, "HEAD", "/x?b=2&a=1")
		equal(t, "a HEAD is answered from it", rec.Header().Get("Cache-Status"), "perigee; hit; ttl=50")
		equal(t, "without a body", rec.Body.Len(), 0)
		rec = fetched(p, "GET", "/x?b=2&a=1", "If-None-Match", `W/"v1"`)
		equal(t, "a validator that fits", rec.Code, http.StatusNotModified)
		rec = fetched(p, "GET", "/x?b=2&a=1", "Range", "bytes=0-2")
		equal(t, "a range", fmt.Sprint(rec.Code, rec.Body), "206 ans")
		equal(t, "runs", guest.runs(), 1)
		fetched(p, "GET", "/x?a=1&b=2")
		equal(t, "another order of the query", guest.runs(), 2)

		time.Sleep(50 * time.Second)
		guest.set(http.StatusNotModified, "Cache-Control", "max-age=60")
		rec = fetched(p, "GET", "/x?b=2&a=1")
		equal(t, "validator", guest.last().Header.Get("If-None-Match"), `"v1"`)
		equal(t, "body", rec.Body.String(), "answer 1")
		equal(t, "status of the check", rec.Header().Get("Cache-Status"), "perigee; fwd=stale; fwd-status=304; ttl=60")
		fetched(p, "GET", "/x?b=2&a=1")
		equal(t, "runs", guest.runs(), 3)
	})
}

// TestCacheIsOff: a function that did not ask for it is asked each time.
func TestCacheIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Cache-Tag", "a")
		w.change(func(m *perigee.Manifest) { m.Cache = perigee.Cache{} })
		fetched(p, "GET", "/")
		rec := fetched(p, "GET", "/")
		equal(t, "runs", guest.runs(), 2)
		equal(t, "status", rec.Header().Get("Cache-Status"), "")
		equal(t, "tags", rec.Header().Get("Cache-Tag"), "a")
	})
}

func TestCacheStoresNothing(t *testing.T) {
	for _, c := range []struct {
		name           string
		rules          perigee.Cache
		response, asks []string
		method         string
		says           string
	}{
		{"no lifetime", perigee.Cache{}, nil, nil, "GET", "detail=no-lifetime"},
		{"no-store", perigee.Cache{}, []string{"Cache-Control", "no-store, max-age=60"}, nil, "GET", "detail=no-store"},
		{"private", perigee.Cache{}, []string{"Cache-Control", "max-age=60, private"}, nil, "GET", "detail=private"},
		{"Vary: *", perigee.Cache{}, []string{"Cache-Control", "max-age=60", "Vary", "A, *"}, nil, "GET", "detail=vary"},
		{"a cookie is set", perigee.Cache{}, []string{"Cache-Control", "max-age=60", "Set-Cookie", "a=b"}, nil, "GET", "detail=set-cookie"},
		{"a cookie is sent", perigee.Cache{}, []string{"Cache-Control", "max-age=60"}, []string{"Cookie", "a=b"}, "GET", "fwd=bypass; detail=cookie"},
		{"a cookie is sent and all fields are seen", perigee.Cache{Headers: []string{"*"}}, []string{"Cache-Control", "max-age=60"}, []string{"Cookie", "a=b"}, "GET", "fwd=bypass; detail=cookie"},
		{"credentials", perigee.Cache{}, []string{"Cache-Control", "public, max-age=60"}, []string{"Authorization", "Basic YTpi"}, "GET", "fwd=bypass; detail=authorization"},
		{"credentials that the function sees", perigee.Cache{Headers: []string{"*"}}, []string{"Cache-Control", "max-age=60"}, []string{"Authorization", "Basic YTpi"}, "GET", "detail=authorization"},
		{"the client forbids it", perigee.Cache{}, []string{"Cache-Control", "max-age=60"}, []string{"Cache-Control", "no-store"}, "GET", "fwd=bypass; detail=no-store"},
		{"a part", perigee.Cache{}, []string{"Cache-Control", "max-age=60"}, []string{"Range", "bytes=0-1"}, "GET", "fwd=uri-miss"},
		{"HEAD", perigee.Cache{}, []string{"Cache-Control", "max-age=60"}, nil, "HEAD", "fwd=uri-miss"},
		{"POST", perigee.Cache{}, []string{"Cache-Control", "max-age=60"}, nil, "POST", "fwd=method"},
		{"targeted", perigee.Cache{}, []string{"Cache-Control", "max-age=60", "Cdn-Cache-Control", "no-store"}, nil, "GET", "detail=no-store"},
		{"targeted at this", perigee.Cache{}, []string{"Cache-Control", "max-age=60", "Cdn-Cache-Control", "max-age=60", "Perigee-Cdn-Cache-Control", "private"}, nil, "GET", "detail=private"},
		{"age unknown", perigee.Cache{}, []string{"Cache-Control", "max-age=60", "Age", "old"}, nil, "GET", "detail=stale"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, _ := cachedProxy(t, c.rules, c.response...)
			fetched(p, c.method, "/", c.asks...)
			rec := fetched(p, c.method, "/", c.asks...)
			if guest.runs() != 2 || !strings.Contains(rec.Header().Get("Cache-Status"), c.says) {
				t.Errorf("%s: %d runs, %s, want 2 and %q", c.name, guest.runs(), rec.Header().Get("Cache-Status"), c.says)
			}
			if _, ok := rec.Header()["Perigee-Cdn-Cache-Control"]; ok {
				t.Errorf("%s: the client hears of the targeted field", c.name)
			}
		})
	}
}

// TestCachePoisoning: what a client sends does not change what others get.
func TestCachePoisoning(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		names := []string{"X-Evil", "X-Forwarded-Host", "X-Forwarded-For", "X-Original-Url", "Perigee-Client-Region", "Perigee-Client-Country", "Tracestate", "User-Agent", "Cookie", "Accept-Language"}
		for _, name := range names {
			fmt.Fprintf(w, "%s=%s\n", name, r.Header.Get(name))
		}
		fmt.Fprintln(w, r.Host, r.RequestURI, r.Proto, r.RemoteAddr)
	}
	for _, c := range []struct {
		name   string
		rules  perigee.Cache
		target string
		fields []string
	}{
		{"a field", perigee.Cache{}, "/", []string{"X-Evil", "1"}},
		{"a URL in a field", perigee.Cache{}, "/", []string{"X-Original-Url", "/admin"}},
		{"an agent", perigee.Cache{}, "/", []string{"User-Agent", "<script>"}},
		{"an address", perigee.Cache{}, "/", []string{"address", "192.0.2.66:6"}},
		{"a port", perigee.Cache{}, "/", []string{"Host", testHost + ":1337"}},
		{"a trace", perigee.Cache{}, "/", []string{"Tracestate", "a=evil", "Traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"}},
		{"a cookie that is taken away", perigee.Cache{Cookies: perigee.CookiesStrip}, "/", []string{"Cookie", "a=evil"}},
		{"a field that is part of the key", perigee.Cache{Headers: []string{"accept-language"}}, "/", []string{"Accept-Language", "evil"}},
		{"a path in other letters", perigee.Cache{}, "/%2e", nil},
		{"a part of the page", perigee.Cache{}, "/%23evil", nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, _ := cachedProxy(t, c.rules, "Cache-Control", "max-age=60")
			guest.handler = echo
			clean := fetched(p, "GET", "/").Body.String()
			q, guest, _ := cachedProxy(t, c.rules, "Cache-Control", "max-age=60")
			guest.handler = echo
			fetched(q, "GET", c.target, c.fields...)
			if got := fetched(q, "GET", "/").Body.String(); got != clean {
				t.Errorf("%s: the next client gets\n%s\nwant\n%s", c.name, got, clean)
			}
		})
	}
}

// TestCachePlacement: where a function may not run for a client, nothing of it is stored or used.
func TestCachePlacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("fra-1:absent", "wdc-1"), &script{}
		s.set(0, "Cache-Control", "max-age=60")
		mesh := newMesh()
		mesh.add("wdc-1", newProxy(t, w, "wdc-1", newLocal(s.serve), mesh))
		p := newProxy(t, w, "fra-1", newLocal(s.serve), mesh)
		pinned := func(places ...string) {
			w.change(func(m *perigee.Manifest) { m.Cache.Enabled, m.Placement.Pin = true, places })
		}
		pinned("wdc")
		fetched(p, "GET", "/")
		rec := fetched(p, "GET", "/")
		equal(t, "runs where it is pinned elsewhere", s.runs(), 2)
		equal(t, "status", rec.Header().Get("Cache-Status"), "perigee; fwd=bypass; detail=placement")
		equal(t, "size", p.cached.store.Size(), 0)
		pinned()
		fetched(p, "GET", "/")
		rec = fetched(p, "GET", "/")
		equal(t, "runs where it may run", s.runs(), 3)
		equal(t, "region", receiptOf(t, rec.Header()).Region, "fra")
		mesh.wg.Wait()
	})
}

// TestCacheOverHop: the targeted field crosses the mesh, and goes no further.
func TestCacheOverHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWorld("fra-1:absent", "wdc-1"), &script{}
		w.change(func(m *perigee.Manifest) { m.Cache.Enabled = true })
		s.set(0, "Cache-Control", "private", "Perigee-Cdn-Cache-Control", "max-age=30")
		mesh := newMesh()
		mesh.add("wdc-1", newProxy(t, w, "wdc-1", newLocal(s.serve), mesh))
		p := newProxy(t, w, "fra-1", newLocal(s.serve), mesh)
		fetched(p, "GET", "/")
		rec := fetched(p, "GET", "/")
		equal(t, "runs", s.runs(), 1)
		equal(t, "status", rec.Header().Get("Cache-Status"), "perigee; hit; ttl=30")
		equal(t, "field", rec.Header().Get("Perigee-Cdn-Cache-Control"), "")
		equal(t, "what clients may do", rec.Header().Get("Cache-Control"), "private")
		mesh.wg.Wait()
	})
}
