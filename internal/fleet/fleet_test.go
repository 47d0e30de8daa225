package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/runtime"
)

// TestMain makes this program its own admission child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "admit" {
		os.Exit(runtime.AdmitMain(os.Stdin, os.Stdout, os.Stderr, os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "perigee-fleet-")
	if err != nil {
		panic(err)
	}
	codeDir = dir
	code := m.Run()
	if code == 0 {
		// memberlist ends a probe under way only when it times out, some seconds after its own end.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// codeDir is shared by the tests, so that the guest is compiled once.
var codeDir string

// hello packs a small guest with a placement of its own.
func hello(t *testing.T, policy perigee.Policy) (*perigee.Manifest, *bundle.Archive) {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte("name = \"hello\"\nwasm = \"hello.wasm\"\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "hello.wasm"), wasmtest.Answer("hello\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := bundle.Pack(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	m.Placement = policy
	return m, archive
}

func start(t *testing.T, near bool, regions ...perigee.Region) *fleet.Fleet {
	t.Helper()
	return startWith(t, fleet.Config{Near: near, Regions: regions})
}

// startWith starts a fleet with settings of its own.
func startWith(t *testing.T, cfg fleet.Config) *fleet.Fleet {
	t.Helper()
	began := time.Now()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	cfg.Dir, cfg.CodeDir, cfg.Admit = t.TempDir(), codeDir, []string{os.Args[0], "admit"}
	f, err := fleet.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d nodes agree after %v", len(cfg.Regions), time.Since(began).Round(time.Millisecond))
	t.Cleanup(func() {
		began := time.Now()
		if err := f.Close(); err != nil {
			t.Errorf("stop the fleet: %v", err)
		}
		t.Logf("stopped in %v", time.Since(began).Round(time.Millisecond))
	})
	return f
}

func deploy(t *testing.T, f *fleet.Fleet, m *perigee.Manifest, archive *bundle.Archive) perigee.RevisionID {
	t.Helper()
	began := time.Now()
	body := archive.Open()
	defer body.Close()
	d, err := f.Operator().Deploy(t.Context(), m, archive.Digest, perigee.Bytes(archive.Size), body, nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "warm on every planned holder", func() error {
		for _, member := range f.Members() {
			if !member.Running() {
				continue
			}
			s, _, err := member.Client().Function(t.Context(), m.Name)
			if err != nil {
				return err
			}
			if s.Live.ID != d.Revision || !s.Ready() {
				return fmt.Errorf("%s sees %+v", member.ID(), s.Holders)
			}
		}
		return nil
	})
	t.Logf("warm everywhere after %v", time.Since(began).Round(time.Millisecond))
	return d.Revision
}

// eventually tries until f succeeds, at most for limit.
func eventually(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || t.Context().Err() != nil {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

type response struct {
	status  int
	body    string
	receipt edgeproxy.Receipt
	took    time.Duration
}

func get(t *testing.T, f *fleet.Fleet, m *fleet.Member, header ...string) response {
	t.Helper()
	r, err := try(t.Context(), f, m, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func try(ctx context.Context, f *fleet.Fleet, m *fleet.Member, header ...string) (response, error) {
	client := f.Client(m)
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://hello.localhost/", nil)
	if err != nil {
		return response{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	began := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return response{}, err
	}
	receipt, err := edgeproxy.ParseReceipt(resp.Header.Get(edgeproxy.ReceiptHeader))
	return response{resp.StatusCode, string(b), receipt, time.Since(began)}, err
}

// TestDistance deploys to three regions and checks who answers, that a hop costs the distance, that
// pins hold and move, and what a client may ask for.
func TestDistance(t *testing.T) {
	f := start(t, false, "fra", "wdc", "syd")
	m, archive := hello(t, perigee.Policy{Pin: []string{"fra", "wdc"}})
	deploy(t, f, m, archive)
	fra, wdc, syd := f.Member("fra-1"), f.Member("wdc-1"), f.Member("syd-1")

	if r := get(t, f, fra); r.status != 200 || r.receipt.Node != "fra-1" || r.receipt.Entry != "fra" {
		t.Errorf("from fra: %+v", r)
	}
	if r := get(t, f, wdc); r.status != 200 || r.receipt.Node != "wdc-1" {
		t.Errorf("from wdc: %+v", r)
	}
	// The distance is measured, and a machine without a free processor makes every distance long.
	eventually(t, 30*time.Second, "from syd the nearer holder answers, after the distance to it", func() error {
		want, r := f.Distance("syd", "wdc"), get(t, f, syd)
		if r.receipt.Node != "wdc-1" || r.took < want*9/10 || r.took > want+want/2+100*time.Millisecond {
			return fmt.Errorf("want wdc-1 after about %v: %+v", want, r)
		}
		return nil
	})
	if r := get(t, f, syd, "Perigee-Prefer-Region", "fra"); r.receipt.Node != "fra-1" {
		t.Errorf("syd prefers fra: %+v", r)
	}
	if r := get(t, f, fra, "Perigee-Force-Region", "syd"); r.status == 200 {
		t.Errorf("the function does not let clients force a region: %+v", r)
	}

	m.Placement = perigee.Policy{Pin: []string{"syd"}}
	deploy(t, f, m, archive)
	for _, from := range f.Members() {
		if r := get(t, f, from); r.status != 200 || r.receipt.Node != "syd-1" {
			t.Errorf("from %s, pinned to syd: %+v", from.ID(), r)
		}
	}
	if err := syd.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := get(t, f, fra); r.status != http.StatusServiceUnavailable || !strings.Contains(r.body, `pin = ["syd"]`) || r.receipt.Reason != "refused" {
		t.Errorf("pinned to a region that is down: %+v", r)
	}
	if err := f.Restart(t.Context(), syd); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "answers again after the restart", func() error {
		if r := get(t, f, fra); r.status != 200 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// TestTen runs ten nodes in one process: nodes are values without globals.
func TestTen(t *testing.T) {
	t.Parallel()
	f := start(t, true, "fra", "fra", "wdc", "wdc", "syd", "syd", "tok", "sao", "lon", "mad")
	m, archive := hello(t, perigee.Policy{})
	rev := deploy(t, f, m, archive)
	for _, member := range f.Members() {
		if r := get(t, f, member); r.status != 200 || r.receipt.Revision != rev {
			t.Errorf("from %s: %+v", member.ID(), r)
		}
	}
	// A node that a busy machine kept silent has a stand-in until it is seen again.
	eventually(t, time.Minute, "two holders: the default", func() error {
		var holders []perigee.NodeID
		for id, p := range f.Members()[0].View().Observed.Nodes {
			if p.Revisions[rev] == perigee.Warm {
				holders = append(holders, id)
			}
		}
		if len(holders) != 2 {
			return fmt.Errorf("%v are warm", holders)
		}
		return nil
	})
}

// TestResidency checks that a node outside a function's residency stores none of it, also as the
// entry of the deploy.
func TestResidency(t *testing.T) {
	t.Parallel()
	f := start(t, true, "wdc", "fra", "mad")
	m, archive := hello(t, perigee.Policy{Residency: []string{"eu"}})
	deploy(t, f, m, archive)
	outside := f.Member("wdc-1")
	if r := get(t, f, outside); r.status != 200 || !slices.Contains([]perigee.Region{"fra", "mad"}, r.receipt.Region) {
		t.Errorf("entered in wdc: %+v", r)
	}
	if r := get(t, f, outside); r.receipt.Via != "wdc" || r.receipt.Entry == "wdc" {
		t.Errorf("the TLS ended in %q, via %q", r.receipt.Entry, r.receipt.Via)
	}
	if stored := bundles(t, outside); len(stored) > 0 {
		t.Errorf("wdc-1 stores %v", stored)
	}
	if found := keys(t, outside); len(found) > 0 {
		t.Errorf("wdc-1 has keys of the host: %v", found)
	}
	if len(keys(t, f.Member("fra-1")))+len(keys(t, f.Member("mad-1"))) == 0 {
		t.Error("nobody has a key of the host: the check above checks nothing")
	}
	e, err := outside.Client().ExplainRoute(t.Context(), "https://hello.localhost/", "wdc", "", "", "")
	if err != nil || e.Passed == nil || e.Passed.Node != "wdc-1" || e.Passed.Rule != `residency = ["eu"]` || e.Region == "wdc" || len(e.Candidates) == 0 {
		t.Errorf("explained: %+v, %v", e, err)
	}
	for _, id := range []perigee.NodeID{"fra-1", "mad-1"} {
		if stored := bundles(t, f.Member(id)); len(stored) != 1 {
			t.Errorf("%s stores %v", id, stored)
		}
	}
	m.Placement = perigee.Policy{Residency: []string{"as"}}
	body := archive.Open()
	defer body.Close()
	_, err = f.Operator().Deploy(t.Context(), m, archive.Digest, perigee.Bytes(archive.Size), body, nil)
	if err == nil || !strings.Contains(err.Error(), "residency") {
		t.Errorf("deploy that no node satisfies: %v", err)
	}
}

// keys lists the private keys of hosts that a member has on its disk.
func keys(t *testing.T, m *fleet.Member) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(string(m.Dir), "web"), func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".key") {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// bundles lists what files of bundles a member has, whole or not.
func bundles(t *testing.T, m *fleet.Member) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(string(m.Dir), "bundles"), func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestFailover cuts the holder off without a word: the next request is answered elsewhere soon.
func TestFailover(t *testing.T) {
	t.Parallel()
	f := start(t, true, "fra", "wdc", "syd")
	m, archive := hello(t, perigee.Policy{Pin: []string{"wdc", "syd"}, Prefer: []string{"wdc"}})
	deploy(t, f, m, archive)
	fra := f.Member("fra-1")
	inWashington := func() error {
		if r := get(t, f, fra); r.receipt.Node != "wdc-1" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	}
	eventually(t, 5*time.Second, "runs in wdc, which is preferred", inWashington)
	f.Cut("wdc", true)
	if r := get(t, f, fra); r.status != 200 || r.receipt.Node != "syd-1" || r.took > 2*time.Second {
		t.Errorf("with wdc cut off: %+v", r)
	}
	f.Cut("wdc", false)
	eventually(t, 30*time.Second, "runs in wdc again", inWashington)
}

// TestMembers kills, restarts and stops a member while others look at it.
func TestMembers(t *testing.T) {
	t.Parallel()
	f := start(t, true, "fra", "wdc")
	wdc := f.Member("wdc-1")
	var looks sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer looks.Wait()
	defer cancel()
	looks.Go(func() {
		for ctx.Err() == nil {
			_, _, _ = wdc.HTTPS(), wdc.View(), wdc.Running()
			if id := wdc.ID(); id != "wdc-1" {
				t.Errorf("id %s", id)
			}
			time.Sleep(time.Millisecond) // leave the processor to the nodes
		}
	})
	if err := wdc.Kill(); err != nil || wdc.Running() {
		t.Fatalf("kill: %v, running %v", err, wdc.Running())
	}
	if err := f.Restart(t.Context(), wdc); err != nil {
		t.Fatal(err)
	}
	if err := f.Restart(t.Context(), wdc); err == nil {
		t.Error("a running member was started again")
	}
	if err := f.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := wdc.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := wdc.Stop(); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if op := f.Operator(); op.Key == nil {
		t.Error("no operator")
	}
	if err := errors.Join(f.Close(), f.Remove()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(string(wdc.Dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}
