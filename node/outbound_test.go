package node_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// passing is a guest that leaves every request to the next handler.
func passing() []byte {
	var m wasmtest.Module
	m.Memory(1, 0)
	m.Export("handle_request", 0, m.Func(":I", 0, wasmtest.Const64(1)))
	m.Export("handle_response", 0, m.Func("ii:", 0))
	return m.Bytes()
}

// TestNext has functions before others, on other nodes, before themselves, and before origins.
func TestNext(t *testing.T) {
	var reached atomic.Int64
	private := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer private.Close()
	f := cluster(t, "fra", "wdc")
	only := func(place string) perigee.Policy { return perigee.Policy{Pin: []string{place}} }
	before := func(name, next, place string) {
		t.Helper()
		fn := pack(t, name, passing(), only(place))
		fn.Next = next
		deploy(t, f, fn)
	}
	deploy(t, f, pack(t, "end", nil, only("wdc")))
	before("front", "fn:end", "fra")
	before("far", "fn:front", "wdc")
	before("loop", "fn:pool", "fra")
	before("pool", "fn:loop", "wdc")
	before("gone", "fn:nobody", "fra")
	before("private", private.URL, "fra")
	before("self", "https://"+f.Members()[1].HTTPS(), "fra")

	for _, tt := range []struct {
		name   string
		status int
		body   string
	}{
		{"front", 200, "end"},
		{"far", 200, "end"},
		{"loop", http.StatusLoopDetected, "taken for a loop"},
		{"gone", 404, "nobody"},
		{"private", 502, `"loopback"`},
		{"self", 502, `"own-cluster"`},
	} {
		for _, m := range f.Members() {
			got, err := get(t.Context(), f, m, tt.name)
			if err != nil || got.status != tt.status || !strings.Contains(got.body, tt.body) {
				t.Errorf("%s at %s: %d %q, %v; want %d %q", tt.name, m.ID(), got.status, got.body, err, tt.status, tt.body)
			}
		}
	}
	if reached.Load() != 0 {
		t.Error("an origin on loopback was reached")
	}
}
