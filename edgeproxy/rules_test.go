package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

func TestMayRetry(t *testing.T) {
	refused := func(c perigee.RefuseCode) error { return &perigee.HopError{Node: "fra-1", Code: c} }
	for _, c := range []struct {
		name string
		a    attempt
		want bool
	}{
		{"overloaded", attempt{err: refused(perigee.RefusedOverloaded), tries: 1}, true},
		{"draining", attempt{err: refused(perigee.RefusedDraining), tries: 1}, true},
		{"not here", attempt{err: refused(perigee.RefusedNotHere), tries: 1}, true},
		{"not allowed there", attempt{err: refused(perigee.RefusedNotAllowed), tries: 1}, true},
		{"unreachable", attempt{err: refused(perigee.RefusedUnreachable), tries: 1}, true},
		{"silent, no body", attempt{err: refused(perigee.RefusedSilent), tries: 1}, false},
		{"silent, idempotent", attempt{err: refused(perigee.RefusedSilent), tries: 1, idempotent: true}, true},
		{"silent, body not sent", attempt{err: refused(perigee.RefusedSilent), tries: 1, hasBody: true}, true},
		{"wrapped", attempt{err: fmt.Errorf("x: %w", refused(perigee.RefusedOverloaded)), tries: 1}, true},
		{"too late everywhere", attempt{err: refused(perigee.RefusedDeadline), tries: 1}, false},
		{"refused, body kept", attempt{err: refused(perigee.RefusedOverloaded), tries: 1, body: bodyKept}, true},
		{"refused, body gone", attempt{err: refused(perigee.RefusedOverloaded), tries: 1, body: bodyGone}, false},
		{"refused, body failed", attempt{err: refused(perigee.RefusedOverloaded), tries: 1, body: bodyFailed}, false},
		{"refused, last try", attempt{err: refused(perigee.RefusedOverloaded), tries: maxTries}, false},
		{"refused, response begun", attempt{err: refused(perigee.RefusedOverloaded), tries: 1, started: true}, false},

		{"lost, not idempotent", attempt{err: errLost, tries: 1}, false},
		{"lost, idempotent", attempt{err: errLost, tries: 1, idempotent: true}, true},
		{"lost, idempotent, body kept", attempt{err: errLost, tries: 1, idempotent: true, body: bodyKept}, true},
		{"lost, idempotent, body gone", attempt{err: errLost, tries: 1, idempotent: true, body: bodyGone}, false},
		{"lost, idempotent, response begun", attempt{err: errLost, tries: 1, idempotent: true, started: true}, false},
		{"lost, idempotent, last try", attempt{err: errLost, tries: maxTries, idempotent: true}, false},

		{"guest crashed", attempt{err: &GuestError{Kind: FaultTrap}, tries: 1, idempotent: true}, false},
		{"guest too slow", attempt{err: &GuestError{Kind: FaultDeadline}, tries: 1, idempotent: true}, false},
		{"no time left", attempt{err: context.DeadlineExceeded, tries: 1, idempotent: true}, false},
		{"client gone", attempt{err: errClientGone, tries: 1, idempotent: true}, false},
		{"canceled", attempt{err: context.Canceled, tries: 1, idempotent: true}, false},
		{"unknown failure here", attempt{err: errors.New("disk"), tries: 1, idempotent: true}, false},
	} {
		if got := mayRetry(c.a); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func TestIsIdempotent(t *testing.T) {
	for method, want := range map[string]bool{
		"GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true,
		"POST": false, "PATCH": false, "QUERY": false, "get": false,
	} {
		r := &http.Request{Method: method, Header: http.Header{}}
		equal(t, method, isIdempotent(r), want)
		r.Header.Set("Idempotency-Key", "7")
		equal(t, method+" with a key", isIdempotent(r), true)
	}
}

func TestProblemOf(t *testing.T) {
	fn := newWorld("fra-1").view.Load().Desired.Functions["hello"]
	fn.Live.Manifest.Limits = perigee.Limits{Timeout: perigee.DefaultTimeout, Memory: perigee.DefaultMemory, Fuel: 7}
	hop := func(c perigee.RefuseCode) error { return &perigee.HopError{Code: c} }
	for _, c := range []struct {
		err    error
		status int
		cause  string
		says   string // in the text
	}{
		{&GuestError{Kind: FaultTrap, Detail: "unreachable"}, 502, "trap", "(unreachable)"},
		{&GuestError{Kind: FaultDeadline}, 504, "deadline", `Rule: timeout = "30s"`},
		{&GuestError{Kind: FaultMemory}, 502, "memory", `Rule: memory = "128MiB"`},
		{&GuestError{Kind: FaultFuel}, 502, "fuel", `Rule: fuel = 7`},
		{&GuestError{Kind: FaultNoResponse}, 502, "no-response", "without a response"},
		{&GuestError{Kind: FaultTooLarge}, 502, "response-too-large", "too large"},
		{&GuestError{Kind: FaultBad}, 502, "bad-response", "not valid HTTP"},
		{&GuestError{Kind: "new-kind"}, 502, "bad-response", "not valid HTTP"},
		{hop(perigee.RefusedOverloaded), 503, "overloaded", "busy"},
		{hop(perigee.RefusedDraining), 503, "draining", "shutting down"},
		{hop(perigee.RefusedNotHere), 503, "not-here", "does not run it"},
		{hop(perigee.RefusedNotAllowed), 503, "not-allowed", "does not run it"},
		{hop(perigee.RefusedUnreachable), 503, "unreachable", "do not answer"},
		{hop(perigee.RefusedSilent), 503, "silent", "do not answer"},
		{hop(perigee.RefusedDeadline), 504, "deadline", "Too little time"},
		{errLost, 502, "lost", "Idempotency-Key"},
		{context.DeadlineExceeded, 504, "deadline", "in time"},
		{context.Canceled, statusGone, "client-gone", ""},
		{errClientGone, statusGone, "client-gone", ""},
		{errBodyStalled, 408, "body-stalled", "stopped arriving"},
		{errBodyBroken, 400, "body-broken", "before its end"},
		{errors.New("disk on fire"), 500, "internal", "request id"},
		{&refusedError{&placement.Refusal{Status: 503, Cause: placement.CauseNoneAllowed, Rule: `pin = ["fra"]`, Detail: "Nobody."}}, 503, "none-allowed", `Rule: pin = ["fra"]`},
		{&refusedError{&placement.Refusal{Status: 403, Cause: placement.CauseForceDenied, Detail: "No."}}, 403, "force-denied", "another region"},
		{&refusedError{&placement.Refusal{Status: 503, Cause: placement.CauseAllTried}}, 503, "all-tried", "No node may run"},
	} {
		pr := problemOf(c.err, fn)
		text := string(pr.text("id"))
		if pr.status != c.status || pr.cause != c.cause || !strings.Contains(text, c.says) {
			t.Errorf("%v: got %d %s\n%s", c.err, pr.status, pr.cause, text)
		}
		if (pr.status == 503) != (pr.after > 0) {
			t.Errorf("%v: Retry-After %v with %d", c.err, pr.after, pr.status)
		}
		if strings.Contains(text, "disk on fire") {
			t.Errorf("%v: the client is told the node's own trouble", c.err)
		}
	}
}

func TestPrefersJSON(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "text/html,*/*": false, "application/json": true, "application/json, text/plain, */*": true,
		"text/html, application/json;q=0.9": false, "APPLICATION/JSON": true, "application/problem+json": true,
		"application/json;q=0": false, "application/json;q=x": false, "text/plain;q=0.5, application/json;charset=utf-8;q=0.6": true,
	} {
		equal(t, accept, prefersJSON([]string{accept}), want)
	}
}

func TestCanonicalHost(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "hello.example.com": "hello.example.com", "HELLO.Example.COM": "hello.example.com", "hello.example.com:8443": "hello.example.com",
		"hello.example.com.": "hello.example.com", "hello.example.com.:443": "hello.example.com", "hello.example.com:": "hello.example.com",
		"[::1]:443": "[::1]", "[::1]": "[::1]", "[FE80::1]": "[fe80::1]", "127.0.0.1:80": "127.0.0.1", "a:b": "a:b", "a..": "a.",
		"\u212a.example": "\u212a.example", // the Kelvin sign is no k
	} {
		equal(t, in, canonicalHost(in), want)
	}
	for host, ok := range map[string]bool{
		"hello": true, "127.0.0.1": true, "[::1]": true, "": false, "a_b": false, "a..b": false, "é.example": false, "a b": false, "a.": false,
		strings.Repeat("a.", 130) + "a": false,
	} {
		if err := checkHost(host); (err == nil) != ok {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestTakeWish(t *testing.T) {
	for _, c := range []struct {
		prefer, force string // headers
		query         string
		want          wish
		rest          string
	}{
		{"", "", "", wish{}, ""},
		{"", "", "a=1&b=%20&&c", wish{}, "a=1&b=%20&&c"},
		{"", "", "perigee-prefer=fra", wish{prefer: "fra"}, ""},
		{"", "", "a=1&perigee-prefer=fra&b=2", wish{prefer: "fra"}, "a=1&b=2"},
		{"", "", "a=1&&perigee-force=syd&&b=2", wish{force: "syd"}, "a=1&&&b=2"},
		{"", "", "perigee%2Dforce=f%72a&x=%zz", wish{force: "fra"}, "x=%zz"},
		{"", "", "perigee-prefer=fra&perigee-prefer=syd", wish{prefer: "fra"}, ""},
		{"", "", "xperigee-prefer=fra&perigee-preferx=fra", wish{}, "xperigee-prefer=fra&perigee-preferx=fra"},
		{"ams", "lhr", "perigee-prefer=fra&perigee-force=syd&k=v", wish{"ams", "lhr"}, "k=v"},
		{"", "", "perigee-prefer", wish{}, ""},
	} {
		h := http.Header{}
		if c.prefer != "" {
			h.Set(headerPrefer, c.prefer)
		}
		if c.force != "" {
			h.Set(headerForce, c.force)
		}
		got, rest := takeWish(h, c.query)
		if got != c.want || rest != c.rest {
			t.Errorf("%q: got %+v and %q", c.query, got, rest)
		}
	}
}

func FuzzTakeWish(f *testing.F) {
	f.Add("a=1&perigee%2dforce=x&&b")
	f.Fuzz(func(t *testing.T, query string) {
		_, rest := takeWish(http.Header{}, query)
		again, same := takeWish(http.Header{}, rest)
		if again != (wish{}) || same != rest {
			t.Fatalf("%q: left %q, which is still steering", query, rest)
		}
		before, _ := url.ParseQuery(query)
		after, _ := url.ParseQuery(rest)
		for k := range before {
			if k != queryPrefer && k != queryForce && !slices.Equal(before[k], after[k]) {
				t.Fatalf("%q: parameter %q changed", query, k)
			}
		}
	})
}

func TestSteering(t *testing.T) {
	fn := &perigee.Function{Name: "hello", Live: &perigee.Revision{}}
	for _, c := range []struct {
		allowed string
		w       wish
		want    placement.Steer
		status  int
	}{
		{"", wish{}, placement.Steer{}, 0},
		{"", wish{prefer: "fra"}, placement.Steer{Mode: placement.SteerPrefer, Place: "fra"}, 0},
		{"prefer", wish{prefer: "fra"}, placement.Steer{Mode: placement.SteerPrefer, Place: "fra"}, 0},
		{"off", wish{prefer: "fra"}, placement.Steer{}, 0},
		{"", wish{prefer: "no place"}, placement.Steer{}, 0},
		{"", wish{force: "fra"}, placement.Steer{}, 403},
		{"off", wish{force: "fra"}, placement.Steer{}, 403},
		{"force", wish{force: "fra"}, placement.Steer{Mode: placement.SteerForce, Place: "fra"}, 0},
		{"force", wish{prefer: "syd", force: "fra"}, placement.Steer{Mode: placement.SteerForce, Place: "fra"}, 0},
		{"force", wish{prefer: "syd"}, placement.Steer{Mode: placement.SteerPrefer, Place: "syd"}, 0},
		{"force", wish{force: "NO PLACE"}, placement.Steer{}, 400},
	} {
		fn.Live.Manifest.Steer = c.allowed
		got, pr := steering(c.w, fn, steerForce)
		status := 0
		if pr != nil {
			status = pr.status
		}
		if got != c.want || status != c.status {
			t.Errorf("steer %q, %+v: got %+v, %d", c.allowed, c.w, got, status)
		}
		if status == 403 && !strings.Contains(pr.rule, "steer = ") {
			t.Errorf("steer %q: the refusal names no rule: %+v", c.allowed, pr)
		}
	}
}

// TestSteeringCap checks that the operator's setting bounds what a function allows.
func TestSteeringCap(t *testing.T) {
	fn := &perigee.Function{Name: "f", Live: &perigee.Revision{Manifest: perigee.Manifest{Steer: steerForce}}}
	for most, want := range map[string]placement.SteerMode{steerForce: placement.SteerForce, steerPrefer: "", steerOff: ""} {
		if got, pr := steering(wish{force: "fra"}, fn, most); got.Mode != want || (pr == nil) != (want != "") {
			t.Errorf("function allows force, operator %s: %+v, %+v", most, got, pr)
		}
	}
	fn.Live.Manifest.Steer = ""
	if got, _ := steering(wish{prefer: "fra"}, fn, steerOff); got.Mode != "" {
		t.Errorf("operator allows nothing: %+v", got)
	}
}

func TestFromClient(t *testing.T) {
	in := http.Header{
		"Accept": {"*/*"}, "Cookie": {"a=b"}, "X-Custom": {"1", "2"}, "Authorization": {"secret"}, "Via": {"1.1 x"}, "Traceparent": {"t"},
		"Connection": {"close, X-Listed", "x-listed-too"}, "X-Listed": {"1"}, "X-Listed-Too": {"1"},
	}
	kept := []string{"Accept", "Authorization", "Cookie", "Traceparent", "Via", "X-Custom"}
	for _, name := range []string{
		"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Transfer-Encoding", "Upgrade", "Http2-Settings",
		"Perigee-Hop-Function", "Perigee-Hop-Revision", "Perigee-Hop-Anything", "Perigee-Region", "Perigee-Entry-Region", "Perigee-Client-Ip",
		"Perigee-Request-Id", "Perigee-Prefer-Region", "Perigee-Receipt", "Perigee-", "Proxy", "Expect", "Trailer",
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-Real-Ip", "True-Client-Ip", "X-Client-Ip",
		"X_forwarded_for", "Content_length", "X.y", "Perigee_region",
	} {
		in[name] = []string{"forged"}
	}
	got := fromClient(in)
	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, kept) || !slices.Equal(got["X-Custom"], []string{"1", "2"}) {
		t.Errorf("got %v", got)
	}
}

func TestHopMeta(t *testing.T) {
	m := hopMeta{
		facts: facts{id: "0123456789abcdef", entryRegion: "wdc", client: "192.0.2.1", country: "US", region: "sea", proto: "https"}, function: "hello", revision: testRev,
		entry: "wdc-1", timeout: 1500 * time.Millisecond, path: []perigee.NodeID{"wdc-1"}, cold: true, depth: 8,
	}
	h := http.Header{"Accept": {"*/*"}}
	m.put(h)
	for range 2 {
		got, err := parseHop(h)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(m) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, m)
		}
		m.cold, m.timeout, m.depth, m.country, m.region = false, 0, 0, "", "wdc"
		m.put(h) // replaces all, absent fields too
	}
	h.Add(hopFunction, "other")
	if v := h[hopRevision]; len(v) != 1 || v[0] != string(testRev) {
		t.Errorf("adding to one field changed another: %v", h)
	}
}

func TestParseHopRefuses(t *testing.T) {
	for name, values := range map[string][]string{
		hopFunction: {"", "UPPER", "a/b", "\x00"},
		hopRevision: {"", "xyz", "ABC", strings.Repeat("a", 65)},
		hopEntry:    {"", "a b"},
		hopRegion:   {"", "-"},
		hopClient:   {"", "localhost", "1.2.3.4:5", "x"},
		hopProto:    {"", "ftp", "HTTPS"},
		hopVersion:  {"", "1.1", "HTTP/1", "http/1.1"},
		hopID:       {"", "zz", "00112233445566778"},
		hopTimeout:  {"", "0", "-1", "1e9", "99999999999999999999"},
		hopPath:     {"", ",", "a,", "A", "a,b,c,d,e,f,g,h,i"},
		hopCold:     {"", "0", "true"},
		hopDepth:    {"", "0", "9", "-1", "11", " 1"},
		hopFrom:     {"", "UPPER", "a/b"},
	} {
		good := http.Header{}
		m := hopMeta{facts: facts{id: "00", entryRegion: "wdc", client: "::1", proto: "http", version: "HTTP/1.1"}, function: "f", revision: "0", entry: "a", path: []perigee.NodeID{"a"}, timeout: time.Second, cold: true, depth: 1, caller: "g"}
		m.put(good)
		if _, err := parseHop(good); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			h := good.Clone()
			h[name] = []string{v}
			if _, err := parseHop(h); err == nil {
				t.Errorf("%s: %q is taken", name, v)
			}
		}
		h := good.Clone()
		h.Add(name, h.Get(name))
		if _, err := parseHop(h); err == nil {
			t.Errorf("%s twice is taken", name)
		}
		h = good.Clone()
		h.Del(name)
		optional := name == hopClient || name == hopVersion || name == hopTimeout || name == hopCold || name == hopDepth || name == hopFrom || name == hopCaller
		if _, err := parseHop(h); (err == nil) != optional {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func FuzzParseHop(f *testing.F) {
	f.Add("hello", "a1", "wdc-1", "wdc", "::1", "http", "00", "5", "wdc-1,fra-1", "1")
	names := []string{hopFunction, hopRevision, hopEntry, hopRegion, hopClient, hopProto, hopID, hopTimeout, hopPath, hopCold}
	f.Fuzz(func(t *testing.T, a, b, c, d, e, g, h, i, j, k string) {
		in := http.Header{}
		for n, v := range []string{a, b, c, d, e, g, h, i, j, k} {
			if v != "" {
				in[names[n]] = []string{v}
			}
		}
		m, err := parseHop(in)
		if err != nil {
			return
		}
		out := http.Header{}
		m.put(out)
		again, err := parseHop(out)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(m) {
			t.Fatalf("%+v becomes %+v, %v", m, again, err)
		}
	})
}
