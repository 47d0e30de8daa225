package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/node"
)

// bookkeeper runs two real nodes and adds up the receipts of what the first one answers.
type bookkeeper struct {
	t      *testing.T
	dir    string // of the first node; that of the other is beside it
	port   string
	client *http.Client
	nodes  map[string]*exec.Cmd // by folder

	asked, whole, fuel atomic.Int64 // requests sent; answered whole, and the sum of their receipts
}

// env gives the programs a home of their own.
func (b *bookkeeper) env() []string {
	return append(os.Environ(), "PERIGEE_HOME="+filepath.Join(filepath.Dir(b.dir), "home"))
}

// perigee runs a command in the first node's folder.
func (b *bookkeeper) perigee(args ...string) (string, error) {
	c := exec.CommandContext(b.t.Context(), "perigee", args...)
	c.Dir, c.Env = b.dir, b.env()
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("perigee %v: %w: %s", args, err, exit.Stderr)
	}
	return string(out), err
}

func (b *bookkeeper) must(args ...string) string {
	b.t.Helper()
	out, err := b.perigee(args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// start starts a node and waits until it runs.
func (b *bookkeeper) start(name string, args ...string) {
	b.t.Helper()
	cmd := exec.Command("perigee", append([]string{"node", "run"}, args...)...)
	cmd.Dir, cmd.Env = filepath.Join(filepath.Dir(b.dir), name), b.env()
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.nodes[name] = cmd
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := b.perigee("status", "--config", filepath.Join(cmd.Dir, "node.toml"))
		if err == nil && strings.Contains(out, ", ready") {
			return
		} else if time.Now().After(deadline) {
			b.t.Fatalf("the node is not ready: %v\n%s", err, out)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at another process
	}
}

// kill is kill -9.
func (b *bookkeeper) kill(name string) {
	if err := b.nodes[name].Process.Kill(); err != nil {
		b.t.Error(err)
	}
	_ = b.nodes[name].Wait() // killed
	b.client.CloseIdleConnections()
}

// ask sends a request, again if it was refused. The receipt counts when the whole answer has come.
func (b *bookkeeper) ask(function string) {
	b.asked.Add(1)
	for b.try(function) && b.t.Context().Err() == nil {
		time.Sleep(time.Millisecond) // a node that has just started does not know yet what it has
	}
}

// try sends a request and reports whether it was refused, which is not counted.
func (b *bookkeeper) try(function string) (refused bool) {
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, "http://127.0.0.1:"+b.port+"/", nil)
	if err != nil {
		b.t.Error(err)
		return false
	}
	r.Host = function + ".localhost"
	resp, err := b.client.Do(r)
	if err != nil {
		if os.IsTimeout(err) {
			b.t.Errorf("%s: %v", function, err)
		}
		return false
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil {
		if os.IsTimeout(err) {
			b.t.Errorf("%s: after %d bytes: %v", function, n, err)
		}
		return false
	}
	receipt, ok := edgeproxy.ReceiptOf(resp.Header)
	if receipt.Partial {
		receipt, ok = edgeproxy.ReceiptOf(resp.Trailer)
	}
	if receipt.Reason == edgeproxy.ReasonRefused {
		return true
	}
	if !ok || receipt.Partial || receipt.Revision == "" {
		b.t.Errorf("%s: %s, receipt %+v, trailer %v", function, resp.Status, receipt, resp.Trailer)
		return false
	}
	b.whole.Add(1)
	b.fuel.Add(int64(receipt.Fuel))
	return false
}

// asks sends n requests from several clients at once, and calls middle in the midst of them.
func (b *bookkeeper) asks(n int, middle func()) {
	functions := []string{"hello", "far-hello", "hello", "far-streams", "streams", "far-traps", "traps"}
	var next atomic.Int64
	var all sync.WaitGroup
	half := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				if i == n/2 {
					close(half)
				}
				b.ask(functions[i%len(functions)])
			}
		})
	}
	<-half
	middle()
	all.Wait()
}

// usage asks until both nodes have answered.
func (b *bookkeeper) usage() (requests, fuel int64) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var u node.Usage
		if err := json.Unmarshal([]byte(b.must("usage", "--json")), &u); err != nil {
			b.t.Fatal(err)
		}
		if len(u.Nodes) == 2 && u.Nodes[0].Missing == "" && u.Nodes[1].Missing == "" {
			return int64(u.Total.Requests), int64(u.Total.Fuel)
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("a node is missing: %+v", u.Nodes)
		}
	}
}

// TestUsageMismatch compares the receipts of 10,000 requests with what the nodes have counted, the one that
// was asked and one behind it, while they are killed with SIGKILL several times: between requests, when
// nothing may differ, and in the midst of them, when only requests that were not answered whole may.
func TestUsageMismatch(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a real node; not in -short")
	}
	const requests, quiet, busy = 10_000, 4, 3
	t.Parallel()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	b := &bookkeeper{t: t, dir: filepath.Join(folder, "fra"), port: port, nodes: map[string]*exec.Cmd{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 10 * time.Second}}
	if err := errors.Join(os.Mkdir(b.dir, 0o755), os.Mkdir(filepath.Join(folder, "wdc"), 0o755)); err != nil {
		t.Fatal(err)
	}
	b.must("cluster", "init", "--region", "fra", "--domain", "localhost", "--listen", "127.0.0.1:"+port, "--https", "", "--http", "127.0.0.1:"+port, "--admin-http", "")
	b.start("fra")
	defer func() { b.kill("fra") }()
	token := strings.TrimSpace(b.must("token", "create", "--region", "wdc"))
	b.start("wdc", "--join", token, "--listen", "127.0.0.2:"+port, "--https", "", "--http", "", "--admin-http", "")
	defer func() { b.kill("wdc") }()
	for deadline := time.Now().Add(20 * time.Second); strings.Count(b.must("node", "ls", "--json"), `"alive"`) < 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first node does not see the second")
		}
	}
	for name, pin := range map[string]string{"hello": "fra", "streams": "fra", "traps": "fra", "far-hello": "wdc", "far-streams": "wdc", "far-traps": "wdc"} {
		dir := filepath.Join(b.dir, name)
		if err := errors.Join(
			os.Mkdir(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "f.wasm"), module(guests[strings.TrimPrefix(name, "far-")]), 0o644),
			os.WriteFile(filepath.Join(dir, "perigee.toml"), fmt.Appendf(nil, "name = %q\nwasm = \"f.wasm\"\nreceipt = \"full\"\n[placement]\npin = [%q]\n", name, pin), 0o644),
		); err != nil {
			t.Fatal(err)
		}
		b.must("deploy", name, "--wait", "1m")
	}

	for i := range quiet {
		b.asks(requests*7/10/quiet, func() {})
		name := [quiet]string{"fra", "wdc", "fra", "fra"}[i]
		b.kill(name)
		b.start(name)
	}
	counted, fuel := b.usage()
	if counted != b.asked.Load() || counted != b.whole.Load() {
		t.Errorf("%d requests were sent, %d answered whole and %d counted", b.asked.Load(), b.whole.Load(), counted)
	}
	mismatch := max(fuel, b.fuel.Load()) - min(fuel, b.fuel.Load())

	for range busy {
		before, fuelBefore := b.usage()
		asked, whole, receipts := b.asked.Load(), b.whole.Load(), b.fuel.Load()
		b.asks(requests*3/10/busy, func() { b.kill("fra") })
		b.start("fra")
		after, fuelAfter := b.usage()
		lost := (b.asked.Load() - asked) - (b.whole.Load() - whole)
		extra := (after - before) - (b.whole.Load() - whole)
		more := (fuelAfter - fuelBefore) - (b.fuel.Load() - receipts)
		// At most one request of each of the four clients was under way and is counted without an answer.
		if lost == 0 || extra < 0 || extra > 4 || more < 0 || extra == 0 && more != 0 {
			t.Errorf("killed in the midst: %d requests were not answered, %d more were counted than answered, with %d more fuel", lost, extra, more)
			mismatch += max(more, -more)
		}
	}
	fmt.Printf("usage_mismatch %d\nusage_mismatch_trials %d\nusage_mismatch_kills %d\nusage_receipts_fuel %d\n", mismatch, b.asked.Load(), quiet+busy, b.fuel.Load())
	if mismatch != 0 || b.asked.Load() != requests || b.fuel.Load() == 0 {
		t.Errorf("receipts say %d fuel for %d requests; they differ by %d from usage", b.fuel.Load(), b.asked.Load(), mismatch)
	}
}
