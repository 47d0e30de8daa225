package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

// load sends requests for a function through some members until it is stopped, and fails the test if
// one of them fails.
func load(t *testing.T, f *fleet.Fleet, name string, through ...*fleet.Member) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var sent, failed atomic.Int64
	for _, m := range through {
		wg.Go(func() {
			client := f.Client(m)
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				resp, err := client.Get("https://" + name + ".localhost/")
				if err != nil {
					t.Errorf("request %d through %s: %v", sent.Load(), m.ID(), err)
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				sent.Add(1)
				if (err != nil || resp.StatusCode != 200) && failed.Add(1) <= 5 {
					t.Errorf("request %d through %s: %d %.300s %v", sent.Load(), m.ID(), resp.StatusCode, b, err)
				}
				pauseFor(ctx, 2*time.Millisecond) // the machine has other work
			}
		})
	}
	return sync.OnceValue(func() int {
		cancel()
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of %d requests failed", n, sent.Load())
		}
		return int(sent.Load())
	})
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// TestRedeployUnderLoad deploys new revisions while requests come in everywhere: none fails, though
// the nodes hear of a revision at different times.
func TestRedeployUnderLoad(t *testing.T) {
	f, err := fleet.Start(t.Context(), fleet.Config{
		Dir: t.TempDir(), CodeDir: codeDir, Regions: []perigee.Region{"fra", "lon", "wdc"}, Admit: admit, Logger: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fn := pack(t, "steady", nil, perigee.Policy{})
	deploy(t, f, fn)
	stop := load(t, f, "steady", f.Members()...)
	defer stop()
	for i := range 4 {
		fn.Manifest.Env = map[string]string{"REVISION": fmt.Sprint(i)}
		d, _, err := deployAs(t.Context(), operator(f, f.Members()[i%3]), fn)
		if err != nil {
			t.Fatal(err)
		}
		warm(t, f, "steady", d.Revision)
	}
	t.Logf("%d requests", stop())
}

// slow is a request whose body is not finished yet.
type slow struct {
	body *io.PipeWriter
	done chan error
	resp string
	from perigee.NodeID
}

// begin sends the beginning of a request to the function echo.
func begin(t *testing.T, f *fleet.Fleet, m *fleet.Member) *slow {
	t.Helper()
	pr, pw := io.Pipe()
	s := &slow{body: pw, done: make(chan error, 1)}
	go func() {
		client := f.Client(m)
		defer client.CloseIdleConnections()
		resp, err := client.Post("https://echo.localhost/slow", "text/plain", pr)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			s.resp = string(b)
			receipt, _ := edgeproxy.ReceiptOf(resp.Header)
			s.from = receipt.Node
			if resp.StatusCode != 200 {
				err = fmt.Errorf("%d %s", resp.StatusCode, b)
			}
		}
		pr.CloseWithError(errors.New("answered"))
		s.done <- err
	}()
	if _, err := io.WriteString(pw, "first "); err != nil {
		t.Fatal(err)
	}
	return s
}

// finish sends the rest and requires the whole answer.
func (s *slow) finish(t *testing.T, what string) {
	t.Helper()
	if _, err := io.WriteString(s.body, "last"); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	s.body.Close()
	select {
	case err := <-s.done:
		if err != nil || s.resp != "POST /slow\nfirst last" {
			t.Errorf("%s: %q, %v", what, s.resp, err)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%s: no answer", what)
	}
}

// TestDrainUnderLoad stops a node under load: no request through another node fails, and those that
// run on the node come to their end.
func TestDrainUnderLoad(t *testing.T) {
	f := cluster(t, "fra", "wdc", "syd")
	deploy(t, f, pack(t, "busy", nil, perigee.Policy{Pin: []string{"wdc", "syd"}, Prefer: []string{"wdc"}}))
	deploy(t, f, pack(t, "single", nil, perigee.Policy{Residency: []string{"na", "as", "oc"}, Prefer: []string{"wdc"}, Max: 1}))
	deploy(t, f, pack(t, "echo", node.EchoGuest(), perigee.Policy{Pin: []string{"wdc", "syd"}, Prefer: []string{"wdc"}}))
	fra, wdc := f.Member("fra-1"), f.Member("wdc-1")
	if a, err := get(t.Context(), f, fra, "single"); err != nil || a.receipt.Node != "wdc-1" {
		t.Fatalf("%+v, %v", a, err)
	}
	direct, hop := begin(t, f, wdc), begin(t, f, fra)
	eventually(t, 10*time.Second, "both requests run in wdc", func() error {
		if l := wdc.View().Observed.Nodes["wdc-1"].Load; l.InFlight < 2 {
			return fmt.Errorf("%+v", l)
		}
		return nil
	})
	stops := []func() int{load(t, f, "busy", fra, f.Member("syd-1")), load(t, f, "single", fra)}
	stopped := make(chan error, 1)
	go func() { stopped <- wdc.Stop() }()
	eventually(t, 5*time.Second, "fra sees that wdc drains", func() error {
		if p := fra.View().Observed.Nodes["wdc-1"]; p == nil || !p.Draining {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	pauseFor(t.Context(), time.Second) // under load
	direct.finish(t, "a client of the node itself")
	hop.finish(t, "a client of another node")
	if direct.from != "wdc-1" || hop.from != "wdc-1" {
		t.Errorf("they ran on %s and %s", direct.from, hop.from)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	pauseFor(t.Context(), 300*time.Millisecond) // and under load without it
	for _, stop := range stops {
		t.Logf("%d requests", stop())
	}
	if _, err := get(t.Context(), f, wdc, "busy"); err == nil {
		t.Error("the stopped node answers")
	}
	if p := fra.View().Observed.Nodes["wdc-1"]; p.State != perigee.NodeLeft {
		t.Errorf("wdc is %s, and said goodbye", p.State)
	}
}

// TestKilled kills a node that has just acknowledged, and all others: it comes back with everything.
func TestKilled(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc", "syd")
	ctx := t.Context()
	wdc := f.Member("wdc-1")
	op := operator(f, wdc)
	token, err := op.CreateToken(ctx, node.TokenSpec{Kind: record.TokenDeploy})
	if err != nil {
		t.Fatal(err)
	}
	in, err := node.Login(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.AddRegion(ctx, perigee.RegionInfo{Code: "moon", City: "Luna", Country: "XX"}); err != nil {
		t.Fatal(err)
	}
	d, _, err := deployAs(ctx, op, pack(t, "kept", nil, perigee.Policy{Pin: []string{"wdc"}}))
	if err != nil || len(d.Stored) < 2 || d.Stored[0] != "wdc-1" {
		t.Fatalf("%+v, %v", d, err)
	}
	if err := wdc.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if a, err := get(ctx, f, f.Member("fra-1"), "kept"); err != nil || a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, `pin = ["wdc"]`) || time.Since(began) > 2*time.Second {
		t.Errorf("%+v, %v after %v", a, err, time.Since(began))
	}
	for _, id := range []perigee.NodeID{"fra-1", "syd-1"} {
		if err := f.Member(id).Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Restart(ctx, wdc); err != nil {
		t.Fatal(err)
	}
	v := wdc.View()
	if fn := v.Desired.Functions["kept"]; fn == nil || fn.Live.ID != d.Revision {
		t.Errorf("function: %+v", fn)
	}
	if _, ok := v.Desired.Regions.Lookup("moon"); !ok {
		t.Error("the region is lost")
	}
	if tokens, err := wdc.Client().Tokens(ctx); err != nil || !slices.ContainsFunc(tokens, func(s node.TokenStatus) bool { return s.Redeemed == string(in.ID) }) {
		t.Errorf("tokens %+v, %v", tokens, err)
	}
	eventually(t, 10*time.Second, "it serves alone", func() error {
		a, err := get(ctx, f, wdc, "kept")
		if err == nil && (a.status != 200 || a.body != "kept") {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	eventually(t, 10*time.Second, "it is ready, though the others are down", func() error {
		s, err := wdc.Client().Status(ctx)
		if err == nil && !s.Ready {
			err = errors.New(s.Why)
		}
		return err
	})
	for _, id := range []perigee.NodeID{"fra-1", "syd-1"} {
		if err := f.Restart(ctx, f.Member(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	warm(t, f, "kept", d.Revision)
}

// TestRemoved removes a member: it is cut off within seconds, ends, and does not start again.
func TestRemoved(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc", "syd")
	ctx := t.Context()
	d := deploy(t, f, pack(t, "moves", nil, perigee.Policy{Prefer: []string{"wdc"}}))
	fra, wdc := f.Member("fra-1"), f.Member("wdc-1")
	stop := load(t, f, "moves", fra)
	began := time.Now()
	if _, err := f.Operator().Revoke(ctx, record.Revoke{Node: "wdc-1"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "nobody sees it any more", func() error {
		for _, m := range []*fleet.Member{fra, f.Member("syd-1")} {
			if p := m.View().Observed.Nodes["wdc-1"]; p != nil {
				return fmt.Errorf("%s sees it %s", m.ID(), p.State)
			}
		}
		return nil
	})
	t.Logf("cut off after %v", time.Since(began))
	limit, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := wdc.Wait(limit); !errors.Is(err, node.ErrRemoved) {
		t.Errorf("the removed node: %v", err)
	}
	t.Logf("ended after %v; %d requests", time.Since(began), stop())
	wantError(t, "start again", f.Restart(ctx, wdc), "was removed from the cluster", "join again as another node")
	warm(t, f, "moves", d.Revision)
	if a, err := get(ctx, f, fra, "moves"); err != nil || a.status != 200 {
		t.Errorf("%+v, %v", a, err)
	}
}

// TestFourth: a node that is no signer serves HTTPS, by a certificate that a signer made, and
// fetches what only it is to hold.
func TestFourth(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc", "syd", "tok")
	tok := f.Member("tok-1")
	if tok.Node().Claims().HasRole(perigee.RoleSigner) {
		t.Fatal("the fourth node is a signer")
	}
	fn := pack(t, "far", nil, perigee.Policy{Pin: []string{"tok"}})
	deploy(t, f, fn)
	if a, err := get(t.Context(), f, tok, "far"); err != nil || a.status != 200 || a.receipt.Node != "tok-1" {
		t.Errorf("%+v, %v", a, err)
	}
	for _, m := range f.Members() {
		if stored := bundles(t, m); len(stored) > 0 != (m == tok) {
			t.Errorf("%s stores %v", m.ID(), stored)
		}
	}
	// Without signers the host that has a certificate goes on, and a new host waits.
	for _, m := range f.Members()[:3] {
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := get(t.Context(), f, tok, "far"); err != nil || a.status != 200 {
		t.Errorf("without signers: %+v, %v", a, err)
	}
	if _, err := get(t.Context(), f, tok, "unknown"); err == nil {
		t.Error("a host that no function answers got a certificate")
	}
}

// TestRescue drains the only holder of a function: others take over before it lets go.
func TestRescue(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc", "syd")
	d := deploy(t, f, pack(t, "one", nil, perigee.Policy{Max: 1}))
	var holder *fleet.Member
	var others []*fleet.Member
	for _, m := range f.Members() {
		if m.View().Observed.Nodes[m.ID()].Revisions[d.Revision] == perigee.Warm {
			holder = m
		} else {
			others = append(others, m)
		}
	}
	stop := load(t, f, "one", others...)
	if err := holder.Client().Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it runs elsewhere", func() error {
		a, err := get(t.Context(), f, others[0], "one")
		if err == nil && (a.status != 200 || a.receipt.Node == holder.ID()) {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	eventually(t, 20*time.Second, "one other has it", func() error {
		s, _, err := others[0].Client().Function(t.Context(), "one")
		if err == nil && (!s.Ready() || len(s.Plan.Holders) != 1 || s.Plan.Holders[0] == holder.ID()) {
			err = fmt.Errorf("%+v", s.Holders)
		}
		return err
	})
	t.Logf("%d requests", stop())
	if s, err := holder.Client().Status(t.Context()); err != nil || s.Ready || s.Why != "draining" {
		t.Errorf("%+v, %v", s, err)
	}
}
