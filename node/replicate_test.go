package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
)

// step runs one thorough round at a time and waits for the work it starts.
func (s *single) step(at time.Time) {
	s.rep.step(at, true)
	s.rep.work.Wait()
}

// TestRelease follows a function from its first revision to its removal.
func TestRelease(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	s.rep.began = now.Add(-sweepSettle)
	one, two := s.pack("a", guest("1"), perigee.Policy{}), s.pack("a", guest("2"), perigee.Policy{})
	other := s.pack("b", guest("1"), perigee.Policy{})
	first := s.deploy(one)
	otherRev := s.deploy(other)
	s.step(now)
	s.want("deployed", first.ID, perigee.Warm)
	s.wantStored("deployed", one, other)

	second := s.deploy(two)
	s.step(now)
	s.step(now.Add(unloadGrace - time.Second))
	s.want("replaced a moment ago", first.ID, perigee.Warm)
	s.want("live", second.ID, perigee.Warm)
	s.step(now.Add(unloadGrace + time.Second))
	s.want("replaced", first.ID, perigee.Held)
	s.wantStored("replaced, and kept for a rollback", one, two, other)

	// Two that served before are kept. With the third goes its bundle, which the live one of b has, too.
	two.m.Env = map[string]string{"A": "b"}
	third := s.deploy(two)
	now = now.Add(time.Minute)
	s.step(now)
	two.m.Env = map[string]string{"A": "c"}
	fourth := s.deploy(two)
	s.step(now)
	s.step(now.Add(unloadGrace + time.Second))
	s.want("replaced long ago", first.ID, perigee.Absent)
	s.want("replaced", second.ID, perigee.Held)
	s.want("replaced", third.ID, perigee.Held)
	s.want("live", fourth.ID, perigee.Warm)
	s.wantStored("same bundle", two, other)

	now = now.Add(time.Minute)
	s.remove("a")
	s.step(now)
	s.want("removed a moment ago", fourth.ID, perigee.Warm)
	s.step(now.Add(unloadGrace + time.Second))
	s.want("removed", third.ID, perigee.Absent)
	s.want("removed", fourth.ID, perigee.Absent)
	s.want("not concerned", otherRev.ID, perigee.Warm)
	s.wantStored("removed", other)
}

// TestRuleForbidsAtOnce: a revision that a hard rule forbids here goes without a grace.
func TestRuleForbidsAtOnce(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	p := s.pack("a", guest("1"), perigee.Policy{})
	rev := s.deploy(p)
	s.step(now)
	p.m.Placement.Forbid = []string{"node:fra-1"}
	next := s.declare(p)
	s.step(now.Add(sweepEvery))
	s.want("forbidden", rev.ID, perigee.Absent)
	s.want("forbidden", next.ID, perigee.Absent)
	s.wantStored("forbidden, also right after a start")
}

// TestPreviousStays: while the live revision can't be had here, the one before keeps running.
func TestPreviousStays(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	one, two := s.pack("a", guest("1"), perigee.Policy{}), s.pack("a", guest("2"), perigee.Policy{})
	first := s.deploy(one)
	s.step(now)
	second := s.declare(two) // nobody has its bundle
	for range 3 {
		now = now.Add(time.Hour)
		s.step(now)
	}
	s.want("the one before", first.ID, perigee.Warm)
	s.want("live", second.ID, perigee.Absent)
	s.wantStored("the one before", one)
	if err := s.deployer.store.Put(t.Context(), two.archive.Digest, two.archive.Size, two.archive.Open()); err != nil {
		t.Fatal(err)
	}
	s.step(now)
	s.want("live, since its bundle is here", second.ID, perigee.Warm)
	s.step(now)
	s.step(now.Add(unloadGrace + time.Second))
	s.want("the one before", first.ID, perigee.Held)
	s.wantStored("live, and the one before", one, two)
}

// TestArrivals: what came for a deploy that never happened is let go of.
func TestArrivals(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	s.rep.began = now.Add(-sweepSettle)
	p := s.pack("a", guest("1"), perigee.Policy{})
	rev, revision, pointer := s.sign(p)
	fn, err := s.deployer.eligible(t.Context(), revision, pointer)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.deployer.take(t.Context(), fn, p.archive.Open()); err != nil {
		t.Fatal(err)
	}
	s.step(now.Add(arrivalGrace - time.Second))
	s.want("under way", rev.ID, perigee.Warm)
	s.wantStored("under way", p)
	late := now.Add(arrivalGrace + time.Minute)
	s.step(late)
	s.step(late.Add(unloadGrace + time.Second))
	s.want("never recorded", rev.ID, perigee.Absent)
	s.step(late.Add(time.Minute))
	s.wantStored("never recorded")

	// A holder bounds what it takes on trust.
	for i := range maxComing {
		if err := s.rep.expect(&perigee.Function{Live: &perigee.Revision{ID: perigee.RevisionID(fmt.Sprint(i))}}); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if err := s.rep.expect(&perigee.Function{Live: &perigee.Revision{ID: "0"}}); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	if err := s.rep.expect(fn); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("one too many: %v", err)
	}
}

// TestHeld: a holder that need not keep a function warm has it on disk, loads it for a request, and
// unloads it when none comes any more.
func TestHeld(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	p := s.pack("a", guest("1"), perigee.Policy{Warm: map[string]int{"fra": 0}})
	rev := s.deploy(p)
	s.step(now)
	s.want("deployed a moment ago", rev.ID, perigee.Warm)
	s.step(now.Add(placement.KeepIdle + time.Second))
	s.want("without requests", rev.ID, perigee.Held)
	s.wantStored("held", p)
	fn := s.View().Desired.Functions["a"]
	if st := s.functionStatus(s.View(), fn, s.plans.at(s.View()).Explain(fn)); !st.Ready() || st.Holders[0].Wanted != perigee.Held {
		t.Errorf("held as planned: %+v", st.Holders)
	}

	w := httptest.NewRecorder()
	res, err := local{s.Node}.Invoke(t.Context(), fn, rev.ID, w, httptest.NewRequest("GET", "/", nil))
	if err != nil || w.Body.String() != "1" || res.Start != "cold" {
		t.Errorf("%q, %+v, %v", w.Body, res, err)
	}
	s.want("used", rev.ID, perigee.Warm)
	w = httptest.NewRecorder()
	if res, err = (local{s.Node}).Invoke(t.Context(), fn, rev.ID, w, httptest.NewRequest("GET", "/", nil)); err != nil || res.Start != "warm" {
		t.Errorf("%+v, %v", res, err)
	}
	s.step(time.Now().Add(placement.KeepIdle - time.Second))
	s.want("used lately", rev.ID, perigee.Warm)
	s.step(time.Now().Add(placement.KeepIdle + time.Second))
	s.want("not used any more", rev.ID, perigee.Held)
	if _, err := (local{s.Node}).Invoke(t.Context(), fn, "other", w, httptest.NewRequest("GET", "/", nil)); !isNotHere(err) {
		t.Errorf("another revision: %v", err)
	}
}

// TestAwaited: a function that is asked for once an hour is unloaded after each request and loaded again before
// the next is due; if that does not come, it is unloaded again.
func TestAwaited(t *testing.T) {
	s := newSingle(t)
	rev := s.deploy(s.pack("a", guest("1"), perigee.Policy{Warm: map[string]int{"fra": 0}}))
	now := time.Now()
	s.step(now)
	for range 20 {
		now = now.Add(time.Hour + 10*time.Second)
		s.rep.rests.asked(s.rep.have(rev.ID), now)
	}
	s.step(now.Add(time.Second))
	s.want("asked a moment ago", rev.ID, perigee.Warm)
	s.step(now.Add(time.Minute))
	s.want("asked a minute ago", rev.ID, perigee.Held)
	s.step(now.Add(30 * time.Minute))
	s.want("not due yet", rev.ID, perigee.Held)
	s.step(now.Add(56 * time.Minute))
	s.want("due soon", rev.ID, perigee.Warm)
	s.step(now.Add(62 * time.Minute))
	s.want("late", rev.ID, perigee.Warm)
	s.step(now.Add(70 * time.Minute))
	s.want("it did not come", rev.ID, perigee.Held)
	s.step(now.Add(71 * time.Minute))
	s.want("it did not come", rev.ID, perigee.Held)
}

func isNotHere(err error) bool {
	var hop *perigee.HopError
	return errors.As(err, &hop) && hop.Code == perigee.RefusedNotHere
}

// TestRestart: what was here is here again, from the disk, and a bundle that rotted is fetched again.
func TestRestart(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", guest("1"), perigee.Policy{})
	rev := s.deploy(p)
	s.Close()
	s.Close()
	s.open()
	s.step(time.Now())
	s.want("after a restart", rev.ID, perigee.Warm)
	s.Close()

	path := filepath.Join(string(s.dir), "bundles", strings.TrimPrefix(p.archive.Digest.String(), "b3:"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[700] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.open()
	s.step(time.Now())
	s.want("rotted", rev.ID, perigee.Absent)
	if err := s.rep.lastError(rev.ID); err == nil || !strings.Contains(err.Error(), "no node that is up") {
		t.Errorf("rotted, and nobody else has it: %v", err)
	}
	if err := s.ready(); err == nil {
		t.Error("a node that does not run is ready")
	}
	s.serveFrom(map[perigee.NodeID]peer{"x": honest(t, p)})
	if err := s.rep.ensure(t.Context(), rev, perigee.Warm, "x"); err != nil {
		t.Fatal(err)
	}
	s.want("fetched again", rev.ID, perigee.Warm)
	// And if only the file goes, while the code is loaded.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.rep.bring(rev, perigee.Warm, "x", s.rep.quiet); err != nil || !s.deployer.store.Has(rev.Bundle) {
		t.Errorf("lost file: %v", err)
	}
}

func whole(t *testing.T, p packed) []byte {
	t.Helper()
	b, err := io.ReadAll(p.archive.Open())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serveFrom replaces the other nodes.
func (s *single) serveFrom(peers map[perigee.NodeID]peer) {
	s.rep.control = func(id perigee.NodeID) http.RoundTripper {
		if p := peers[id]; p != nil {
			return p
		}
		return peer(func(*http.Request) (*http.Response, error) { return nil, errors.New("unreachable") })
	}
	s.deployer.control = s.rep.control
}

// TestFetchLies: what a holder sends is used only if it is what the signed revision names.
func TestFetchLies(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", guest("1"), perigee.Policy{})
	other := s.pack("a", guest("2"), perigee.Policy{})
	rev, _, _ := s.sign(p)
	right := sender(t, whole(t, p), func(b []byte) []byte { return b })
	for name, lie := range map[string]struct {
		peer    peer
		words   string
		outcome string
	}{
		"another bundle": {sender(t, whole(t, other), func(b []byte) []byte { return b }), "not a slice", sliceWrong},
		"a bit flipped":  {sender(t, whole(t, p), func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "not a slice", sliceWrong},
		"cut":            {sender(t, whole(t, p), func(b []byte) []byte { return b[:len(b)-100] }), "not a slice", sliceWrong},
		"longer":         {sender(t, whole(t, p), func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }), "not a slice", sliceWrong},
		"nothing":        {says(http.StatusOK, nil), "not a slice", sliceWrong},
		"absent":         {says(http.StatusNotFound, []byte("none")), "none", sliceAbsent},
		"refused":        {says(http.StatusForbidden, []byte("fra-1 may not hold it\n")), "fra-1 may not hold it", sliceRefused},
		"a long refusal": {says(http.StatusForbidden, bytes.Repeat([]byte("no"), 1<<20)), "nono", sliceRefused},
	} {
		t.Run(name, func(t *testing.T) {
			clear(s.rep.liars)
			s.serveFrom(map[perigee.NodeID]peer{"liar": lie.peer})
			before := slicesThat(t, s, lie.outcome)
			err := s.rep.ensure(t.Context(), rev, perigee.Warm, "liar")
			if err == nil || !strings.Contains(err.Error(), "liar") || !strings.Contains(err.Error(), lie.words) || len(err.Error()) > 6<<10 {
				t.Errorf("%.300v", err)
			}
			if got := slicesThat(t, s, lie.outcome); got <= before {
				t.Errorf("it is not counted as %s", lie.outcome)
			}
			if lied := lie.outcome == sliceWrong; s.rep.distrusted("liar", time.Now()) != lied || s.rep.distrusted("liar", time.Now().Add(2*distrustTime)) {
				t.Errorf("a node that lied, %v, is asked again at once, or never", lied)
			}
			s.want(name, rev.ID, perigee.Absent)
			s.wantStored(name)
		})
	}
	clear(s.rep.liars)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStopping)
	s.serveFrom(map[perigee.NodeID]peer{"silent": func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}})
	if err := s.rep.fetchSlices(ctx, rev, "silent"); !errors.Is(err, errStopping) {
		t.Errorf("from a silent one: %v", err)
	}
	s.serveFrom(map[perigee.NodeID]peer{"honest": right})
	if err := s.rep.ensure(t.Context(), rev, perigee.Warm, "honest"); err != nil {
		t.Fatal(err)
	}
	s.want("from an honest one", rev.ID, perigee.Warm)
}

// slicesThat returns how many slices that were asked for had an outcome.
func slicesThat(t *testing.T, s *single, outcome string) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.rep.metrics.slices)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if m.Label[0].GetValue() == outcome {
				return m.Counter.GetValue()
			}
		}
	}
	return 0
}

// sender is a node that has an archive, and does something to each slice before it sends it.
func sender(t *testing.T, archive []byte, before func([]byte) []byte) peer {
	t.Helper()
	tree, _, err := digest.Tree(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	return func(r *http.Request) (*http.Response, error) {
		i, err := strconv.Atoi(path.Base(r.URL.Path))
		if err != nil || i >= digest.Slices(int64(len(archive))) {
			return says(http.StatusNotFound, []byte("no such slice"))(r)
		}
		at, n := digest.Span(int64(len(archive)), i)
		sealed, err := digest.Seal(archive[at:at+n], tree, i)
		if err != nil {
			return nil, err
		}
		return says(http.StatusOK, before(sealed))(r)
	}
}

// honest is one that sends what it has.
func honest(t *testing.T, p packed) peer {
	t.Helper()
	return sender(t, whole(t, p), func(b []byte) []byte { return b })
}

// TestFetchResumes: a fetch that is cut goes on where it was cut, from another node, and one that sends
// wrong slices between does no harm.
func TestFetchResumes(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", bytes.Repeat([]byte("0123456789abcdef"), 5*digest.SliceSize/16), perigee.Policy{})
	rev, _, _ := s.sign(p)
	var served atomic.Int32
	count := digest.Slices(p.archive.Size)
	good := honest(t, p)
	limited := peer(func(r *http.Request) (*http.Response, error) {
		if served.Add(1) > 3 {
			return nil, errors.New("the line is cut")
		}
		return good(r)
	})
	s.serveFrom(map[perigee.NodeID]peer{"first": limited})
	if err := s.rep.fetch(t.Context(), rev, "first"); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Fatalf("a line that is cut: %v", err)
	}
	served.Store(0)
	s.serveFrom(map[perigee.NodeID]peer{"second": func(r *http.Request) (*http.Response, error) {
		served.Add(1)
		return good(r)
	}})
	if err := s.rep.fetch(t.Context(), rev, "second"); err != nil {
		t.Fatal(err)
	}
	if got := int(served.Load()); got != count-3 {
		t.Errorf("%d slices were asked for again, %d were missing", got, count-3)
	}
	s.wantStored("resumed", p)
}

// TestFailures: work that fails is repeated ever more rarely, requests for it cost nothing meanwhile,
// and what a module is refused for is not tried again soon.
func TestFailures(t *testing.T) {
	s := newSingle(t)
	bad := s.declare(s.pack("bad", []byte("not wasm"), perigee.Policy{}))
	p := s.pack("bad", []byte("not wasm"), perigee.Policy{})
	if err := s.deployer.store.Put(t.Context(), p.archive.Digest, p.archive.Size, p.archive.Open()); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.step(now)
	f := s.rep.failed[bad.ID]
	var refused *runtime.ErrRefused
	if !errors.As(f.err, &refused) || f.tries != 1 || f.next.Sub(now) < refuseRetry {
		t.Errorf("refused module: %+v", f)
	}
	fn := s.View().Desired.Functions["bad"]
	began := time.Now()
	_, err := local{s.Node}.Invoke(t.Context(), fn, bad.ID, httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if !isNotHere(err) || time.Since(began) > 100*time.Millisecond {
		t.Errorf("a request for it: %v after %v", err, time.Since(began))
	}
	s.step(now.Add(refuseRetry / 2))
	if got := s.rep.failed[bad.ID].tries; got != 1 {
		t.Errorf("%d tries before it was time", got)
	}
	s.step(now.Add(refuseRetry + time.Minute))
	if got := s.rep.failed[bad.ID].tries; got != 2 {
		t.Errorf("%d tries, want 2", got)
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		s.rep.note("x", errors.New("no"))
		if got := time.Until(s.rep.failed["x"].next).Round(time.Second); got != want*time.Second {
			t.Errorf("after failure %d: %v, want %vs", i+1, got, int(want))
		}
	}
	s.rep.note("x", nil)
	if s.rep.lastError("x") != nil {
		t.Error("a success is not forgetting the failures")
	}
	s.remove("bad")
	s.step(now)
	if len(s.rep.failed) > 0 {
		t.Errorf("failures of a function that is gone: %v", s.rep.failed)
	}
}

// TestEnsureShared: callers for one revision share the work; it goes on when one gives up, and ends
// with the node.
func TestEnsureShared(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", guest("1"), perigee.Policy{})
	rev, _, _ := s.sign(p)
	asked, release := make(chan struct{}, 10), make(chan struct{})
	right := honest(t, p)
	s.serveFrom(map[perigee.NodeID]peer{"slow": func(r *http.Request) (*http.Response, error) {
		asked <- struct{}{}
		select {
		case <-release:
			return right(r)
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}})
	impatient, leave := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	errs := make([]error, 5)
	for i := range errs {
		ctx := t.Context()
		if i == 0 {
			ctx = impatient
		}
		wg.Go(func() { errs[i] = s.rep.ensure(ctx, rev, perigee.Warm, "slow") })
	}
	<-asked
	leave()
	close(release)
	wg.Wait()
	for i, err := range errs[1:] {
		if err != nil {
			t.Errorf("caller %d: %v", i+1, err)
		}
	}
	if len(asked) > 0 {
		t.Errorf("%d more fetches", len(asked))
	}

	// The end of the node ends work that waits, and takes no more.
	next, _, _ := s.sign(s.pack("b", guest("2"), perigee.Policy{}))
	release = make(chan struct{})
	done := make(chan error)
	go func() { done <- s.rep.ensure(t.Context(), next, perigee.Warm, "slow") }()
	<-asked
	s.rep.stop()
	if err := <-done; !errors.Is(err, errStopping) {
		t.Errorf("work at the end: %v", err)
	}
	if err := s.rep.ensure(t.Context(), next, perigee.Warm, "slow"); !errors.Is(err, errStopping) {
		t.Errorf("work after the end: %v", err)
	}
}

// TestSweepSpares: a sweep deletes nothing that is about to be needed.
func TestSweepSpares(t *testing.T) {
	s := newSingle(t)
	now := time.Now()
	p, stray := s.pack("a", guest("1"), perigee.Policy{}), s.pack("b", guest("2"), perigee.Policy{})
	for _, q := range []packed{p, stray} {
		if err := s.deployer.store.Put(t.Context(), q.archive.Digest, q.archive.Size, q.archive.Open()); err != nil {
			t.Fatal(err)
		}
	}
	release := s.rep.use(p.archive.Digest)
	again := s.rep.use(p.archive.Digest)
	s.rep.began = now.Add(-time.Hour)
	s.step(now)
	s.wantStored("in use", p)
	release()
	s.rep.dirty = true
	s.step(now)
	s.wantStored("still in use", p)
	again()
	s.rep.step(now.Add(time.Second), false)
	s.wantStored("a round that does not look at the disk", p)
	s.rep.dirty = true
	s.step(now.Add(time.Second))
	s.wantStored("not in use")
}

// TestPlansKept: plans are made again only when something changes that they depend on.
func TestPlansKept(t *testing.T) {
	s := newSingle(t)
	s.deploy(s.pack("a", guest("1"), perigee.Policy{}))
	var p plans
	first := p.at(s.View())
	s.gossip.SetRow(func(r *perigee.Row) { r.Load.InFlight++ })
	if p.at(s.View()) != first {
		t.Error("load changed the plans")
	}
	if plan := first.Plan(s.View().Desired.Functions["a"]); wanted(plan, s.ID()) != perigee.Warm || wanted(plan, "x") != perigee.Absent {
		t.Errorf("plan %+v", plan)
	}
	s.gossip.SetRow(func(r *perigee.Row) { r.Draining = true })
	second := p.at(s.View())
	if second == first || len(second.Plan(s.View().Desired.Functions["a"]).Holders) > 0 {
		t.Error("a node that drains is still planned")
	}
	s.gossip.SetRow(func(r *perigee.Row) { r.Draining = false })
	third := p.at(s.View())
	s.deploy(s.pack("b", guest("2"), perigee.Policy{}))
	if p.at(s.View()) == third {
		t.Error("a deploy does not change the plans")
	}
}

// TestFiles: static files are served, and directories are not listed.
func TestFiles(t *testing.T) {
	s := newSingle(t)
	rev := s.deploy(s.pack("a", guest("1"), perigee.Policy{}))
	files := s.rep.have(rev.ID).out.next
	for path, want := range map[string]int{"/sub/a.txt": 200, "/": 404, "/sub/": 404, "/sub": 404, "/none": 404, "/../sub/a.txt": 200} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		files.ServeHTTP(w, r)
		if w.Code != want || want == 200 && w.Body.String() != "a" {
			t.Errorf("%s: %d %q, want %d", path, w.Code, w.Body, want)
		}
	}
}

// TestUnloadedByItself: a revision whose code the runtime could not map again is brought back within the
// request that finds it so.
func TestUnloadedByItself(t *testing.T) {
	s := newSingle(t)
	rev := s.deploy(s.pack("a", guest("still here"), perigee.Policy{}))
	s.step(time.Now())
	s.want("deployed", rev.ID, perigee.Warm)
	s.runtime.Unload(rev.ID)
	fn := s.View().Desired.Functions["a"]
	for n, start := range []string{"cold", "warm"} {
		w := httptest.NewRecorder()
		res, err := (local{s.Node}).Invoke(t.Context(), fn, rev.ID, w, httptest.NewRequest(http.MethodGet, "/", nil))
		if err != nil || w.Body.String() != "still here" || res.Start != start {
			t.Errorf("request %d: %q, start %s, %v", n, w.Body, res.Start, err)
		}
	}
	s.want("afterwards", rev.ID, perigee.Warm)
}
