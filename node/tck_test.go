package node_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
)

// question is one case of http-wasm's compatibility kit: a request that the kit's guest checks itself
// before it passes it on, and what the client must find in the backend's answer.
type question struct {
	id     string
	method string // default GET
	path   string // default /
	header http.Header
	body   string
	next   map[string]string // fields of the answer, by what follows "X-Httpwasm-Next-"
}

// questions returns the cases of the kit, all of them.
func questions() []question {
	field := func(name string, values ...string) http.Header { return http.Header{name: values} }
	next := func(name, value string) map[string]string { return map[string]string{name: value} }
	bear := field("Existing-Header", "bear")
	all := []question{
		{id: "get_protocol_version"},
		{id: "set_method", next: next("Method", "POST")},
		{id: "get_source_addr"},
		{id: "get_header_values/request/lowercase-key", header: field("Single-Header", "value")},
		{id: "get_header_values/request/mixedcase-key", header: field("Single-Header", "value")},
		{id: "get_header_values/request/not-exists"},
		{id: "get_header_values/request/multiple-values", header: field("Multi-Header", "value1", "value2")},
		{id: "get_header_names/request", header: http.Header{"A-Header": {"value1"}, "B-Header": {"2"}}},
		{id: "set_header_value/request/new", header: bear, next: next("Header-New-Header-0", "value")},
		{id: "set_header_value/request/existing", header: bear, next: next("Header-Existing-Header-0", "value")},
		{id: "add_header_value/request/new", header: bear, next: next("Header-New-Header-0", "value")},
		{id: "add_header_value/request/existing", header: bear, next: map[string]string{"Header-Existing-Header-0": "bear", "Header-Existing-Header-1": "value"}},
		{id: "remove_header/request/new", header: bear, next: next("Header-Existing-Header-0", "bear")},
		{id: "remove_header/request/existing", header: bear, next: next("Header-Existing-Header-0", "")},
	}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"} {
		all = append(all, question{id: "get_method/" + m, method: m, next: next("Method", m)})
	}
	for id, uri := range map[string]string{
		"simple": "/simple", "simple/escaping": "/simple%26clean",
		"query": "/animal?name=panda", "query/escaping": "/disney?name=chip%26dale",
	} {
		all = append(all, question{id: "get_uri/" + id, path: uri, next: next("Uri", uri)}, question{id: "set_uri/" + id, next: next("Uri", uri)})
	}
	for id, size := range map[string]int{"empty": 0, "small": 5, "medium": 2048, "large": 4096, "xlarge": 5000} {
		all = append(all, question{id: "read_body/request/" + id, method: http.MethodPost, body: strings.Repeat("a", size), next: next("Body", fmt.Sprint(size))})
	}
	return all
}

// tckBackend tells in its answer what it was asked.
func tckBackend(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Httpwasm-Next-Method", r.Method)
	h.Set("X-Httpwasm-Next-Uri", r.RequestURI)
	for name, values := range r.Header {
		for i, v := range values {
			h.Add(fmt.Sprintf("X-Httpwasm-Next-Header-%s-%d", name, i), v)
		}
	}
	n, _ := io.Copy(io.Discard, r.Body)
	h.Set("X-Httpwasm-Next-Body", fmt.Sprint(n))
}

// TestTCK asks the guest of http-wasm's compatibility kit each of its questions. The guest runs on one of
// two nodes, before a backend on a port of its own; clients reach it there and through the other node,
// each by HTTP/1.1 and by HTTP/2.
func TestTCK(t *testing.T) {
	dir := os.Getenv("PERIGEE_CONFORMANCE")
	if dir == "" {
		t.Skip("PERIGEE_CONFORMANCE is not set: the outside modules are not here")
	}
	wasm, err := os.ReadFile(filepath.Join(dir, "http-wasm", "tck.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	backend := httptest.NewServer(http.HandlerFunc(tckBackend))
	defer backend.Close()
	f := clusterWith(t, fleet.Config{Regions: []perigee.Region{"fra", "wdc"}, OutboundAllow: []string{"127.0.0.1"}})
	fn := pack(t, "tck", wasm, perigee.Policy{Pin: []string{"wdc"}})
	fn.Next = backend.URL
	deploy(t, f, fn)

	for _, m := range f.Members() {
		for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
			client := f.Client(m)
			if proto == "HTTP/1.1" {
				client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			}
			defer client.CloseIdleConnections()
			for _, q := range questions() {
				t.Run(string(m.Region())+"/"+proto+"/"+q.id, func(t *testing.T) { q.ask(t, client, proto) })
			}
		}
	}
}

// ask asks the question and checks the answer.
func (q question) ask(t *testing.T, client *http.Client, proto string) {
	r, err := http.NewRequestWithContext(t.Context(), q.method, "https://tck.localhost"+q.path, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if q.header != nil {
		r.Header = q.header.Clone()
	}
	r.Header.Set("X-Httpwasm-Tck-Testid", q.id)
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Httpwasm-Tck-Handled") != "1" {
		t.Fatalf("%s: %s %v\n%s", resp.Status, resp.Header.Get("X-Httpwasm-Tck-Failed"), resp.Header, body)
	}
	if resp.Proto != proto {
		t.Errorf("asked by %s", resp.Proto)
	}
	if q.id == "get_protocol_version" && string(body) != resp.Proto {
		t.Errorf("the guest sees %q of %s", body, resp.Proto)
	}
	for name, want := range q.next {
		if got := resp.Header.Get("X-Httpwasm-Next-" + name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
