package edgeproxy

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestRates counts in made time: a burst, then one for each interval, and all again after a pause.
func TestRates(t *testing.T) {
	r := newRates()
	q := quotaOf(&perigee.RateLimit{Requests: 10, Burst: 3}) // one in 100 ms
	at := r.began
	for i, c := range []struct {
		after       time.Duration
		wait, whole time.Duration
		left        int64
	}{
		{0, 0, 100 * time.Millisecond, 2},
		{0, 0, 200 * time.Millisecond, 1},
		{0, 0, 300 * time.Millisecond, 0},
		{0, 100 * time.Millisecond, 300 * time.Millisecond, 0},
		{99 * time.Millisecond, time.Millisecond, 201 * time.Millisecond, 0},
		{time.Millisecond, 0, 300 * time.Millisecond, 0},
		{time.Millisecond, 99 * time.Millisecond, 299 * time.Millisecond, 0},
		{time.Hour, 0, 100 * time.Millisecond, 2},
	} {
		at = at.Add(c.after)
		wait, left, whole := r.take(7, q, at)
		if wait != c.wait || left != c.left || whole != c.whole {
			t.Errorf("request %d: wait %v, %d left, whole in %v; want %v, %d, %v", i, wait, left, whole, c.wait, c.left, c.whole)
		}
		if i == 3 {
			if wait, _, _ := r.take(8, q, at); wait > 0 {
				t.Error("another key has to wait")
			}
		}
	}
	smaller := quotaOf(&perigee.RateLimit{Requests: 1, Per: perigee.Duration(time.Second), Burst: 1})
	for range 30 {
		r.take(9, quotaOf(&perigee.RateLimit{Requests: 60, Per: perigee.Duration(time.Hour)}), at)
	}
	wait, _, _ := r.take(9, smaller, at)
	equal(t, "after a deploy of a smaller quota", wait, time.Second)
	equal(t, "by default a second, and as many at once", quotaOf(&perigee.RateLimit{Requests: 5}), quota{200 * time.Millisecond, 5})
}

// TestRatesAreBounded floods the table with keys: it does not grow, and who has used up his quota stays known.
func TestRatesAreBounded(t *testing.T) {
	r := newRates()
	q := quotaOf(&perigee.RateLimit{Requests: 10})
	for range 10 {
		r.take(0, q, r.began)
	}
	for key := uint64(rateShards); key < 3*rateShards*rateKeys; key += rateShards { // all of one shard
		r.take(key, q, r.began)
	}
	equal(t, "keys", len(r.shards[0].due), rateKeys)
	if wait, _, _ := r.take(0, q, r.began); wait == 0 {
		t.Error("a flood of keys has cleared the one that was used up")
	}
}

func TestRatesAtOnce(t *testing.T) {
	r := newRates()
	q := quotaOf(&perigee.RateLimit{Requests: 1, Per: perigee.Duration(time.Hour), Burst: 50})
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if wait, _, _ := r.take(1, q, r.began); wait == 0 {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "requests of 800", passed.Load(), 50)
}

// TestRateLimit limits by address and by field, and says so.
func TestRateLimit(t *testing.T) {
	w := newWorld("fra-1")
	local := newLocal(greet)
	p := newProxy(t, w, "fra-1", local, newHops(), quiet)
	ask := func(client, key string) (int, http.Header) {
		r := request("GET", "/", nil)
		r.RemoteAddr = client
		if key != "" {
			r.Header.Set("X-Api-Key", key)
		}
		rec, _ := send(p, r)
		return rec.Code, rec.Header()
	}
	limit := func(key string) {
		w.change(func(m *perigee.Manifest) {
			m.Limits.Rate = perigee.RateLimit{Key: key, Requests: 2, Per: perigee.Duration(time.Hour)}
		})
	}
	const a, b = "192.0.2.1:1000", "192.0.2.2:1000"
	if code, h := ask(a, ""); code != 200 || h.Get("RateLimit") != "" {
		t.Errorf("without a limit: %d %v", code, h)
	}
	limit("ip")
	code, h := ask(a, "k")
	if code != 200 || h.Get("RateLimit") != `"perigee";r=1;t=1800` || h.Get("RateLimit-Policy") != `"perigee";q=2;w=3600` {
		t.Errorf("the first: %d %v", code, h)
	}
	ask("192.0.2.1:2000", "l")
	ran := local.runs.Load()
	code, h = ask(a, "m")
	if code != 429 || h.Get("Retry-After") != "1800" || h.Get("RateLimit") != `"perigee";r=0;t=3600` || receiptOf(t, h).Limit != LimitRate || local.runs.Load() != ran {
		t.Errorf("the third: %d %v", code, h)
	}
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_refusals_total", "rate"), 1)
	code, _ = ask(b, "")
	equal(t, "another client", code, 200)
	for i := range 3 {
		code, _ = ask(fmt.Sprintf("[2001:db8:1:2::%d]:1", i+1), "")
	}
	equal(t, "a third address of the same IPv6 network", code, 429)
	code, _ = ask("[2001:db8:1:3::1]:1", "")
	equal(t, "another network", code, 200)

	limit("header:x-api-key")
	for i := range 3 {
		code, _ = ask(fmt.Sprintf("198.51.100.%d:1", i+1), "one")
	}
	equal(t, "the third of one key from anywhere", code, 429)
	code, _ = ask(a, "two")
	equal(t, "another key", code, 200)
	code, _ = ask(a, "")
	equal(t, "no key, from an address that has used up its quota", code, 429)
}

// TestRateLimitOfTheFunction adds to what a function says of limits of its own.
func TestRateLimitOfTheFunction(t *testing.T) {
	w := newWorld("fra-1")
	w.change(func(m *perigee.Manifest) { m.Limits.Rate = perigee.RateLimit{Requests: 2} })
	p := newProxy(t, w, "fra-1", newLocal(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("RateLimit", `"own";r=9;t=1`)
	}), newHops(), quiet)
	rec, _ := send(p, request("GET", "/", nil))
	equal(t, "values", len(rec.Header().Values("RateLimit")), 2)
}
