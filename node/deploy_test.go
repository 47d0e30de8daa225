package node_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/node"
)

// operator returns the cluster's operator, acting through a member.
func operator(f *fleet.Fleet, m *fleet.Member) *node.Person {
	p := *f.Operator()
	p.Client = m.Client()
	return &p
}

// login makes a person with a token of this kind and scope, acting through a member.
func login(t *testing.T, f *fleet.Fleet, m *fleet.Member, kind record.TokenKind, scope record.Scope) *node.Person {
	t.Helper()
	token, err := f.Operator().CreateToken(t.Context(), node.TokenSpec{Kind: kind, Scope: scope})
	if err != nil {
		t.Fatal(err)
	}
	in, err := node.Login(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	p, err := node.NewPerson(m.Client(), in.Key, in.Genesis)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// unchanged requires that no node knows a function and that nothing of it stays anywhere.
func unchanged(t *testing.T, f *fleet.Fleet, name string) {
	t.Helper()
	for _, m := range f.Members() {
		if fn := m.View().Desired.Functions[name]; fn != nil {
			t.Errorf("%s knows %s, revision %s", m.ID(), name, fn.Live.ID)
		}
	}
	eventually(t, 20*time.Second, "bundles of "+name+" are let go of", func() error {
		for _, m := range f.Members() {
			if left := bundles(t, m); len(left) > 0 {
				return fmt.Errorf("%s has %v", m.ID(), left)
			}
		}
		return nil
	})
}

// brokenBody ends with an error after some bytes.
type brokenBody struct {
	io.Reader
	err error
}

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

// TestDeployRefused covers deploys that must change nothing and say why.
func TestDeployRefused(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc")
	ctx := t.Context()
	fra := f.Member("fra-1")
	op := f.Operator()
	fn := pack(t, "refused", nil, perigee.Policy{})
	whole, err := io.ReadAll(fn.Open())
	if err != nil {
		t.Fatal(err)
	}
	send := func(p *node.Person, fn function, body io.Reader) error {
		_, err := p.Deploy(ctx, fn.Manifest, fn.Digest, perigee.Bytes(fn.Size), body, nil)
		return err
	}

	wantError(t, "truncated", send(op, fn, bytes.NewReader(whole[:len(whole)/2])), "deploy refused", "nothing was changed", "bundle")
	wantError(t, "changed", send(op, fn, bytes.NewReader(append([]byte{1}, whole[1:]...))), "nothing was changed", "store bundle", "instead")
	wantError(t, "the client fails half way", send(op, fn, brokenBody{bytes.NewReader(whole[:600]), errors.New("disk failure")}), "disk failure")
	notWasm := pack(t, "refused", []byte("#!/bin/sh\necho hello\n"), perigee.Policy{})
	wantError(t, "not Wasm", send(op, notWasm, notWasm.Open()), "nothing was changed", "admit")
	nowhere := pack(t, "refused", nil, perigee.Policy{Pin: []string{"tok"}})
	wantError(t, "a place without a node", send(op, nowhere, nowhere.Open()), `pin = ["tok"]`, "nothing was changed")
	unknown := pack(t, "refused", nil, perigee.Policy{Pin: []string{"atlantis"}})
	wantError(t, "a place that does not exist", send(op, unknown, unknown.Open()), "atlantis")
	tooBig := fn
	tooBig.Archive.Size++
	wantError(t, "wrong size", send(op, tooBig, bytes.NewReader(whole)), "nothing was changed")
	tooBig.Archive.Size--

	stranger, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	nobody := *op
	nobody.Key = stranger
	wantError(t, "unknown key", send(&nobody, fn, bytes.NewReader(whole)), "nothing was changed", "not known")
	scoped := login(t, f, fra, record.TokenDeploy, record.Scope{Functions: []string{"other*"}})
	wantError(t, "outside of the scope", send(scoped, fn, bytes.NewReader(whole)), "nothing was changed", "other*")
	hosted := fn
	hosted.Manifest = new(perigee.Manifest)
	*hosted.Manifest = *fn.Manifest
	hosted.Manifest.Name, hosted.Manifest.Routes = "other1", []perigee.Route{{Host: "www.example.com"}}
	scoped2 := login(t, f, fra, record.TokenDeploy, record.Scope{Functions: []string{"other*"}, Hosts: []string{"*.example.org"}})
	wantError(t, "a host outside of the scope", send(scoped2, hosted, bytes.NewReader(whole)), "www.example.com")

	// Records that do not belong together, or are none.
	rev, ptr := signDeploy(t, op, fn, nil)
	otherRev, otherPtr := signDeploy(t, op, pack(t, "another", nil, perigee.Policy{}), nil)
	flipped := bytes.Clone(rev)
	flipped[len(flipped)-1] ^= 1
	for what, c := range map[string]struct {
		rev, ptr []byte
		words    string
	}{
		"a pointer to another revision": {rev, otherPtr, "revision"},
		"pointer and revision swapped":  {ptr, rev, "pointer"},
		"two revisions":                 {rev, otherRev, "pointer record"},
		"a signature that does not fit": {flipped, ptr, "sign"},
		"no records":                    {nil, nil, "decode record"},
	} {
		_, err := op.Client.Deploy(ctx, c.rev, c.ptr, bytes.NewReader(whole), nil)
		wantError(t, what, err, c.words)
	}
	unchanged(t, f, "refused")

	// What was refused can be mended and deployed, and the revoked key can't.
	deploy(t, f, fn)
	if _, err := op.Revoke(ctx, record.Revoke{Key: record.KeyIDOf(scoped.Key.Public().(ed25519.PublicKey))}); err != nil {
		t.Fatal(err)
	}
	hosted.Manifest.Routes = nil
	wantError(t, "a revoked key", send(scoped, hosted, bytes.NewReader(whole)), "revoked")
}

// signDeploy signs the records of a deploy.
func signDeploy(t *testing.T, p *node.Person, fn function, parents []perigee.Digest) (revision, pointer []byte) {
	t.Helper()
	s, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rev, revision, err := record.Sign(p.Key, p.Cluster, p.Epoch, s.Now, nil, &record.Revision{Manifest: *fn.Manifest, Bundle: fn.Digest, Size: perigee.Bytes(fn.Size)})
	if err != nil {
		t.Fatal(err)
	}
	_, pointer, err = record.Sign(p.Key, p.Cluster, p.Epoch, rev.HLC+1, parents, &record.Pointer{Function: fn.Name, Revision: record.ID(revision)})
	if err != nil {
		t.Fatal(err)
	}
	return revision, pointer
}

// TestDeployInterrupted ends a client in the middle of a deploy: nothing is visible, and the next try
// works, through another node, too.
func TestDeployInterrupted(t *testing.T) {
	t.Parallel()
	f := cluster(t, "wdc", "fra", "mad")
	op := f.Operator() // through wdc, which may not have the bundle
	fn := pack(t, "cut", nil, perigee.Policy{Residency: []string{"eu"}})
	whole, err := io.ReadAll(fn.Open())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	go func() {
		_, _ = pw.Write(whole[:len(whole)-1])
		cancel()
		<-ctx.Done()
		pw.CloseWithError(ctx.Err())
	}()
	if _, err := op.Deploy(ctx, fn.Manifest, fn.Digest, perigee.Bytes(fn.Size), pr, nil); err == nil {
		t.Fatal("a deploy whose client went away worked")
	}
	unchanged(t, f, "cut")
	if left := bundles(t, f.Member("wdc-1")); len(left) > 0 {
		t.Errorf("the entry outside of the residency has %v", left)
	}
	d, events, err := deployAs(t.Context(), operator(f, f.Member("mad-1")), fn)
	if err != nil || !d.Changed || len(d.Stored) < 2 {
		t.Fatalf("deploy again: %+v, %v", d, err)
	}
	steps := ""
	for _, e := range events {
		steps += e.Step + " "
	}
	if steps != "admitted copied " {
		t.Errorf("steps %q", steps)
	}
	warm(t, f, "cut", d.Revision)
	again, _, err := deployAs(t.Context(), op, fn)
	if err != nil || again.Changed || again.Revision != d.Revision {
		t.Errorf("deploy of what is live: %+v, %v", again, err)
	}
	// Another revision of the same bundle: its bytes are there, and are not needed again.
	fn.Manifest.Env = map[string]string{"A": "b"}
	silent, sender := io.Pipe()
	defer sender.Close()
	next, err := op.Deploy(t.Context(), fn.Manifest, fn.Digest, perigee.Bytes(fn.Size), silent, nil)
	if err != nil || !next.Changed {
		t.Errorf("deploy of a bundle that is there: %+v, %v", next, err)
	}
	warm(t, f, "cut", next.Revision)
}

// TestTwoDeploys deploys a function from two sides at once, again and again: one revision is live
// everywhere, and whoever lost was told or is listed.
func TestTwoDeploys(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc")
	first := deploy(t, f, pack(t, "twice", nil, perigee.Policy{}))
	told, listed := 0, 0
	for round := range 4 {
		var wg sync.WaitGroup
		revs, errs := make([]perigee.RevisionID, 2), make([]error, 2)
		for i := range 2 {
			fn := pack(t, "twice", nil, perigee.Policy{})
			fn.Manifest.Env = map[string]string{"ROUND": fmt.Sprint(round, i)}
			by := f.Members()[i*(round%2)] // the same node, or two
			wg.Go(func() {
				var d node.Deployed
				d, _, errs[i] = deployAs(t.Context(), operator(f, by), fn)
				revs[i] = d.Revision
			})
		}
		wg.Wait()
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
				continue
			}
			wantError(t, "the second deploy", err, "nothing was changed", "somebody else changed twice")
			told++
		}
		if ok == 0 {
			t.Fatalf("nobody won: %v", errs)
		}
		eventually(t, 10*time.Second, "one revision is live everywhere", func() error {
			if err := f.Settle(t.Context()); err != nil {
				return err
			}
			live := f.Members()[0].View().Desired.Functions["twice"]
			other := f.Members()[1].View().Desired.Functions["twice"]
			if live.Live.ID != other.Live.ID || !slices.Contains(revs, live.Live.ID) {
				return fmt.Errorf("%s and %s", live.Live.ID, other.Live.ID)
			}
			if len(live.Conflicts) != ok-1 {
				return fmt.Errorf("%d deploys worked, conflicts %+v", ok, live.Conflicts)
			}
			return nil
		})
		listed += ok - 1
	}
	t.Logf("%d were told, %d are listed", told, listed)
	last := deploy(t, f, pack(t, "twice", nil, perigee.Policy{}))
	if fn := f.Members()[0].View().Desired.Functions["twice"]; fn.Live.ID != last.Revision || len(fn.Conflicts) > 0 || last.Revision == first.Revision {
		t.Errorf("a deploy that saw all of it: %+v", fn)
	}
}

// TestDeployAroundDead deploys while a holder is down: first one that is only planned, then one that
// the policy names.
func TestDeployAroundDead(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "wdc", "syd")
	pinned := pack(t, "pinned", nil, perigee.Policy{Pin: []string{"fra", "wdc"}})
	deploy(t, f, pinned)
	free := pack(t, "free", nil, perigee.Policy{})
	deploy(t, f, free)

	wdc := f.Member("wdc-1")
	if err := wdc.Kill(); err != nil {
		t.Fatal(err)
	}
	// wdc is not known to be dead yet.
	free.Manifest.Env = map[string]string{"V": "2"}
	began := time.Now()
	d, events, err := deployAs(t.Context(), f.Operator(), free)
	if err != nil {
		t.Fatalf("deploy with a holder that died a moment ago: %v (%+v)", err, events)
	}
	t.Logf("%v: %+v", time.Since(began), events)
	warm(t, f, "free", d.Revision)

	eventually(t, 20*time.Second, "wdc counts as dead", func() error {
		if s := f.Member("fra-1").View().Observed.Nodes["wdc-1"].State; s != perigee.NodeDead {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	pinned.Manifest.Env = map[string]string{"V": "2"}
	d, _, err = deployAs(t.Context(), f.Operator(), pinned)
	if err != nil {
		t.Fatalf("a repair must not wait for a region: %v", err)
	}
	moved := pack(t, "pinned", nil, perigee.Policy{Pin: []string{"syd", "wdc"}})
	_, _, err = deployAs(t.Context(), f.Operator(), moved)
	wantError(t, "a new placement that can't be had", err, `pin = ["syd", "wdc"]`, "nothing was changed")

	if err := f.Restart(t.Context(), wdc); err != nil {
		t.Fatal(err)
	}
	warm(t, f, "pinned", d.Revision)
}
