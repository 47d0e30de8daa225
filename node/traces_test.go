package node_test

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
)

// sent is a span and the node that sent it.
type sent struct {
	*tracepb.Span
	node string
}

// spanSink is a collector: it takes OTLP over HTTP, as protobuf.
type spanSink struct {
	mu  sync.Mutex
	all map[string]sent // by name and node
}

func (c *spanSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	var in collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &in)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range in.ResourceSpans {
		node := ""
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.instance.id" {
				node = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.all[s.Name+" "+node] = sent{s, node}
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// TestTraces follows one request from its client over a hop to the node that ran it, as a collector sees it.
func TestTraces(t *testing.T) {
	sink := &spanSink{all: map[string]sent{}}
	server := httptest.NewServer(sink)
	t.Cleanup(server.Close)
	f := clusterWith(t, fleet.Config{Regions: []perigee.Region{"fra", "wdc"}, TraceEndpoint: server.URL + "/v1/traces"})
	deploy(t, f, pack(t, "far", nil, perigee.Policy{Pin: []string{"wdc"}}))
	fra, wdc := f.Members()[0], f.Members()[1]

	const id = "0af7651916cd43dd8448eb211c80319c"
	r, err := http.NewRequestWithContext(t.Context(), "GET", "https://far.localhost/x?secret=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", "00-"+id+"-b7ad6b7169203331-01")
	resp, err := f.Client(fra).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d", resp.StatusCode)
	}
	var whole, hop, run sent
	eventually(t, 30*time.Second, "the collector has three spans", func() error {
		sink.mu.Lock()
		defer sink.mu.Unlock()
		whole, hop, run = sink.all["GET far "+string(fra.ID())], sink.all["hop far "+string(fra.ID())], sink.all["run far "+string(wdc.ID())]
		if whole.Span == nil || hop.Span == nil || run.Span == nil {
			return fmt.Errorf("%d of them", len(sink.all))
		}
		return nil
	})
	for _, s := range []sent{whole, hop, run} {
		if hex.EncodeToString(s.TraceId) != id {
			t.Errorf("%s is of the trace %x", s.Name, s.TraceId)
		}
		for _, a := range s.Attributes {
			if a.Key == "url.path" && a.Value.GetStringValue() != "/x" {
				t.Errorf("path %q", a.Value.GetStringValue())
			}
		}
	}
	if hex.EncodeToString(whole.ParentSpanId) != "b7ad6b7169203331" || string(hop.ParentSpanId) != string(whole.SpanId) || string(run.ParentSpanId) != string(hop.SpanId) {
		t.Errorf("client -> %x -> %x; parents %x, %x, %x", whole.SpanId, hop.SpanId, whole.ParentSpanId, hop.ParentSpanId, run.ParentSpanId)
	}
	if whole.Kind != tracepb.Span_SPAN_KIND_SERVER || hop.Kind != tracepb.Span_SPAN_KIND_CLIENT || run.Kind != tracepb.Span_SPAN_KIND_SERVER || whole.EndTimeUnixNano <= whole.StartTimeUnixNano {
		t.Errorf("kinds %v, %v, %v", whole.Kind, hop.Kind, run.Kind)
	}
}
