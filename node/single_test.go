package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// single is a node that does not run, and its operator: all that a node decides by itself can be
// looked at without waiting.
type single struct {
	*Node
	t        *testing.T
	dir      Dir
	operator ed25519.PrivateKey
}

func newSingle(t *testing.T) *single {
	t.Helper()
	dir := Dir(filepath.Join(t.TempDir(), "data"))
	founded, err := Found(FoundConfig{Dir: dir, Region: "fra", Domain: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	s := &single{t: t, dir: dir, operator: founded.Operator}
	s.open()
	return s
}

// open makes the node, again after a Close.
func (s *single) open() {
	s.t.Helper()
	n, err := New(singleConfig(s.t, s.dir))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Node = n
	s.t.Cleanup(n.Close)
}

// run runs the node until the returned function is called, which waits for its end.
func (s *single) run() (stop func() error) {
	s.t.Helper()
	return runNode(s.t, s.Node)
}

func runNode(t *testing.T, n *Node) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil && !errors.Is(err, ErrRemoved) {
			t.Errorf("run %s: %v", n.ID(), err)
		}
	})
	wait(t, 10*time.Second, "the node answers", func() bool {
		_, err := n.Client().Status(t.Context())
		return err == nil
	})
	return stop
}

// person is the operator, acting through the node.
func (s *single) person() *Person {
	s.t.Helper()
	p, err := NewPerson(s.Client(), s.operator, s.m.genesisRecord)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *single) token(spec TokenSpec) identity.Token {
	s.t.Helper()
	token, err := s.person().CreateToken(s.t.Context(), spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// joiner is a machine that wants to join.
func joiner(t *testing.T, token identity.Token) JoinConfig {
	t.Helper()
	socket, err := ListenMesh("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return JoinConfig{Dir: Dir(filepath.Join(t.TempDir(), "data")), Token: token, Socket: socket}
}

// wait looks until f is true.
func wait(t *testing.T, limit time.Duration, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, limit)
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

// wantErr requires that err has all the words.
func wantErr(t *testing.T, what string, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%s: error %v, want %q in it", what, err, w)
		}
	}
}

func singleConfig(t *testing.T, dir Dir) Config {
	return Config{
		Dir: dir, Listen: "127.0.0.1:0", Admit: []string{os.Args[0], "admit"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// packed is a function with its archive.
type packed struct {
	m       *perigee.Manifest
	archive *bundle.Archive
}

func (s *single) pack(name string, wasm []byte, policy perigee.Policy) packed {
	s.t.Helper()
	dir := s.t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "perigee.toml"), fmt.Appendf(nil, "name = %q\nwasm = \"a.wasm\"\nfiles = \"f\"\n", name), 0o644),
		os.WriteFile(filepath.Join(dir, "a.wasm"), wasm, 0o644),
		os.MkdirAll(filepath.Join(dir, "f", "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "f", "sub", "a.txt"), []byte(name), 0o644),
	); err != nil {
		s.t.Fatal(err)
	}
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	archive, err := bundle.Pack(dir, m)
	if err != nil {
		s.t.Fatal(err)
	}
	m.Placement = policy
	return packed{m, archive}
}

// sign signs the records that make a function live, after what is live now.
func (s *single) sign(p packed) (rev *perigee.Revision, revision, pointer []byte) {
	s.t.Helper()
	cluster := s.m.genesis.Cluster
	_, revision, err := record.Sign(s.operator, cluster, 1, s.gossip.Now(), nil, &record.Revision{Manifest: *p.m, Bundle: p.archive.Digest, Size: perigee.Bytes(p.archive.Size)})
	if err != nil {
		s.t.Fatal(err)
	}
	_, pointer, err = record.Sign(s.operator, cluster, 1, s.gossip.Now(), s.gossip.Heads(p.m.Name), &record.Pointer{Function: p.m.Name, Revision: record.ID(revision)})
	if err != nil {
		s.t.Fatal(err)
	}
	rev = &perigee.Revision{ID: record.RevisionID(record.ID(revision)), Manifest: *p.m, Bundle: p.archive.Digest, Size: perigee.Bytes(p.archive.Size)}
	return rev, revision, pointer
}

// deploy deploys a function the whole way.
func (s *single) deploy(p packed) *perigee.Revision {
	s.t.Helper()
	rev, revision, pointer := s.sign(p)
	if _, err := s.deployer.deploy(s.t.Context(), revision, pointer, p.archive.Open(), func(DeployEvent) {}); err != nil {
		s.t.Fatal(err)
	}
	return rev
}

// declare writes the records only, as if the deploy had gone through other nodes.
func (s *single) declare(p packed) *perigee.Revision {
	s.t.Helper()
	rev, revision, pointer := s.sign(p)
	if _, err := s.gossip.Submit(s.t.Context(), revision, pointer); err != nil {
		s.t.Fatal(err)
	}
	return rev
}

func (s *single) remove(name string) {
	s.t.Helper()
	_, pointer, err := record.Sign(s.operator, s.m.genesis.Cluster, 1, s.gossip.Now(), s.gossip.Heads(name), &record.Pointer{Function: name})
	if err == nil {
		_, err = s.gossip.Submit(s.t.Context(), pointer)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// want requires what the node has of a revision, in its own eyes and in the cluster's.
func (s *single) want(what string, id perigee.RevisionID, warmth perigee.Warmth) {
	s.t.Helper()
	if got := s.rep.warmth(id); got != warmth {
		s.t.Errorf("%s: %s, want %s", what, got, warmth)
	}
	if said := s.View().Observed.Nodes[s.ID()].Revisions[id]; said != warmth {
		s.t.Errorf("%s: the row says %s, want %s", what, said, warmth)
	}
	if _, loaded := s.runtime.Stats(id); loaded != (warmth == perigee.Warm) {
		s.t.Errorf("%s: loaded is %v, want %s", what, loaded, warmth)
	}
}

// wantStored requires which bundles are on the disk.
func (s *single) wantStored(what string, want ...packed) {
	s.t.Helper()
	list, err := s.deployer.store.List()
	if err != nil {
		s.t.Fatal(err)
	}
	if len(list) != len(want) {
		s.t.Errorf("%s: %d bundles on the disk, want %d", what, len(list), len(want))
	}
	for _, p := range want {
		if !s.deployer.store.Has(p.archive.Digest) {
			s.t.Errorf("%s: the bundle of %s is gone", what, p.m.Name)
		}
	}
}

// peer answers the control calls of one node.
type peer func(*http.Request) (*http.Response, error)

func (p peer) RoundTrip(r *http.Request) (*http.Response, error) { return p(r) }

// says answers with a status and a body.
func says(status int, body []byte) peer {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
	}
}

var guest = wasmtest.Answer
