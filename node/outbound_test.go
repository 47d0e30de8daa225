package node_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// TestCall has a guest call a function on another node, and what it does not list.
func TestCall(t *testing.T) {
	f := cluster(t, "fra", "wdc")
	deploy(t, f, pack(t, "end", nil, perigee.Policy{Pin: []string{"wdc"}}))
	out := filepath.Join(t.TempDir(), "caller.wasm")
	c := exec.Command("go", "build", "-buildmode=c-shared", "-o", out, ".")
	c.Dir = filepath.Join("..", "runtime", "testdata", "caller")
	c.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOWORK=off", "GOFLAGS=")
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	wasm, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	fn := pack(t, "caller", wasm, perigee.Policy{Pin: []string{"fra"}})
	fn.Outbound = []string{"fn:end", "http://169.254.169.254"}
	deploy(t, f, fn)
	for url, want := range map[string]string{
		"http://end.internal/x":       `200 OK [] "end" <nil> map[]`,
		"http://other.internal/":      `list "fn:other" under outbound in perigee.toml`,
		"http://169.254.169.254/meta": "cloud-metadata",
	} {
		for _, m := range f.Members() {
			client := f.Client(m)
			resp, err := client.Get("https://caller.localhost/get?url=" + url)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			client.CloseIdleConnections()
			if !strings.Contains(string(b), want) {
				t.Errorf("%s at %s: %d %s", url, m.ID(), resp.StatusCode, b)
			}
		}
	}
	u, err := f.Members()[0].Client().Usage(t.Context(), "end")
	if err != nil || len(u.Rows) != 1 || u.Rows[0].Caller != "fn:caller" || u.Rows[0].Requests != 2 {
		t.Errorf("usage of the function that was called: %+v, %v; want 2 requests of fn:caller", u.Rows, err)
	}
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
			eventually(t, 20*time.Second, tt.name+" at "+string(m.ID()), func() error { // a busy node refuses
				got, err := get(t.Context(), f, m, tt.name)
				if err != nil || got.status != tt.status || !strings.Contains(got.body, tt.body) {
					return fmt.Errorf("%d %q, %v; want %d %q", got.status, got.body, err, tt.status, tt.body)
				}
				return nil
			})
		}
	}
	if reached.Load() != 0 {
		t.Error("an origin on loopback was reached")
	}
}
