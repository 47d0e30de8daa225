package edgeproxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
)

const (
	testHost = "hello.example.com"
	testRev  = perigee.RevisionID("a1b2c3d4e5f6")
)

// world is a cluster as its View shows it, to be changed by tests.
type world struct {
	view atomic.Pointer[perigee.View]
}

// newWorld has the nodes given as "id" or "id:cold" or "id:absent"; the region is the part of the id
// before "-". All but those are warm. One function, hello, answers at testHost.
func newWorld(nodes ...string) *world {
	w := &world{}
	fn := &perigee.Function{Name: "hello", History: []perigee.RevisionID{testRev}, Live: &perigee.Revision{ID: testRev}}
	fn.Live.Manifest = perigee.Manifest{Name: "hello", Routes: []perigee.Route{{Host: testHost}}}
	peers := map[perigee.NodeID]*perigee.Peer{}
	for _, s := range nodes {
		id, how, _ := strings.Cut(s, ":")
		region, _, _ := strings.Cut(id, "-")
		warmth := map[string]perigee.Warmth{"": perigee.Warm, "cold": perigee.Held, "absent": perigee.Absent}[how]
		peers[perigee.NodeID(id)] = &perigee.Peer{
			NodeClaims: perigee.NodeClaims{ID: perigee.NodeID(id), Region: perigee.Region(region)},
			Row:        perigee.Row{Node: perigee.NodeID(id), Revisions: map[perigee.RevisionID]perigee.Warmth{testRev: warmth}},
			State:      perigee.NodeAlive,
		}
	}
	w.set(peers, fn)
	return w
}

func (w *world) set(peers map[perigee.NodeID]*perigee.Peer, functions ...*perigee.Function) {
	d := perigee.Desired{Domain: "fn.test", Functions: map[string]*perigee.Function{}, Regions: perigee.BuiltinRegions()}
	for _, fn := range functions {
		d.Functions[fn.Name] = fn
	}
	w.view.Store(&perigee.View{Desired: perigee.NewDesired(d), Observed: &perigee.Observed{Nodes: peers, At: time.Now()}})
}

// change replaces the function by a changed copy.
func (w *world) change(edit func(*perigee.Manifest)) {
	v := w.view.Load()
	fn, live := *v.Desired.Functions["hello"], *v.Desired.Functions["hello"].Live
	edit(&live.Manifest)
	fn.Live = &live
	w.set(v.Observed.Nodes, &fn)
}

// changeNode replaces a node by a changed copy; nil removes it.
func (w *world) changeNode(id perigee.NodeID, edit func(*perigee.Peer)) {
	v := w.view.Load()
	peers := map[perigee.NodeID]*perigee.Peer{}
	for k, p := range v.Observed.Nodes {
		if k != id {
			peers[k] = p
		} else if edit != nil {
			c := *p
			edit(&c)
			peers[k] = &c
		}
	}
	w.view.Store(&perigee.View{Desired: v.Desired, Observed: &perigee.Observed{Nodes: peers, At: time.Now()}})
}

// fakeLocal runs a Go handler as the guest.
type fakeLocal struct {
	handler func(ctx context.Context, w http.ResponseWriter, r *http.Request) (Result, error)
	load    atomic.Pointer[perigee.Load]
	runs    atomic.Int64
}

func newLocal(h func(w http.ResponseWriter, r *http.Request)) *fakeLocal {
	l := &fakeLocal{handler: func(_ context.Context, w http.ResponseWriter, r *http.Request) (Result, error) {
		h(w, r)
		return Result{Start: StartWarm}, nil
	}}
	l.load.Store(&perigee.Load{Slots: 8})
	return l
}

func failing(err error) *fakeLocal {
	l := newLocal(nil)
	l.handler = func(context.Context, http.ResponseWriter, *http.Request) (Result, error) { return Result{}, err }
	return l
}

func (l *fakeLocal) Invoke(ctx context.Context, _ *perigee.Function, _ perigee.RevisionID, w http.ResponseWriter, r *http.Request) (Result, error) {
	l.runs.Add(1)
	return l.handler(ctx, w, r)
}

func (l *fakeLocal) Load(perigee.RevisionID) perigee.Load { return *l.load.Load() }

// greet is a guest that says where it ran.
func greet(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello from %s", r.Header.Get(headerRegion))
}

// fakeHops answers hops from functions per node; a node without one is unreachable.
type fakeHops struct {
	mu    sync.Mutex
	nodes map[perigee.NodeID]func(*http.Request) (*http.Response, perigee.Load, error)
	sent  []perigee.NodeID
}

func newHops() *fakeHops {
	return &fakeHops{nodes: map[perigee.NodeID]func(*http.Request) (*http.Response, perigee.Load, error){}}
}

func (h *fakeHops) on(id perigee.NodeID, f func(*http.Request) (*http.Response, perigee.Load, error)) *fakeHops {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes[id] = f
	return h
}

func (h *fakeHops) RoundTrip(ctx context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	h.mu.Lock()
	f := h.nodes[to]
	h.sent = append(h.sent, to)
	h.mu.Unlock()
	if f == nil {
		return nil, perigee.Load{}, &perigee.HopError{Node: to, Code: perigee.RefusedUnreachable}
	}
	return f(r)
}

func (h *fakeHops) RTT(id perigee.NodeID) (time.Duration, bool) { return 0, false }

func (h *fakeHops) tried() []perigee.NodeID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sent)
}

// refuses is a node that refuses with a code.
func refuses(id perigee.NodeID, code perigee.RefuseCode) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(*http.Request) (*http.Response, perigee.Load, error) {
		return nil, perigee.Load{}, &perigee.HopError{Node: id, Code: code}
	}
}

// fails is a node that takes the request and is lost. It reads up to n bytes of the body before.
func fails(n int64) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(r *http.Request) (*http.Response, perigee.Load, error) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		return nil, perigee.Load{}, io.ErrUnexpectedEOF
	}
}

// answers is a node that answers with a body of known length. It echoes the request's body behind it.
func answers(text string) func(*http.Request) (*http.Response, perigee.Load, error) {
	return func(r *http.Request) (*http.Response, perigee.Load, error) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, perigee.Load{}, err
		}
		text := text + string(b)
		return response(200, int64(len(text)), strings.NewReader(text)), perigee.Load{InFlight: 1, Slots: 4}, nil
	}
}

func response(status int, size int64, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, ContentLength: size, Body: io.NopCloser(body)}
}

// newProxy makes the proxy of node self of a world.
func newProxy(t testing.TB, w *world, self string, local Local, hops Hops, edits ...func(*Config)) *Proxy {
	t.Helper()
	region, _, _ := strings.Cut(self, "-")
	cfg := Config{
		Self: perigee.NodeID(self), Region: perigee.Region(region), View: w.view.Load, Local: local, Hops: hops,
		Receipt: ReceiptFull, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// send sends a request to a proxy without a network and returns the answer. aborted says that the
// response was cut off.
func send(p http.Handler, r *http.Request) (rec *httptest.ResponseRecorder, aborted bool) {
	rec = httptest.NewRecorder()
	defer func() {
		if e := recover(); e != nil {
			if e != http.ErrAbortHandler {
				panic(e)
			}
			aborted = true
		}
	}()
	p.ServeHTTP(rec, r)
	return rec, false
}

func request(method, target string, body io.Reader) *http.Request {
	r := httptest.NewRequest(method, "http://"+testHost+target, body)
	r.URL.Scheme, r.URL.Host = "", ""
	return r
}

// receiptOf returns the receipt of an answer, which must have one.
func receiptOf(t *testing.T, h http.Header) Receipt {
	t.Helper()
	r, ok := ReceiptOf(h)
	if !ok {
		t.Fatalf("no receipt in %v", h)
	}
	if len(r.ID) != idDigits || r.Entry == "" {
		t.Fatalf("receipt %+v has no id or no entry", r)
	}
	return r
}

// eventually polls until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal("did not happen in time: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
