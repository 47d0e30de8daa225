package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// near is the order in which wdc-1 tries its peers: lhr, fra, syd.
func near(how ...string) *world {
	nodes := []string{"wdc-1:absent"}
	for i, id := range []string{"lhr-1", "fra-1", "syd-1"} {
		if i < len(how) {
			id += how[i]
		}
		nodes = append(nodes, id)
	}
	return newWorld(nodes...)
}

func TestForward(t *testing.T) {
	h := newHops().on("lhr-1", answers("from lhr "))
	p := newProxy(t, near(), "wdc-1", failing(errors.New("never here")), h)
	rec, _ := send(p, request("POST", "/x", strings.NewReader("body")))
	equal(t, "answer", fmt.Sprint(rec.Code, rec.Body), "200 from lhr body")
	r := receiptOf(t, rec.Header())
	if r.Hop <= 0 && !strings.Contains(rec.Header().Get(ReceiptHeader), "hop-ms=") {
		t.Error("no hop-ms")
	}
	r.ID, r.Hop = "", 0
	equal(t, "receipt", r, Receipt{Entry: "wdc", Region: "lhr", Node: "lhr-1", Revision: testRev, Start: StartWarm, Reason: "nearest-warm"})
	f := factOf(p.peers, "lhr-1", time.Now())
	equal(t, "load", f.Load, perigee.Load{InFlight: 1, Slots: 4})
	equal(t, "in flight", f.InFlight, 0)
}

// TestNextCandidate has the nearest node fail in each way, for each kind of request.
func TestNextCandidate(t *testing.T) {
	small, large := strings.Repeat("s", 1000), strings.Repeat("l", maxReplay+1000)
	for _, c := range []struct {
		name   string
		fail   func(*http.Request) (*http.Response, perigee.Load, error)
		method string
		key    bool
		body   string
		status int // 200 = the next node answered
	}{
		{"unreachable, GET", nil, "GET", false, "", 200},
		{"silent, POST", refuses("lhr-1", perigee.RefusedSilent), "POST", false, small, 200},
		{"overloaded, POST", refuses("lhr-1", perigee.RefusedOverloaded), "POST", false, large, 200},
		{"draining, POST", refuses("lhr-1", perigee.RefusedDraining), "POST", false, small, 200},
		{"not here, PATCH", refuses("lhr-1", perigee.RefusedNotHere), "PATCH", false, small, 200},
		{"not allowed, POST", refuses("lhr-1", perigee.RefusedNotAllowed), "POST", false, small, 200},
		{"too late", refuses("lhr-1", perigee.RefusedDeadline), "GET", false, "", 504},
		{"lost, GET", fails(0), "GET", false, "", 200},
		{"lost, POST", fails(0), "POST", false, small, 502},
		{"lost, POST with a key", fails(0), "POST", true, small, 200},
		{"lost with part of the body, PUT", fails(500), "PUT", false, small, 200},
		{"lost with all of the body, POST with a key", fails(1 << 30), "POST", true, small, 200},
		{"lost with part of a large body, PUT", fails(500), "PUT", false, large, 200},
		{"lost with all of a large body, PUT", fails(1 << 30), "PUT", false, large, 502},
		{"late refusal, POST", late(perigee.RefusedOverloaded), "POST", false, small, 200},
		{"late refusal of a later release, POST", late("moon-phase"), "POST", false, small, 200},
		{"late refusal, large POST", late(perigee.RefusedOverloaded), "POST", false, large, 503},
		{"node's own failure, GET", failure(faultInternal), "GET", false, "", 200},
		{"node's own failure, POST", failure(faultInternal), "POST", false, small, 502},
		{"crash, GET", failure("trap"), "GET", false, "", 502},
		{"too slow, GET", failure("deadline"), "GET", false, "", 504},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHops().on("fra-1", answers("from fra "))
			if c.fail != nil {
				h.on("lhr-1", c.fail)
			}
			p := newProxy(t, near(), "wdc-1", failing(errors.New("never here")), h)
			r := request(c.method, "/", strings.NewReader(c.body))
			if c.body == "" {
				r = request(c.method, "/", nil)
			}
			if c.key {
				r.Header.Set("Idempotency-Key", "1")
			}
			rec, aborted := send(p, r)
			rc := receiptOf(t, rec.Header())
			if aborted || rec.Code != c.status {
				t.Fatalf("aborted %v, %d\n%.300s", aborted, rec.Code, rec.Body)
			}
			if c.status != 200 {
				equal(t, "tries", len(h.tried()), 1)
				return
			}
			equal(t, "body", rec.Body.String() == "from fra "+c.body, true)
			equal(t, "tried", fmt.Sprint(h.tried()), "[lhr-1 fra-1]")
			equal(t, "reason", rc.Reason, "next-candidate")
			equal(t, "node", string(rc.Node), "fra-1")
			equal(t, "retries", counter(t, p, "perigee_edgeproxy_retries_total", ""), 1)
		})
	}
}

// late is a worker that accepts, reads the body and then does not start the guest.
func late(code perigee.RefuseCode) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(r *http.Request) (*http.Response, perigee.Load, error) {
		_, _ = io.Copy(io.Discard, r.Body)
		resp := response(503, 0, http.NoBody)
		resp.Header.Set(hopRefused, string(code))
		return resp, perigee.Load{}, nil
	}
}

func failure(kind string) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(r *http.Request) (*http.Response, perigee.Load, error) {
		resp := response(502, 0, http.NoBody)
		resp.Header.Set(hopFault, kind)
		resp.Header.Set(hopDetail, "the detail")
		resp.Header.Set(hopStart, StartCold)
		return resp, perigee.Load{}, nil
	}
}

func TestFaultOfAPeer(t *testing.T) {
	h := newHops().on("lhr-1", failure("trap"))
	rec, _ := send(newProxy(t, near(), "wdc-1", failing(nil), h), request("GET", "/", nil))
	r := receiptOf(t, rec.Header())
	if !strings.Contains(rec.Body.String(), "crashed. (the detail)") || r.Node != "lhr-1" || r.Start != StartCold {
		t.Errorf("receipt %+v\n%s", r, rec.Body)
	}
	for name := range rec.Header() {
		if strings.HasPrefix(name, internalPrefix) && name != ReceiptHeader {
			t.Errorf("the client sees %s", name)
		}
	}
}

func TestAllRefuse(t *testing.T) {
	w := newWorld("wdc-1:absent", "a-1", "b-1", "c-1", "d-1", "e-1", "f-1")
	h := newHops()
	p := newProxy(t, w, "wdc-1", failing(nil), h)
	rec, _ := send(p, request("GET", "/", nil))
	r := receiptOf(t, rec.Header())
	if rec.Code != 503 || len(h.tried()) != maxTries || r.Reason != ReasonRefused || r.Node != "" {
		t.Errorf("%d after %v, receipt %+v\n%s", rec.Code, h.tried(), r, rec.Body)
	}
	h = newHops().on("lhr-1", refuses("lhr-1", perigee.RefusedOverloaded)).on("fra-1", refuses("fra-1", perigee.RefusedOverloaded))
	p = newProxy(t, newWorld("wdc-1:absent", "lhr-1", "fra-1"), "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), h)
	rec, _ = send(p, request("GET", "/", nil))
	if rec.Code != 503 || rec.Header().Get("Retry-After") == "" || receiptOf(t, rec.Header()).Reason != ReasonRefused {
		t.Errorf("%d\n%s", rec.Code, rec.Body)
	}
}

// TestRefusalsAreNotBudgeted has every node refuse, more often than retries are saved up for: a request that
// was not started may always be sent to the next.
func TestRefusalsAreNotBudgeted(t *testing.T) {
	h := newHops().on("lhr-1", refuses("lhr-1", perigee.RefusedOverloaded)).on("fra-1", refuses("fra-1", perigee.RefusedOverloaded))
	p := newProxy(t, newWorld("wdc-1", "lhr-1", "fra-1"), "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedOverloaded}), h)
	const n = firstRetries
	for range n {
		rec, _ := send(p, request("POST", "/", nil))
		if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
			t.Fatalf("%d %v\n%s", rec.Code, rec.Header(), rec.Body)
		}
	}
	if tried := len(h.tried()); tried != 2*n {
		t.Errorf("%d requests were sent to %d nodes besides this one, want %d", n, tried, 2*n)
	}
}

// TestRetryBudget loses every request on the node that it is sent to first: when what was saved up is used, one of
// ten goes to the next node, so that a fleet in trouble is not asked twice for everything.
func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, newWorld("wdc-1:absent", "lhr-1", "fra-1"), "wdc-1", failing(nil), newHops().on("lhr-1", fails(0)).on("fra-1", answers("fra")))
		const n = 2 * firstRetries
		for range n {
			time.Sleep(time.Minute) // lhr-1 is not ejected any more
			send(p, request("GET", "/", nil))
		}
		if got := counter(t, p, "perigee_edgeproxy_retries_total", ""); got < firstRetries || got > firstRetries+retryShare*n+1 {
			t.Errorf("%v retries of %d requests, want %d and one of ten more", got, n, firstRetries)
		}
	})
}

// TestLostAndNobodyElse has the only node lost after it took a request: that is no refusal.
func TestLostAndNobodyElse(t *testing.T) {
	notHere := failing(&perigee.HopError{Code: perigee.RefusedNotHere})
	rec, _ := send(newProxy(t, newWorld("wdc-1:absent", "lhr-1"), "wdc-1", notHere, newHops().on("lhr-1", fails(0))), request("GET", "/", nil))
	if rec.Code != 502 || !strings.Contains(rec.Body.String(), "may have run") {
		t.Errorf("%d\n%s", rec.Code, rec.Body)
	}
}

func TestRuleIsNamed(t *testing.T) {
	w := near()
	w.change(func(m *perigee.Manifest) { m.Placement.Pin = []string{"nrt"}; m.Receipt = ReceiptRegion })
	h := newHops()
	rec, _ := send(newProxy(t, w, "wdc-1", failing(nil), h), request("GET", "/", nil))
	if rec.Code != 503 || !strings.Contains(rec.Body.String(), `pin = ["nrt"]`) || len(h.tried()) > 0 {
		t.Errorf("%d, tried %v\n%s", rec.Code, h.tried(), rec.Body)
	}
}

func TestSteeringEndToEnd(t *testing.T) {
	w := near()
	h := newHops()
	for _, id := range []perigee.NodeID{"lhr-1", "fra-1", "syd-1"} {
		h.on(id, answers(string(id)))
	}
	p := newProxy(t, w, "wdc-1", failing(nil), h)
	for _, c := range []struct {
		steer, target, header string
		status                int
		ran, reason           string
	}{
		{"", "/", "", 200, "lhr-1", "nearest-warm"},
		{"", "/?perigee-prefer=syd", "", 200, "syd-1", "client-preferred"},
		{"", "/?perigee-prefer=nrt", "", 200, "lhr-1", "nearest-warm"},
		{"off", "/?perigee-prefer=syd", "", 200, "lhr-1", "nearest-warm"},
		{"force", "/?perigee-force=fra", "", 200, "fra-1", "client-forced"},
		{"force", "/?perigee-force=syd", "fra", 200, "fra-1", "client-forced"},
		{"force", "/?perigee-force=atlantis", "", 403, "", "refused"},
		{"prefer", "/?perigee-force=fra", "", 403, "", "refused"},
		{"force", "/?perigee-force=%20", "", 400, "", "refused"},
	} {
		w.change(func(m *perigee.Manifest) { m.Steer = c.steer })
		r := request("GET", c.target, nil)
		if c.header != "" {
			r.Header.Set(headerForce, c.header)
		}
		rec, _ := send(p, r)
		rc := receiptOf(t, rec.Header())
		if rec.Code != c.status || string(rc.Node) != c.ran || rc.Reason != c.reason {
			t.Errorf("steer %q, %s %q: %d, %+v\n%s", c.steer, c.target, c.header, rec.Code, rc, rec.Body)
		}
	}
}

func TestBusyHereGoesThere(t *testing.T) {
	local := failing(&perigee.HopError{Code: perigee.RefusedOverloaded})
	h := newHops().on("lhr-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
		if r.Header.Get(headerRegion) != "" || r.Header.Get(hopEntry) != "wdc-1" {
			return nil, perigee.Load{}, fmt.Errorf("the hop carries what the try here added: %v", r.Header)
		}
		return answers("from lhr ")(r)
	})
	p := newProxy(t, newWorld("wdc-1", "lhr-1"), "wdc-1", local, h)
	rec, _ := send(p, request("POST", "/", strings.NewReader("body")))
	equal(t, "answer", fmt.Sprint(rec.Code, rec.Body), "200 from lhr body")
	equal(t, "runs here", local.runs.Load(), 1)
}

func TestAwayFailsGoesHere(t *testing.T) {
	var seen http.Header
	local := newLocal(func(w http.ResponseWriter, r *http.Request) { seen = r.Header; _, _ = io.Copy(w, r.Body) })
	w := newWorld("wdc-1:cold", "lhr-1")
	p := newProxy(t, w, "wdc-1", local, newHops())
	rec, _ := send(p, request("POST", "/", strings.NewReader("body")))
	equal(t, "answer", fmt.Sprint(rec.Code, rec.Body), "200 body")
	for name := range seen {
		if strings.HasPrefix(name, "Perigee-Hop-") {
			t.Errorf("the guest sees %s", name)
		}
	}
	r := receiptOf(t, rec.Header())
	equal(t, "region", string(r.Region), "wdc")
	equal(t, "hop-ms", r.Hop, 0)
}

func TestEjection(t *testing.T) {
	h := newHops().on("lhr-1", refuses("lhr-1", perigee.RefusedSilent)).on("fra-1", answers(""))
	p := newProxy(t, near(), "wdc-1", failing(nil), h)
	for range 5 {
		rec, _ := send(p, request("GET", "/", nil))
		equal(t, "status", rec.Code, 200)
	}
	equal(t, "tried", fmt.Sprint(h.tried()), "[lhr-1 fra-1 fra-1 fra-1 fra-1 fra-1]")
	equal(t, "hops", counter(t, p, "perigee_edgeproxy_hops_total", "silent"), 1)
}

// TestHalfOpen has two requests at the end of an ejection: one tries the node, the other goes on.
func TestHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		probing, release := make(chan struct{}), make(chan struct{})
		h := newHops().on("lhr-1", refuses("lhr-1", perigee.RefusedSilent)).on("fra-1", answers("fra"))
		p := newProxy(t, near(), "wdc-1", failing(nil), h)
		send(p, request("GET", "/", nil))
		time.Sleep(time.Second) // as long as the first ejection
		h.on("lhr-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
			close(probing)
			<-release
			return answers("lhr")(r)
		})
		now := time.Now()
		done := make(chan string)
		go func() { rec, _ := send(p, request("GET", "/", nil)); done <- rec.Body.String() }()
		<-probing
		rec, _ := send(p, request("GET", "/", nil))
		equal(t, "while it is tried", rec.Body.String(), "fra")
		if tr, ok := p.peers.begin("lhr-1", testRev, nil, now, false); ok {
			tr.done()
			t.Error("two try it")
		}
		v := &visit{proxy: p, view: p.cfg.View(), fn: p.cfg.View().Desired.Functions["hello"], in: request("GET", "/", nil), route: &route{}}
		v.answer = answer{w: httptest.NewRecorder(), of: v, stall: &v.stall}
		v.out = v.in
		list := []placement.Candidate{{Node: "lhr-1", Reason: "nearest-warm"}, {Node: "fra-1", Warm: true}}
		if node, err := v.tryFirst(t.Context(), list, now); node != "fra-1" || err != nil || v.receipt.Reason != "next-candidate" {
			t.Errorf("routed before it was known that another tries it: %s, %v, %+v", node, err, v.receipt)
		}
		close(release)
		equal(t, "the probe", <-done, "lhr")
		h.on("lhr-1", answers("lhr"))
		rec, _ = send(p, request("GET", "/", nil))
		equal(t, "afterwards", rec.Body.String(), "lhr")
	})
}

// TestBadHeadOfAPeer has a peer answer with what is no HTTP.
func TestBadHeadOfAPeer(t *testing.T) {
	h := newHops().on("lhr-1", func(*http.Request) (*http.Response, perigee.Load, error) {
		return response(700, 2, strings.NewReader("ok")), perigee.Load{}, nil
	})
	rec, _ := send(newProxy(t, near(), "wdc-1", failing(nil), h), request("GET", "/", nil))
	if rec.Code != 502 || receiptOf(t, rec.Header()).Node != "lhr-1" {
		t.Errorf("%d %v", rec.Code, rec.Header())
	}
}

// TestClientsBodyIsNotThePeersFault breaks off a body on its way to a peer.
func TestClientsBodyIsNotThePeersFault(t *testing.T) {
	h := newHops().on("lhr-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
		_, err := io.Copy(io.Discard, r.Body)
		return nil, perigee.Load{}, err
	})
	p := newProxy(t, near(), "wdc-1", failing(nil), h)
	rec, _ := send(p, request("PUT", "/", &brokenReader{"a"}))
	equal(t, "status", rec.Code, 400)
	equal(t, "tries", len(h.tried()), 1)
	equal(t, "penalty", factOf(p.peers, "lhr-1", time.Now()).Penalty, 0)
}

func TestColdIsMarked(t *testing.T) {
	cold := map[string]string{}
	see := func(id perigee.NodeID) func(*http.Request) (*http.Response, perigee.Load, error) {
		return func(r *http.Request) (*http.Response, perigee.Load, error) {
			cold[string(id)] = r.Header.Get(hopCold)
			return nil, perigee.Load{}, &perigee.HopError{Node: id, Code: perigee.RefusedOverloaded}
		}
	}
	h := newHops().on("lhr-1", see("lhr-1")).on("fra-1", see("fra-1")).on("syd-1", see("syd-1"))
	local := failing(&perigee.HopError{Code: perigee.RefusedNotHere})
	first := newWorld("wdc-1:cold", "lhr-1", "fra-1:cold", "syd-1")
	first.change(func(m *perigee.Manifest) { m.Placement.Prefer = []string{"lhr", "syd"} })
	send(newProxy(t, first, "wdc-1", local, h), request("GET", "/", nil))
	equal(t, "marks", fmt.Sprint(cold), "map[fra-1:1 lhr-1: syd-1:]")
	w := newWorld("wdc-1", "lhr-1")
	w.change(func(m *perigee.Manifest) { m.Placement.Pin = []string{"lhr"} })
	send(newProxy(t, w, "wdc-1", local, h), request("GET", "/", nil))
	equal(t, "the only candidate may start cold", cold["lhr-1"], "1")
	w = newWorld("wdc-1:absent", "fra-1:cold", "syd-1:cold")
	send(newProxy(t, w, "wdc-1", local, h), request("GET", "/", nil))
	equal(t, "a cold candidate may start cold", cold["fra-1"], "1")
}

func TestCutOffByAPeer(t *testing.T) {
	for name, resp := range map[string]func() *http.Response{
		"breaks, no length": func() *http.Response { return response(200, -1, &brokenReader{"half"}) },
		"breaks, length":    func() *http.Response { return response(200, 10, &brokenReader{"half"}) },
		"breaks at once":    func() *http.Response { return response(200, -1, &brokenReader{}) },
		"ends too early":    func() *http.Response { return response(200, 10, strings.NewReader("half")) },
		"goes on too long":  func() *http.Response { return response(200, 4, strings.NewReader("halfmore")) },
	} {
		h := newHops().on("lhr-1", func(*http.Request) (*http.Response, perigee.Load, error) { return resp(), perigee.Load{}, nil })
		p := newProxy(t, near(), "wdc-1", failing(nil), h)
		rec, aborted := send(p, request("GET", "/", nil))
		if !aborted || !strings.HasPrefix("half", rec.Body.String()) || len(h.tried()) != 1 {
			t.Errorf("%s: aborted %v, %q, tried %v", name, aborted, rec.Body, h.tried())
		}
		equal(t, name+": in flight", factOf(p.peers, "lhr-1", time.Now()).InFlight, 0)
	}
}

type brokenReader struct{ text string }

func (r *brokenReader) Read(p []byte) (int, error) {
	n := copy(p, r.text)
	r.text = r.text[n:]
	if n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func TestPeersHeaderIsCleaned(t *testing.T) {
	h := newHops().on("lhr-1", func(*http.Request) (*http.Response, perigee.Load, error) {
		resp := response(200, 2, strings.NewReader("ok"))
		for _, name := range []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "Perigee-Receipt", "Perigee-Hop-Start", "Perigee-Other"} {
			resp.Header.Set(name, "x")
		}
		resp.Header["Content-Length"] = []string{"7", "8"}
		resp.Header.Set("X-Mine", "1")
		resp.Trailer = http.Header{"X-Sum": {"1"}, "Perigee-Receipt": {"entry=forged"}, "Set-Cookie": {"a=b"}}
		return resp, perigee.Load{}, nil
	})
	rec, aborted := send(newProxy(t, near(), "wdc-1", failing(nil), h), request("GET", "/", nil))
	res := rec.Result()
	equal(t, "trailer", fmt.Sprint(res.Trailer), "map[X-Sum:[1]]")
	equal(t, "entry", string(receiptOf(t, res.Header).Entry), "wdc")
	equal(t, "start", receiptOf(t, res.Header).Start, StartWarm)
	for _, name := range []string{"Trailer", ReceiptHeader, headerTiming} {
		delete(res.Header, name)
	}
	equal(t, "header", fmt.Sprintf("%v %v", res.Header, aborted), "map[Content-Length:[2] X-Mine:[1]] false")
}

func TestHeadAndEmptyResponses(t *testing.T) {
	for _, c := range []struct {
		method string
		status int
		size   int64
	}{{"HEAD", 200, 1000}, {"GET", 204, 0}, {"GET", 304, 1000}, {"GET", 200, 0}} {
		h := newHops().on("lhr-1", func(*http.Request) (*http.Response, perigee.Load, error) {
			return response(c.status, c.size, http.NoBody), perigee.Load{}, nil
		})
		rec, aborted := send(newProxy(t, near(), "wdc-1", failing(nil), h), request(c.method, "/", nil))
		if aborted || rec.Code != c.status || rec.Body.Len() > 0 {
			t.Errorf("%+v: aborted %v, %d, %q", c, aborted, rec.Code, rec.Body)
		}
		receiptOf(t, rec.Header())
	}
}

func TestDeadlineTravels(t *testing.T) {
	w := near()
	w.change(func(m *perigee.Manifest) { m.Limits.Timeout = perigee.Duration(50 * time.Millisecond) })
	h := newHops()
	for _, id := range []perigee.NodeID{"lhr-1", "fra-1", "syd-1"} {
		h.on(id, func(r *http.Request) (*http.Response, perigee.Load, error) {
			if m, err := parseHop(r.Header); err != nil || m.timeout <= 0 || m.timeout > 50*time.Millisecond {
				t.Errorf("timeout %v, %v", m.timeout, err)
			}
			<-r.Context().Done()
			return nil, perigee.Load{}, r.Context().Err()
		})
	}
	p := newProxy(t, w, "wdc-1", failing(nil), h)
	rec, _ := send(p, request("GET", "/", nil))
	equal(t, "status", rec.Code, 504)
	equal(t, "tries", len(h.tried()), 1)
	if f := factOf(p.peers, "lhr-1", time.Now()); f.Penalty != 0 || f.EjectedUntil.After(time.Now()) {
		t.Errorf("the peer is blamed for a slow guest: %+v", f)
	}
}

func TestClientGoneDuringHop(t *testing.T) {
	ctx, leave := context.WithCancel(context.Background())
	h := newHops().on("lhr-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
		leave()
		<-r.Context().Done()
		return nil, perigee.Load{}, r.Context().Err()
	})
	p := newProxy(t, near(), "wdc-1", failing(nil), h)
	_, aborted := send(p, request("GET", "/", nil).WithContext(ctx))
	equal(t, "aborted", aborted, true)
	equal(t, "tries", len(h.tried()), 1)
	equal(t, "outcome", counter(t, p, "perigee_edgeproxy_hops_total", "given-up"), 1)
}
