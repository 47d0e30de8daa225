package edgeproxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestCacheUsesStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=10, stale-while-revalidate=20, stale-if-error=100")
		fetched(p, "GET", "/")
		time.Sleep(15 * time.Second)
		rec := fetched(p, "GET", "/")
		equal(t, "body while it is asked", rec.Body.String(), "answer 1")
		equal(t, "status", rec.Header().Get("Cache-Status"), "perigee; hit; ttl=-5")
		rec = fetched(p, "GET", "/")
		equal(t, "body after that", rec.Body.String(), "answer 2")
		equal(t, "runs", guest.runs(), 2)

		time.Sleep(40 * time.Second)
		guest.set(http.StatusServiceUnavailable)
		rec = fetched(p, "GET", "/")
		equal(t, "in place of an error", fmt.Sprint(rec.Code, rec.Body), "200 answer 2")
		equal(t, "status", rec.Header().Get("Cache-Status"), "perigee; fwd=stale; fwd-status=503; ttl=-30")
		guest.handler = func(http.ResponseWriter, *http.Request) { panic("a guest that is lost") }
		rec = fetched(p, "GET", "/")
		equal(t, "in place of no answer", fmt.Sprint(rec.Code, rec.Body), "200 answer 2")
		time.Sleep(100 * time.Second)
		rec = fetched(p, "GET", "/")
		equal(t, "too late", rec.Code, http.StatusBadGateway)
	})
}

func TestCacheStrictness(t *testing.T) {
	for _, directive := range []string{"must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=10"} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, _ := cachedProxy(t, perigee.Cache{}, "Etag", `"a"`, "Cache-Control", "max-age=10, stale-while-revalidate=100, stale-if-error=100, "+directive)
			fetched(p, "GET", "/")
			time.Sleep(15 * time.Second)
			guest.set(http.StatusServiceUnavailable)
			rec := fetched(p, "GET", "/", "Cache-Control", "max-stale")
			equal(t, directive, rec.Code, http.StatusServiceUnavailable)
		})
	}
}

func TestCacheRequestDirectives(t *testing.T) {
	for _, c := range []struct {
		asks   string
		status int
		runs   int
	}{
		{"max-age=10", 200, 2}, {"max-age=20", 200, 1}, {"min-fresh=50", 200, 2}, {"no-cache", 200, 2}, {"only-if-cached", 200, 1}, {"only-if-cached, max-age=0", 504, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60")
			fetched(p, "GET", "/")
			time.Sleep(15 * time.Second)
			rec := fetched(p, "GET", "/", "Cache-Control", c.asks)
			if rec.Code != c.status || guest.runs() != c.runs {
				t.Errorf("%s: %d after %d runs, want %d and %d", c.asks, rec.Code, guest.runs(), c.status, c.runs)
			}
		})
	}
}

func TestCacheVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{Headers: []string{"*"}}, "Cache-Control", "max-age=60", "Vary", "accept-language")
		for _, c := range []struct{ language, body string }{{"de", "answer 1"}, {"fr", "answer 2"}, {"DE", "answer 1"}, {"fr", "answer 2"}} {
			equal(t, c.language, fetched(p, "GET", "/", "Accept-Language", c.language).Body.String(), c.body)
		}
		equal(t, "none", fetched(p, "GET", "/").Body.String(), "answer 3")
		equal(t, "runs", guest.runs(), 3)
	})
}

func TestCacheChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60", "Location", "/list?all=1", "Content-Location", "http://other.example.com/else")
		for _, target := range []string{"/a", "/list?all=1", "/else"} {
			fetched(p, "GET", target)
		}
		guest.set(http.StatusConflict, "Location", "/list?all=1")
		fetched(p, "POST", "/a")
		fetched(p, "OPTIONS", "/a")
		equal(t, "a request that failed changes nothing", fetched(p, "GET", "/a").Header().Get("Age"), "0")
		equal(t, "runs", guest.runs(), 5)
		guest.set(http.StatusSeeOther, "Cache-Control", "max-age=60", "Location", "/list?all=1", "Content-Location", "http://other.example.com/else")
		time.Sleep(time.Second)
		fetched(p, "POST", "/a")
		time.Sleep(time.Second)
		fetched(p, "GET", "/a")
		fetched(p, "GET", "/list?all=1")
		equal(t, "runs for what was changed", guest.runs(), 8)
		fetched(p, "GET", "/else")
		equal(t, "another host's", guest.runs(), 8)
	})
}

// waiting is a request under way.
type waiting struct {
	rec  *httptest.ResponseRecorder
	done chan struct{}
	quit context.CancelFunc
}

func start(p *Proxy, target string, fields ...string) *waiting {
	r := request("GET", target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	ctx, cancel := context.WithCancel(r.Context())
	c := &waiting{done: make(chan struct{}), quit: cancel}
	go func() {
		defer close(c.done)
		c.rec, _ = send(p, r.WithContext(ctx))
	}()
	return c
}

func (c *waiting) body() string { <-c.done; return c.rec.Body.String() }

// slow is a guest that waits before its head and in the middle of its body.
func slow(head, rest <-chan struct{}, fields ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		<-head
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		_, _ = w.Write([]byte("begin "))
		select {
		case <-rest:
			_, _ = w.Write([]byte("end"))
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// TestCacheSharesRuns: of those who ask for the same at once one has the function run, and may leave.
func TestCacheSharesRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60")
		head, rest := make(chan struct{}), make(chan struct{})
		guest.handler = slow(head, rest)
		leader := start(p, "/")
		synctest.Wait()
		followers := []*waiting{start(p, "/"), start(p, "/"), start(p, "/")}
		synctest.Wait()
		leader.quit()
		<-leader.done
		followers[0].quit()
		<-followers[0].done
		close(head)
		time.Sleep(time.Second)
		close(rest)
		for _, f := range followers[1:] {
			equal(t, "body", f.body(), "begin end")
			equal(t, "status", f.rec.Header().Get("Cache-Status"), "perigee; fwd=uri-miss; ttl=59; collapsed")
		}
		equal(t, "runs", guest.runs(), 1)
		equal(t, "hit", fetched(p, "GET", "/").Header().Get("Cache-Status"), "perigee; hit; ttl=59")
	})
}

// TestCacheDoesNotSerialise: what can't be shared is not waited for, and what is late not for long.
func TestCacheDoesNotSerialise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "private")
		head, rest := make(chan struct{}), make(chan struct{})
		guest.handler = slow(head, rest)
		all := []*waiting{start(p, "/")}
		synctest.Wait()
		for range 4 {
			all = append(all, start(p, "/"))
		}
		synctest.Wait()
		equal(t, "runs before the head", guest.runs(), 1)
		close(head)
		synctest.Wait()
		equal(t, "runs when it is known", guest.runs(), 5)
		all = append(all, start(p, "/"), start(p, "/"))
		synctest.Wait()
		equal(t, "runs of those who come later", guest.runs(), 7)
		close(rest)
		for _, c := range all {
			equal(t, "body", c.body(), "begin end")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60")
		head, rest := make(chan struct{}), make(chan struct{})
		guest.handler = slow(head, rest)
		leader := start(p, "/")
		synctest.Wait()
		follower := start(p, "/")
		time.Sleep(patience - time.Millisecond)
		equal(t, "runs within its patience", guest.runs(), 1)
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		equal(t, "runs after that", guest.runs(), 2)
		close(head)
		close(rest)
		equal(t, "leader", leader.body(), "begin end")
		equal(t, "follower", follower.body(), "begin end")
	})
}

// TestCacheStreams: the client that leads gets what there is at once, and what is not stored at its own pace.
func TestCacheStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, _ := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=60")
		head, rest := make(chan struct{}), make(chan struct{})
		guest.handler = slow(head, rest)
		close(head)
		c := start(p, "/")
		synctest.Wait()
		p.cached.mu.Lock()
		for _, f := range p.cached.fetches {
			f.mu.Lock()
			equal(t, "read before the end", f.read, len("begin "))
			f.mu.Unlock()
		}
		equal(t, "fetches", len(p.cached.fetches), 1)
		p.cached.mu.Unlock()
		close(rest)
		equal(t, "body", c.body(), "begin end")
	})
}

// TestCacheEndsWhatNobodyWants: without clients, a response that is not stored ends.
func TestCacheEndsWhatNobodyWants(t *testing.T) {
	for _, c := range []struct {
		name, control string
		after         time.Duration
	}{
		{"not stored", "private", 0}, {"on its way into the store", "max-age=60", fetchLinger},
	} {
		synctest.Test(t, func(t *testing.T) {
			p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", c.control)
			w.change(func(m *perigee.Manifest) { m.Limits.Timeout = 0 })
			ended := make(chan struct{})
			head, rest := make(chan struct{}), make(chan struct{})
			guest.handler = func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				slow(head, rest)(w, r)
			}
			close(head)
			client := start(p, "/")
			synctest.Wait()
			began := time.Now()
			client.quit()
			<-client.done
			<-ended
			equal(t, c.name, time.Since(began), c.after)
			synctest.Wait()
			equal(t, "stored", p.cached.recording.Load(), 0)
			close(rest)
			guest.mu.Lock()
			guest.handler = nil
			guest.mu.Unlock()
			equal(t, "what broke off is not stored", fetched(p, "GET", "/").Body.String(), "answer 2")
		})
	}
}

// TestCacheEndsRenewal: what was asked for in the background and can't be stored ends at once, however long it is.
func TestCacheEndsRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, guest, w := cachedProxy(t, perigee.Cache{}, "Cache-Control", "max-age=1, stale-while-revalidate=100")
		w.change(func(m *perigee.Manifest) { m.Limits.Timeout = 0 })
		fetched(p, "GET", "/")
		time.Sleep(2 * time.Second)
		guest.set(0, "Cache-Control", "private")
		ended := make(chan struct{})
		guest.handler = func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					break
				}
			}
			panic(http.ErrAbortHandler)
		}
		equal(t, "body", fetched(p, "GET", "/").Body.String(), "answer 1")
		<-ended
		guest.mu.Lock()
		guest.handler = nil
		guest.mu.Unlock()
		equal(t, "what may be stored no more is not used again", fetched(p, "GET", "/").Body.String(), "answer 3")
	})
}

// TestCacheBounds: what is too long streams, and is not stored.
func TestCacheBounds(t *testing.T) {
	for name, sized := range map[string]bool{"of known length": true, "of unknown length": false} {
		synctest.Test(t, func(t *testing.T) {
			w, guest := newWorld("fra-1"), &script{}
			w.change(func(m *perigee.Manifest) { m.Cache.Enabled = true })
			guest.set(0, "Cache-Control", "max-age=60")
			p := newProxy(t, w, "fra-1", newLocal(guest.serve), newHops(), func(cfg *Config) { cfg.CacheSize = 1 << 20 })
			part := strings.Repeat("0123456789abcdef", 1<<10)
			guest.handler = func(w http.ResponseWriter, r *http.Request) {
				if sized {
					w.Header().Set("Content-Length", fmt.Sprint(64*len(part)))
				}
				for range 64 {
					if _, err := w.Write([]byte(part)); err != nil {
						panic(http.ErrAbortHandler)
					}
				}
			}
			a, b := start(p, "/"), start(p, "/")
			equal(t, name, len(a.body()), 64*len(part))
			equal(t, name, len(b.body()), 64*len(part))
			equal(t, "runs", guest.runs(), 2)
			synctest.Wait()
			equal(t, "recorded", p.cached.recording.Load(), 0)
			if n := p.cached.store.Size(); n > 4096 {
				t.Errorf("%s: %d bytes are stored", name, n)
			}
		})
	}
}
