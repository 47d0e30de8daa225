package edgeproxy

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// after is a node that answers so much later, unless the request is given up before.
func after(d time.Duration, gaveUp *int, text string) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(r *http.Request) (*http.Response, perigee.Load, error) {
		select {
		case <-time.After(d):
			return answers(text)(r)
		case <-r.Context().Done():
			*gaveUp++
			return nil, perigee.Load{}, context.Cause(r.Context())
		}
	}
}

// hedged returns a proxy that has learned that requests take 200 ms on lhr-1, and may hedge three.
func hedged(t *testing.T, w *world) (p *Proxy, h *fakeHops, gaveUp *int) {
	t.Helper()
	gaveUp = new(int)
	h = newHops().on("lhr-1", after(200*time.Millisecond, gaveUp, "lhr")).on("fra-1", answers("fra"))
	p = newProxy(t, w, "wdc-1", failing(nil), h)
	for range hedgeLearned {
		if rec, _ := send(p, request("GET", "/", nil)); rec.Body.String() != "lhr" {
			t.Fatalf("answered by %q while nothing is unusual", rec.Body)
		}
	}
	equal(t, "hedges while nothing is unusual", counter(t, p, "perigee_edgeproxy_hedges_total", ""), 0)
	h.on("lhr-1", after(5*time.Second, gaveUp, "lhr"))
	return p, h, gaveUp
}

func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, gaveUp := hedged(t, near())
		began := time.Now()
		rec, _ := send(p, request("GET", "/", nil))
		took := time.Since(began)
		if rec.Body.String() != "fra" || took > 300*time.Millisecond || took < 200*time.Millisecond {
			t.Errorf("answered by %q after %v; want fra, soon after the usual 200 ms", rec.Body, took)
		}
		if got := rec.Header().Get("Perigee-Receipt"); !strings.Contains(got, "node=fra-1") || !strings.Contains(got, "reason=hedge") {
			t.Errorf("receipt %s", got)
		}
		equal(t, "requests given up", *gaveUp, 1)
		for id, peer := range *p.peers.table.Load() {
			for _, r := range peer.revisions {
				if !r.ledger.Idle() {
					t.Errorf("%s: a request is still counted as in flight", id)
				}
			}
		}
	})
}

// Only what may run twice at once is sent twice.
func TestHedgeIdempotentOnly(t *testing.T) {
	for _, tt := range []struct {
		method, key, body string
		hedged            bool
	}{
		{method: "GET", hedged: true},
		{method: "HEAD", hedged: true},
		{method: "OPTIONS", hedged: true},
		{method: "POST"},
		{method: "PUT"},
		{method: "DELETE"},
		{method: "POST", key: "once", hedged: true},
		{method: "POST", key: "once", body: "some"},
		{method: "GET", body: "some"},
	} {
		t.Run(strings.Join([]string{tt.method, tt.key, tt.body}, " "), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, h, _ := hedged(t, near())
				before := len(h.tried())
				r := request(tt.method, "/", strings.NewReader(tt.body))
				if tt.body == "" {
					r = request(tt.method, "/", nil)
				}
				if tt.key != "" {
					r.Header.Set("Idempotency-Key", tt.key)
				}
				send(p, r)
				if got := len(h.tried()) - before; got != map[bool]int{false: 1, true: 2}[tt.hedged] {
					t.Errorf("sent %d times", got)
				}
			})
		})
	}
}

// When all requests take unusually long, hedges stay few.
func TestHedgeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h, gaveUp := hedged(t, near())
		const n = 200
		for i := range n {
			h.on("lhr-1", after(time.Duration(1+i)*time.Second, gaveUp, "lhr")) // each longer than those before
			send(p, request("GET", "/", nil))
		}
		if got := counter(t, p, "perigee_edgeproxy_hedges_total", ""); got < 3 || got > hedgeShare*(hedgeLearned+n)+1 {
			t.Errorf("%v hedges of %d requests", got, hedgeLearned+n)
		}
	})
}

// A node that failed lately is not hedged with.
func TestHedgeWithNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h, gaveUp := hedged(t, newWorld("wdc-1:absent", "lhr-1", "fra-1"))
		h.on("lhr-1", after(500*time.Millisecond, gaveUp, "lhr")).on("fra-1", refuses("fra-1", perigee.RefusedSilent))
		rec, _ := send(p, request("GET", "/", nil)) // the hedge fails, and fra-1 is ejected
		equal(t, "answered by", rec.Body.String(), "lhr")
		before := len(h.tried())
		send(p, request("GET", "/", nil))
		if sent := h.tried()[before:]; slices.Contains(sent, "fra-1") {
			t.Errorf("sent to %s", sent)
		}
	})
}

// When the first fails, who was asked next may still answer; and when both do, the request goes on.
func TestHedgeAndFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h, gaveUp := hedged(t, near())
		h.on("lhr-1", func(*http.Request) (*http.Response, perigee.Load, error) {
			time.Sleep(time.Second)
			return nil, perigee.Load{}, errors.New("lost")
		})
		h.on("fra-1", after(2*time.Second, gaveUp, "fra"))
		rec, _ := send(p, request("GET", "/", nil))
		equal(t, "answered by", rec.Body.String(), "fra")
	})
}
