package cache

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/mutant"
)

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }

var (
	epoch = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	bare  = Rules{Cookies: perigee.CookiesBypass}
	key   = Key{Function: "hello", Revision: "r1", Scheme: "https", Host: "hello.example.com", Target: "/"}
)

func header(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func exchange(status int, lines ...string) Exchange {
	return Exchange{Request: http.Header{}, Status: status, Response: header(lines...), Asked: epoch, Answered: epoch}
}

func stored(t *testing.T, r Rules, x Exchange) *Entry {
	t.Helper()
	e, why := r.Judge(x)
	if e == nil {
		t.Fatalf("%v is not stored: %s", x.Response, why)
	}
	return e.WithBody([]byte("body"))
}

func date(after time.Duration) string { return epoch.Add(after).Format(http.TimeFormat) }

// TestLifetime: how long a response is used, by RFC 9111, section 4.2.
func TestLifetime(t *testing.T) {
	for _, c := range []struct {
		lines string
		left  time.Duration
	}{
		{"Cache-Control: max-age=60", time.Minute},
		{"Cache-Control: MAX-AGE=60", time.Minute},
		{`Cache-Control: max-age="60"`, time.Minute},
		{`Cache-Control: ext="a, max-age=1", max-age=60`, time.Minute},
		{`Cache-Control: ext="\"", max-age=60`, time.Minute},
		{"Cache-Control: max-age=60, max-age=3600", time.Minute},
		{"Cache-Control: max-age=3600, s-maxage=60", time.Minute},
		{"Cache-Control: public\nCache-Control: max-age=60", time.Minute},
		{"Cache-Control: max-age=99999999999999999999", maxDelta * time.Second},
		{"Cache-Control: max-age=60\nExpires: " + date(time.Hour), time.Minute},
		{"Expires: " + date(time.Hour) + "\nDate: " + date(0), time.Hour},
		{"Expires: " + date(time.Hour), time.Hour},
		{"Expires: " + date(time.Hour) + "\nDate: " + date(-time.Minute), time.Hour}, // an hour and a minute, of which a minute has passed
		{"Cache-Control: max-age=60\nAge: 20", 40 * time.Second},
		{"Cache-Control: max-age=60\nDate: " + date(-15*time.Second), 45 * time.Second},
		{"Cache-Control: max-age=60\nDate: " + date(time.Hour), time.Minute},
		{"Cache-Control: max-age=60\nDate: gibberish", time.Minute},
		{"Cache-Control: no-store\nCdn-Cache-Control: max-age=60", time.Minute},
		{"Cache-Control: max-age=1\nCdn-Cache-Control: max-age=2\nPerigee-Cdn-Cache-Control: max-age=60", time.Minute},
		{"Cache-Control: max-age=60\nCdn-Cache-Control: max-age=", time.Minute}, // not valid, so not there
		{"Cache-Control: max-age=60\nCdn-Cache-Control: ", time.Minute},
		{"Cache-Control: max-age=1\nCdn-Cache-Control: max-age=60, no-store=?0", time.Minute},
		{"Cache-Control: no-store, must-understand, max-age=60", time.Minute},
	} {
		e := stored(t, bare, exchange(200, strings.Split(c.lines, "\n")...))
		if got := e.Left(epoch); got != c.left {
			t.Errorf("%q: fresh for %s, want %s", c.lines, got, c.left)
		}
		if got := e.Left(epoch.Add(10 * time.Second)); got != c.left-10*time.Second {
			t.Errorf("%q: fresh for %s after 10 s", c.lines, got)
		}
	}
}

// TestNotStored: what RFC 9111, section 3, keeps out, and what is of no use.
func TestNotStored(t *testing.T) {
	for _, c := range []struct {
		status int
		lines  string
		why    string
	}{
		{200, "", "no-lifetime"},
		{200, "Last-Modified: " + date(-time.Hour), "no-lifetime"},
		{200, "Cache-Control: max-age=0", "stale"},
		{200, "Cache-Control: max-age=a", "stale"},
		{200, "Cache-Control: max-age=-5", "stale"},
		{200, "Cache-Control: max-age=1.5", "stale"},
		{200, "Expires: 0", "stale"},
		{200, "Expires: " + date(time.Hour) + "\nExpires: " + date(time.Hour), "stale"},
		{200, "Cache-Control: no-cache, max-age=60", "stale"},
		{200, `Cache-Control: no-cache="a", max-age=60`, "stale"},
		{200, `Cache-Control: private="a, b", max-age=60`, "private"},
		{200, "Cache-Control: max-age=60, No-Store", "no-store"},
		{200, "Cache-Control: max-age=60\nAge: 60", "stale"},
		{200, "Cache-Control: max-age=60\nAge: 0, 0", "stale"},
		{200, "Cache-Control: max-age=60\nAge: 0\nAge: 0", "stale"},
		{200, "Cache-Control: max-age=60\nAge: -1", "stale"},
		{200, "Cache-Control: max-age=60\nVary: a\nVary: *", "vary"},
		{200, "Cache-Control: max-age=60\nSet-Cookie: a=b", "set-cookie"},
		{200, "Cache-Control: max-age=60\nTrailer: Digest", "trailer"},
		{200, "Cdn-Cache-Control: public\nExpires: " + date(time.Hour), "no-lifetime"},
		{200, `Cdn-Cache-Control: max-age="60"`, "no-lifetime"},
		{206, "Cache-Control: max-age=60", "status"},
		{304, "Cache-Control: max-age=60", "status"},
		{299, "Cache-Control: max-age=60, must-understand", "status"},
	} {
		if e, why := bare.Judge(exchange(c.status, strings.Split(c.lines, "\n")...)); e != nil || why != c.why {
			t.Errorf("%d %q: stored %t, why %q, want %q", c.status, c.lines, e != nil, why, c.why)
		}
	}
}

// TestKeptToCheck: what is never fresh is stored if the function can say that it still holds.
func TestKeptToCheck(t *testing.T) {
	for _, lines := range []string{"Cache-Control: no-cache\nEtag: \"a\"", "Cache-Control: max-age=0\nLast-Modified: " + date(-time.Hour), "Cache-Control: max-age=0, stale-while-revalidate=5"} {
		c := New(1 << 20)
		c.Store(key, stored(t, bare, exchange(200, strings.Split(lines, "\n")...)))
		if p := c.Plan(key, nil, nothingSaid(), epoch.Add(time.Second)); p.Use != Check && p.Use != Renew {
			t.Errorf("%q: %+v", lines, p)
		}
	}
}

// TestCredentials: a response to credentials is stored with permission only (RFC 9111, section 3.5).
func TestCredentials(t *testing.T) {
	for control, want := range map[string]bool{
		"max-age=60": false, "max-age=60, public": true, "s-maxage=60": true, "max-age=60, must-revalidate": true, "max-age=60, proxy-revalidate": false,
	} {
		x := exchange(200, "Cache-Control: "+control)
		x.Request = header("Authorization: Basic YTpi")
		if e, _ := bare.Judge(x); (e != nil) != want {
			t.Errorf("%s: stored %t", control, e != nil)
		}
	}
}

func TestHeuristics(t *testing.T) {
	r := Rules{Cookies: perigee.CookiesBypass, Heuristics: true}
	for _, c := range []struct {
		status int
		lines  string
		left   time.Duration
	}{
		{200, "Last-Modified: " + date(-100*time.Minute), 10 * time.Minute},
		{404, "Last-Modified: " + date(-100*time.Minute), 10 * time.Minute},
		{200, "Last-Modified: " + date(-10000*time.Hour), 24 * time.Hour},
		{200, "Last-Modified: " + date(time.Hour), 0},
		{403, "Last-Modified: " + date(-100*time.Minute), 0},
		{403, "Cache-Control: public\nLast-Modified: " + date(-100*time.Minute), 10 * time.Minute},
	} {
		e, _ := r.Judge(exchange(c.status, strings.Split(c.lines, "\n")...))
		if (e != nil) != (c.left > 0) || e != nil && e.Left(epoch) != c.left {
			t.Errorf("%d %q: %+v, want %s", c.status, c.lines, e, c.left)
		}
	}
}

func TestCookies(t *testing.T) {
	x := exchange(200, "Cache-Control: max-age=60", "Set-Cookie: a=b")
	for cookies, want := range map[string]int{perigee.CookiesStrip: 0, perigee.CookiesPass: 1} {
		e := stored(t, Rules{Cookies: cookies}, x)
		if n := len(e.Header["Set-Cookie"]); n != want {
			t.Errorf("%s: %d cookies are stored", cookies, n)
		}
	}
	if len(x.Response["Set-Cookie"]) != 1 {
		t.Error("the first client loses its cookie")
	}
}

func TestVariants(t *testing.T) {
	c := New(1 << 20)
	r := Rules{Cookies: perigee.CookiesBypass, Keyed: []string{"X-Key"}}
	ask := func(lines ...string) string {
		if p := c.Plan(key, header(lines...), nothingSaid(), epoch); p.Entry != nil {
			return string(p.Entry.Body)
		} else {
			return p.Why
		}
	}
	for _, lines := range [][]string{{"A: 1"}, {"A: 2"}, {"A: 1", "X-Key: k"}, {"A: "}} {
		x := exchange(200, "Cache-Control: max-age=60", "Vary: a, b")
		x.Request = header(lines...)
		e, _ := r.Judge(x)
		c.Store(key, e.WithBody([]byte(fmt.Sprint(lines))))
	}
	for _, q := range []struct {
		want  string
		lines []string
	}{
		{"[A: 1]", []string{"A: 1", "C: x"}}, {"[A: 2]", []string{"A:  2 "}}, {"vary-miss", []string{"A: 1", "B: 1"}}, {"vary-miss", []string{"A: 1,2"}},
		{"[A: 1 X-Key: k]", []string{"A: 1", "X-Key: k"}}, {"vary-miss", []string{"A: 2", "X-Key: k"}}, {"vary-miss", nil}, {"[A: ]", []string{"A: "}},
	} {
		if got := ask(q.lines...); got != q.want {
			t.Errorf("%q: %s, want %s", q.lines, got, q.want)
		}
	}
	for i := range 3 * maxVariants {
		x := exchange(200, "Cache-Control: max-age=60", "Vary: a")
		x.Request = header(fmt.Sprint("A: ", i))
		e, _ := r.Judge(x)
		c.Store(key, e)
	}
	if res, _ := c.store.GetIfPresent(key); len(res.variants) != maxVariants {
		t.Errorf("%d variants", len(res.variants))
	}
}

// TestFreshen: a 304 changes what a response says, and not its bytes (RFC 9111, section 3.2).
func TestFreshen(t *testing.T) {
	e := stored(t, bare, exchange(200, "Cache-Control: max-age=60", "Etag: \"a\"", "X-A: old", "X-B: old", "Content-Encoding: gzip", "Age: 10", "Cache-Tag: t", "Perigee-Cdn-Cache-Control: max-age=90"))
	x := exchange(304, "X-A: new", "Content-Encoding: br", "Content-Length: 7", "Etag: W/\"b\"")
	x.Asked = epoch.Add(time.Hour)
	x.Answered = x.Asked
	got, keep := bare.Freshen(e, x)
	if !keep || got.Left(x.Asked) != 90*time.Second || string(got.Body) != "body" {
		t.Errorf("%+v, %t", got, keep)
	}
	for name, want := range map[string]string{"X-A": "new", "X-B": "old", "Content-Encoding": "gzip", "Etag": `"a"`, "Content-Length": ""} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	if len(got.tags) != 1 {
		t.Errorf("tags %q", got.tags)
	}
	x.Response = header("Perigee-Cdn-Cache-Control: no-store")
	if got, keep := bare.Freshen(e, x); keep || string(got.Body) != "body" {
		t.Errorf("a response that may be stored no more: %+v", got)
	}
}

// TestEnds: what was purged or changed is gone, also if it was being fetched then.
func TestEnds(t *testing.T) {
	ends := map[string]struct {
		end   func(*Cache, time.Time)
		match bool
	}{
		"tag":              {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Tag: "b"}, at) }, true},
		"another tag":      {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Tag: "c"}, at) }, false},
		"host":             {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Host: key.Host}, at) }, true},
		"function":         {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Function: "hello"}, at) }, true},
		"function and tag": {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Function: "hello", Tag: "a"}, at) }, true},
		"other and tag":    {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{Function: "other", Tag: "a"}, at) }, false},
		"all":              {func(c *Cache, at time.Time) { c.Purge(perigee.PurgeMatch{}, at) }, true},
		"changed":          {func(c *Cache, at time.Time) { c.Changed(key, at) }, true},
		"too many marks": {func(c *Cache, at time.Time) {
			for i := range maxMarks + 1 {
				c.Purge(perigee.PurgeMatch{Tag: fmt.Sprint(i)}, at)
			}
		}, true},
	}
	for name, e := range ends {
		c := New(1 << 20)
		entry := stored(t, bare, exchange(200, "Cache-Control: max-age=60", "Cache-Tag: a, b"))
		if name != "too many marks" {
			c.Store(key, entry)
			e.end(c, epoch.Add(time.Second))
			if gone := c.Plan(key, nil, nothingSaid(), epoch).Entry == nil; gone != e.match {
				t.Errorf("%s: gone %t", name, gone)
			}
		} else {
			e.end(c, epoch.Add(time.Second))
		}
		if late := c.Store(key, entry); late == e.match {
			t.Errorf("%s: what was asked for before is stored: %t", name, late)
		}
		x := exchange(200, "Cache-Control: max-age=60", "Cache-Tag: a, b")
		x.Asked = epoch.Add(2 * time.Second)
		if !c.Store(key, stored(t, bare, x)) {
			t.Errorf("%s: what was asked for after that is not stored", name)
		}
	}
}

// TestBounded: the store keeps to its size, and what is asked for again and again stays.
func TestBounded(t *testing.T) {
	c := New(1 << 20)
	popular := stored(t, bare, exchange(200, "Cache-Control: max-age=60"))
	c.Store(key, popular)
	lost := 0
	for i := range 4096 {
		k := key
		k.Target = fmt.Sprint("/", i)
		e, _ := bare.Judge(exchange(200, "Cache-Control: max-age=60"))
		c.Store(k, e.WithBody(make([]byte, 4096)))
		if c.Plan(key, nil, nothingSaid(), epoch).Use != Serve {
			lost++
			c.Store(key, popular)
		}
	}
	c.store.CleanUp()
	if c.Size() > 1<<20 {
		t.Errorf("%d bytes", c.Size())
	}
	if lost > 400 {
		t.Errorf("a flood pushed out what is asked for all the time, %d times", lost)
	}
	e, _ := bare.Judge(exchange(200, "Cache-Control: max-age=60"))
	if c.Store(key, e.WithBody(make([]byte, 1<<19))) {
		t.Error("one entry takes half of the store")
	}
}

func FuzzParseControl(f *testing.F) {
	for _, s := range []string{"max-age=60, public", `a="b,\"c", no-store`, "max-age", "=,=", `x="`, `x="\`, ",,,", "max-stale, min-fresh=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := ParseControl([]string{s})
		for _, d := range []delta{c.MaxAge, c.SharedMaxAge, c.StaleIfError, c.StaleWhileRevalidate, c.MinFresh, c.MaxStale} {
			if d < notSaid || d > maxDelta {
				t.Fatalf("%q: %d seconds", s, d)
			}
		}
		if d := ParseControl([]string{"no-store," + s}); !d.NoStore {
			t.Fatalf("%q hides what stands before it", s)
		}
		if !strings.Contains(s, `"`) && !ParseControl([]string{s, "private"}).Private {
			t.Fatalf("%q hides another line", s)
		}
		if p, ok := parseTargeted(s); ok && (p.MaxAge < notSaid || p.MaxAge > maxDelta) {
			t.Fatalf("%q: targeted for %d seconds", s, p.MaxAge)
		}
	})
}
