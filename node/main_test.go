package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/runtime"
)

// TestMain makes this program its own admission child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "admit" {
		os.Exit(runtime.AdmitMain(os.Stdin, os.Stdout, os.Stderr, os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "perigee-node-")
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

// codeDir is shared by the tests, so that each guest is compiled once.
var codeDir string

var admit = []string{os.Args[0], "admit"}

func quiet(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// cluster starts nodes that are as near to each other as can be.
func cluster(t *testing.T, regions ...perigee.Region) *fleet.Fleet {
	t.Helper()
	return clusterWith(t, fleet.Config{Regions: regions})
}

// clusterWith is cluster with what else the configuration says.
func clusterWith(t *testing.T, cfg fleet.Config) *fleet.Fleet {
	t.Helper()
	cfg.Dir, cfg.CodeDir, cfg.Admit, cfg.Near, cfg.Logger = t.TempDir(), codeDir, admit, true, quiet(t)
	f, err := fleet.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("stop the fleet: %v", err)
		}
	})
	return f
}

// function is what a deploy needs.
type function struct {
	*perigee.Manifest
	*bundle.Archive
}

// pack packs a guest under a name, which is also its answer if wasm is nil.
func pack(t *testing.T, name string, wasm []byte, policy perigee.Policy) function {
	t.Helper()
	if wasm == nil {
		wasm = wasmtest.Answer(name)
	}
	dir := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "perigee.toml"), fmt.Appendf(nil, "name = %q\nwasm = \"a.wasm\"\n", name), 0o644),
		os.WriteFile(filepath.Join(dir, "a.wasm"), wasm, 0o644),
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
	return function{m, archive}
}

// deployAs hands a function to the cluster.
func deployAs(ctx context.Context, p *node.Person, fn function) (node.Deployed, []node.DeployEvent, error) {
	body := fn.Open()
	defer body.Close()
	var events []node.DeployEvent
	d, err := p.Deploy(ctx, fn.Manifest, fn.Digest, perigee.Bytes(fn.Size), body, func(e node.DeployEvent) { events = append(events, e) })
	return d, events, err
}

// deploy hands a function to the cluster and waits until all planned holders are warm, in the eyes
// of all running nodes.
func deploy(t *testing.T, f *fleet.Fleet, fn function) node.Deployed {
	t.Helper()
	d, _, err := deployAs(t.Context(), f.Operator(), fn)
	if err != nil {
		t.Fatal(err)
	}
	warm(t, f, fn.Name, d.Revision)
	return d
}

func warm(t *testing.T, f *fleet.Fleet, name string, rev perigee.RevisionID) {
	t.Helper()
	eventually(t, 20*time.Second, "warm on every planned holder", func() error {
		for _, m := range f.Members() {
			if !m.Running() {
				continue
			}
			s, _, err := m.Client().Function(t.Context(), name)
			if err != nil {
				return err
			}
			if s.Live.ID != rev || !s.Ready() || s.Rollout != nil {
				return fmt.Errorf("%s sees %s on %+v", m.ID(), s.Live.ID, s.Holders)
			}
		}
		return nil
	})
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

// answer is what a client got for a request.
type answer struct {
	status  int
	body    string
	receipt edgeproxy.Receipt
}

// get asks a member's HTTPS listener for the root of a function.
func get(ctx context.Context, f *fleet.Fleet, m *fleet.Member, name string) (answer, error) {
	client := f.Client(m)
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+name+".localhost/", nil)
	if err != nil {
		return answer{}, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	receipt, _ := edgeproxy.ReceiptOf(resp.Header)
	return answer{resp.StatusCode, string(b), receipt}, err
}

// bundles lists the files of bundles that a member has, whole or not.
func bundles(t *testing.T, m *fleet.Member) (names []string) {
	t.Helper()
	dir := filepath.Join(string(m.Dir), "bundles")
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // moved while we looked
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// wantError requires that err has all the words.
func wantError(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one with %q", what, words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %q, want %q in it", what, err, w)
		}
	}
}

// served waits until every running node's clients get this answer.
func served(t *testing.T, f *fleet.Fleet, name, want string) {
	t.Helper()
	eventually(t, 20*time.Second, "answered "+want, func() error {
		for _, m := range f.Members() {
			if !m.Running() {
				continue
			}
			if a, err := get(t.Context(), f, m, name); err != nil || a.body != want {
				return fmt.Errorf("%s: %q, %v", m.ID(), a.body, err)
			}
		}
		return nil
	})
}
