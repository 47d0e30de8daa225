package edgeproxy

import (
	"net/http"
	"sync"
	"testing"

	"github.com/perigee-edge/perigee"
)

type spanLog struct {
	mu  sync.Mutex
	all []Span
}

func (l *spanLog) Record(s Span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, s)
}

// TestSpans traces requests whose clients want it, those that are chosen, and no others; a try is below its
// request, and the guest is told the innermost.
func TestSpans(t *testing.T) {
	const id = "0af7651916cd43dd8448eb211c80319c"
	var seen trace
	guest := newLocal(func(_ http.ResponseWriter, r *http.Request) { seen = traceOf(r.Header) })
	ask := func(sample float64, parent string) []Span {
		spans := &spanLog{}
		p := newProxy(t, newWorld("fra-1"), "fra-1", guest, newHops(), quiet, func(c *Config) { c.Spans, c.TraceSample = spans, sample })
		r := request("GET", "/a?secret=1", nil)
		if parent != "" {
			r.Header.Set("Traceparent", parent)
		}
		send(p, r)
		return spans.all
	}
	equal(t, "spans of a request that nobody wants", len(ask(0, "")), 0)
	equal(t, "spans of a trace that is not sampled", len(ask(1, "00-"+id+"-b7ad6b7169203331-00")), 0)
	got := ask(0, "00-"+id+"-b7ad6b7169203331-01")
	if len(got) != 2 {
		t.Fatalf("spans: %+v", got)
	}
	run, whole := got[0], got[1]
	if whole.Name != "GET hello" || whole.Kind != SpanServer || whole.Parent != [8]byte{0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31} || !whole.Remote {
		t.Errorf("the request: %+v", whole)
	}
	if run.Name != "run hello" || run.Parent != whole.ID || run.Trace != whole.Trace || run.Start.Before(whole.Start) || run.End.After(whole.End) {
		t.Errorf("the run: %+v below %+v", run, whole)
	}
	if seen.parent != run.ID || seen.id() != id {
		t.Errorf("the guest is told %x of %s", seen.parent, seen.id())
	}
	got = ask(1, "")
	if len(got) != 2 || got[1].Parent != [8]byte{} || got[1].Trace == [16]byte{} {
		t.Errorf("a trace that begins here: %+v", got)
	}
}

// TestSpansOfHops gives each try over the mesh a span of its own, and says which failed.
func TestSpansOfHops(t *testing.T) {
	var told []string
	hops := newHops()
	hops.on("syd-1", refuses("syd-1", perigee.RefusedOverloaded)).on("wdc-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
		told = append(told, r.Header.Get(headerTrace))
		return answers("hi")(r)
	})
	spans := &spanLog{}
	p := newProxy(t, newWorld("fra-1:absent", "wdc-1", "syd-1"), "fra-1", failing(nil), hops, quiet, func(c *Config) { c.Spans, c.TraceSample = spans, 1 })
	for range 20 { // either node comes first now and then
		send(p, request("GET", "/", nil))
	}
	failed, good := 0, map[[8]byte]bool{}
	for _, s := range spans.all {
		switch {
		case s.Kind == SpanClient && s.Failed != "":
			failed++
		case s.Kind == SpanClient:
			good[s.ID] = true
		}
	}
	if len(good) != 20 || len(told) != 20 || failed != len(hops.tried())-20 {
		t.Errorf("%d good hops, %d requests, %d failed of %d", len(good), len(told), failed, len(hops.tried()))
	}
	for _, s := range told {
		var tr trace
		if !tr.parse(s) || !good[tr.parent] {
			t.Errorf("%q is told to a worker, and no span", s)
		}
	}
}
