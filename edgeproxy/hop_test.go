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
	"time"

	"github.com/perigee-edge/perigee"
)

// hopRecorder is the response writer of a hop that records.
type hopRecorder struct {
	*httptest.ResponseRecorder
	accepted *perigee.Load
	refused  perigee.RefuseCode
	limit    string
	load     perigee.Load // with the refusal, or the last
}

func (r *hopRecorder) Accept(l perigee.Load) { r.accepted = &l }
func (r *hopRecorder) Refuse(c perigee.RefuseCode, l perigee.Load, limit string) {
	r.refused, r.load, r.limit = c, l, limit
}
func (r *hopRecorder) SetLoad(l perigee.Load) { r.load = l }

// hopRequest is a hop from wdc-1 to fra-1.
func hopRequest() *http.Request {
	m := hopMeta{
		facts: facts{id: "0123456789abcdef", entryRegion: "wdc", client: "2001:db8::1", proto: "https", version: "HTTP/3.0"}, function: "hello", revision: testRev,
		entry: "wdc-1", path: []perigee.NodeID{"wdc-1"}, timeout: time.Minute,
	}
	r := request("GET", "/", nil)
	m.put(r.Header)
	return r
}

// sendHop runs a hop and returns what the worker did.
func sendHop(p *Proxy, r *http.Request) (rec *hopRecorder, aborted bool) {
	rec = &hopRecorder{ResponseRecorder: httptest.NewRecorder()}
	defer func() {
		if e := recover(); e != nil {
			if e != http.ErrAbortHandler {
				panic(e)
			}
			aborted = true
		}
	}()
	p.HopHandler().ServeHTTP(rec, r)
	return rec, false
}

func TestHopIsServed(t *testing.T) {
	var seen *http.Request
	local := newLocal(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.(Reporter).Report(Result{Start: StartCold, Fuel: 7})
		w.Header().Set("Perigee-Hop-Fault", "forged")
		w.Header().Set("Perigee-Receipt", "forged")
		w.Header().Set(http.TrailerPrefix+"Perigee-Hop-Fault", "forged")
		w.WriteHeader(103)
		_, _ = io.WriteString(w, "hi")
	})
	p := newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", local, newHops())
	rec, aborted := sendHop(p, hopRequest())
	if aborted || rec.refused != "" || rec.accepted == nil || *rec.accepted != (perigee.Load{Slots: 8}) || rec.load != (perigee.Load{Slots: 8}) || rec.Body.String() != "hi" {
		t.Fatalf("aborted %v, %+v, %q", aborted, rec, rec.Body)
	}
	equal(t, "times", len(rec.Header()[hopRun]), 1)
	rec.Header().Del(hopRun)
	equal(t, "header", fmt.Sprint(rec.Header()), "map[Perigee-Hop-Fuel:[7] Perigee-Hop-Start:[cold]]")
	want := map[string]string{
		"Perigee-Region": "fra", "Perigee-Entry-Region": "wdc", "Perigee-Client-Region": "wdc", "Perigee-Request-Id": "0123456789abcdef",
		"X-Forwarded-For": "2001:db8::1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": testHost,
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
	equal(t, "remote address", seen.RemoteAddr, "[2001:db8::1]:0")
	equal(t, "protocol", fmt.Sprint(seen.Proto, seen.ProtoMajor, seen.ProtoMinor), "HTTP/3.03 0")
	if d, ok := seen.Context().Deadline(); !ok || time.Until(d) > time.Minute {
		t.Error("the deadline did not travel")
	}
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_served_hops_total", "ok"), 1)
}

func TestHopIsRefused(t *testing.T) {
	full := perigee.Load{InFlight: 160, Slots: 8}
	old := perigee.RevisionID("0dd")
	for _, c := range []struct {
		name string
		edit func(w *world, l *fakeLocal, r *http.Request, p *Proxy)
		want perigee.RefuseCode // "" = runs
	}{
		{"as it should be", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {}, ""},
		{"no metadata", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { clear(r.Header) }, perigee.RefusedNotAllowed},
		{"malformed", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopTimeout, "soon") }, perigee.RefusedNotAllowed},
		{"from itself", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopEntry, "fra-1") }, perigee.RefusedNotAllowed},
		{"second hop", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopPath, "syd-1,wdc-1") }, perigee.RefusedNotAllowed},
		{"circle", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopPath, "fra-1") }, perigee.RefusedNotAllowed},
		{"pinned elsewhere", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.change(func(m *perigee.Manifest) { m.Placement.Pin = []string{"syd"} })
		}, perigee.RefusedNotAllowed},
		{"forbidden", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.change(func(m *perigee.Manifest) { m.Placement.Forbid = []string{"node:fra-1"} })
		}, perigee.RefusedNotAllowed},
		{"pinned here", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.change(func(m *perigee.Manifest) { m.Placement.Pin = []string{"fra"} })
		}, ""},
		{"unknown function", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopFunction, "other") }, perigee.RefusedNotHere},
		{"this node is not in its View", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { w.changeNode("fra-1", nil) }, perigee.RefusedNotHere},
		{"unknown revision", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopRevision, "f00") }, perigee.RefusedNotHere},
		{"earlier revision, loaded", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.view.Load().Desired.Functions["hello"].History = []perigee.RevisionID{testRev, old}
			r.Header.Set(hopRevision, string(old))
		}, ""},
		{"earlier revision, not loaded, cold", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.view.Load().Desired.Functions["hello"].History = []perigee.RevisionID{testRev, old}
			r.Header.Set(hopRevision, string(old))
			r.Header.Set(hopCold, "1")
			l.load.Store(&perigee.Load{})
		}, perigee.RefusedNotHere},
		{"not loaded", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			l.load.Store(&perigee.Load{})
			w.changeNode("fra-1", func(p *perigee.Peer) { p.Revisions = nil })
		}, perigee.RefusedNotHere},
		{"not loaded, may start cold", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			l.load.Store(&perigee.Load{})
			w.changeNode("fra-1", func(p *perigee.Peer) { p.Revisions = nil })
			r.Header.Set(hopCold, "1")
		}, ""},
		{"more than slots", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { l.load.Store(&full) }, ""},
		{"draining by its row", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			w.changeNode("fra-1", func(p *perigee.Peer) { p.Draining = true })
		}, perigee.RefusedDraining},
		{"draining", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { p.draining.Store(true) }, perigee.RefusedDraining},
		{"stopped", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { p.hops.close() }, perigee.RefusedDraining},
		{"no time left", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Set(hopTimeout, "1") }, perigee.RefusedDeadline},
		{"no timeout", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) { r.Header.Del(hopTimeout) }, ""},
		{"another sender", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			p.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{ID: "syd-1"}, true }
		}, perigee.RefusedNotAllowed},
		{"no sender", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			p.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{}, false }
		}, perigee.RefusedNotAllowed},
		{"the sender it names", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			p.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) {
				return perigee.NodeClaims{ID: "wdc-1", Region: "wdc"}, true
			}
		}, ""},
		{"a sender that is elsewhere than it says", func(w *world, l *fakeLocal, r *http.Request, p *Proxy) {
			p.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) {
				return perigee.NodeClaims{ID: "wdc-1", Region: "syd"}, true
			}
		}, perigee.RefusedNotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, local := newWorld("fra-1", "wdc-1", "syd-1"), newLocal(greet)
			p := newProxy(t, w, "fra-1", local, newHops())
			r := hopRequest()
			c.edit(w, local, r, p)
			rec, _ := sendHop(p, r)
			if rec.refused != c.want || (local.runs.Load() == 1) != (c.want == "") || (rec.accepted != nil) != (c.want == "") {
				t.Errorf("refused %q, want %q; ran %d times", rec.refused, c.want, local.runs.Load())
			}
			label := string(c.want)
			if label == "" {
				label = "ok"
			}
			equal(t, "counted", counter(t, p, "perigee_edgeproxy_served_hops_total", label), 1)
		})
	}
}

func TestHopFails(t *testing.T) {
	for _, c := range []struct {
		err     error
		header  string
		want    string
		aborted bool
	}{
		{&GuestError{Kind: FaultTrap, Detail: "at\n0x1 \u00e9"}, hopFault, "trap", false},
		{context.DeadlineExceeded, hopFault, "deadline", false},
		{errors.New("disk"), hopFault, faultInternal, false},
		{context.Canceled, "", "", true},
	} {
		p := newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", failing(c.err), newHops())
		rec, aborted := sendHop(p, hopRequest())
		if aborted != c.aborted || rec.Header().Get(c.header) != c.want {
			t.Errorf("%v: aborted %v, %v", c.err, aborted, rec.Header())
		}
		if c.want == "trap" {
			equal(t, "detail", rec.Header().Get(hopDetail), "at 0x1  ")
		}
	}
	full := &perigee.HopError{Code: perigee.RefusedOverloaded, Limit: LimitNodeProcessor}
	p := newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", failing(full), newHops())
	if rec, _ := sendHop(p, hopRequest()); rec.accepted != nil || rec.refused != full.Code || rec.limit != full.Limit {
		t.Errorf("overloaded before it began: %+v", rec)
	}
	begun := newLocal(greet)
	begun.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		w.(Accepter).Accept()
		return Result{}, full
	}
	p = newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", begun, newHops())
	if rec, _ := sendHop(p, hopRequest()); rec.accepted == nil || rec.refused != "" || rec.Header().Get(hopRefused) != "overloaded" || rec.Header().Get(hopLimit) != full.Limit {
		t.Errorf("overloaded after a cold start: %+v", rec)
	}
	for name, handler := range map[string]func(http.ResponseWriter) error{
		"crash in the middle": func(w http.ResponseWriter) error {
			_, _ = io.WriteString(w, "half")
			return &GuestError{Kind: FaultTrap}
		},
	} {
		local := newLocal(nil)
		local.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
			return Result{}, handler(w)
		}
		p := newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", local, newHops())
		if _, aborted := sendHop(p, hopRequest()); !aborted {
			t.Errorf("%s: not cut off", name)
		}
		equal(t, name+": counted", counter(t, p, "perigee_edgeproxy_served_hops_total", "cut-off"), 1)
	}
	bad := newLocal(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(1000); _, _ = io.WriteString(w, "x") })
	rec, _ := sendHop(newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", bad, newHops()), hopRequest())
	equal(t, "bad status", rec.Header().Get(hopFault), "bad-response")
	long := failing(&GuestError{Kind: FaultTrap, Detail: strings.Repeat("x", 10_000)})
	rec, _ = sendHop(newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", long, newHops()), hopRequest())
	equal(t, "long detail", len(rec.Header().Get(hopDetail)), maxHopDetail)
}

func TestHopNeedsTheMesh(t *testing.T) {
	rec := httptest.NewRecorder()
	local := newLocal(greet)
	newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", local, newHops()).HopHandler().ServeHTTP(rec, hopRequest())
	if rec.Code != 500 || local.runs.Load() != 0 {
		t.Errorf("%d, ran %d times", rec.Code, local.runs.Load())
	}
}

// TestTwoNodes sends requests through two proxies.
func TestTwoNodes(t *testing.T) {
	w, mesh := newWorld("wdc-1:absent", "fra-1"), newMesh()
	defer mesh.wg.Wait()
	local := newLocal(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-In")+"!")
	})
	local.load.Store(&perigee.Load{InFlight: 1, Slots: 8})
	mesh.add("fra-1", newProxy(t, w, "fra-1", local, mesh))
	p := newProxy(t, w, "wdc-1", failing(&perigee.HopError{Code: perigee.RefusedNotHere}), mesh, func(c *Config) { c.LoadOf = lastLoad })
	r := request("POST", "/", strings.NewReader("over and back"))
	r.Trailer = http.Header{"X-In": {"7"}}
	rec, aborted := send(p, r)
	equal(t, "answer", fmt.Sprint(aborted, rec.Code, rec.Body), "false 201 over and back")
	equal(t, "trailer", rec.Result().Trailer.Get("X-Sum"), "7!")
	rc := receiptOf(t, rec.Header())
	equal(t, "receipt", fmt.Sprint(rc.Entry, rc.Region, rc.Node, rc.Start), "wdcfrafra-1warm")
	equal(t, "load after the end", factOf(p.peers, "fra-1", time.Now()).Load, perigee.Load{InFlight: 1, Slots: 8})

	local.handler = func(_ context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		_, _ = io.WriteString(w, "half")
		return Result{}, &GuestError{Kind: FaultTrap}
	}
	rec, aborted = send(p, request("GET", "/", nil))
	equal(t, "crash in the middle", fmt.Sprint(aborted, rec.Body), "true half")
	local.handler = failing(&GuestError{Kind: FaultNoResponse}).handler
	rec, _ = send(p, request("GET", "/", nil))
	equal(t, "fault", rec.Code, 502)
	mesh.kill("fra-1")
	rec, _ = send(p, request("GET", "/", nil))
	equal(t, "dead", rec.Code, 503)
	equal(t, "reason", receiptOf(t, rec.Header()).Reason, ReasonRefused)
}
