package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
)

// TestRollback goes back to what served before, with the hard rules of now and with those of then.
func TestRollback(t *testing.T) {
	f := cluster(t, "fra", "wdc")
	op := f.Operator()
	first := deploy(t, f, pack(t, "shop", wasmtest.Answer("one"), perigee.Policy{Prefer: []string{"fra"}}))
	if _, err := op.Rollback(t.Context(), "shop", node.DeployOptions{}); err == nil {
		t.Error("rolled back from the first revision")
	}
	deploy(t, f, pack(t, "shop", wasmtest.Answer("two"), perigee.Policy{Residency: []string{"wdc"}}))

	back, err := op.Rollback(t.Context(), "shop", node.DeployOptions{})
	if err != nil || back.Revision != first.Revision || !back.Changed || len(back.Stored) == 0 {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	warm(t, f, "shop", first.Revision)
	s := status(t, op, "shop")
	if p := s.Policy(); !slices.Equal(p.Residency, []string{"wdc"}) || !slices.Equal(p.Prefer, []string{"fra"}) {
		t.Errorf("policy %+v, want the soft rules of the first and the hard ones of the second", p)
	}
	eventually(t, 5*time.Second, "nobody holds it against the residency", func() error {
		for _, h := range status(t, op, "shop").Holders {
			if h.Region != "wdc" && h.Warmth != perigee.Absent {
				return fmt.Errorf("%s holds it", h.Node)
			}
		}
		return nil
	})
	served(t, f, "shop", "one")
	if s.Revisions[0].State != node.RevisionKept || s.Revisions[1].State != node.RevisionLive {
		t.Errorf("revisions %+v", s.Revisions)
	}

	// A deploy of a manifest with other hard rules must say which count.
	third := pack(t, "shop", wasmtest.Answer("three"), perigee.Policy{})
	_, _, err = deployAs(t.Context(), op, third)
	wantError(t, "deploy over rules set apart", err, "--placement keep")
	body := third.Open()
	defer body.Close()
	d, err := op.DeployWith(t.Context(), node.DeployOptions{Placement: node.PlacementKeep}, third.Manifest, third.Digest, perigee.Bytes(third.Size), body, nil)
	if err != nil {
		t.Fatal(err)
	}
	warm(t, f, "shop", d.Revision)
	if p := status(t, op, "shop").Policy(); !slices.Equal(p.Residency, []string{"wdc"}) {
		t.Errorf("policy %+v, want the kept residency", p)
	}

	// And back to the first with the rules it was deployed with.
	if _, err := op.Promote(t.Context(), "shop", first.Revision, node.DeployOptions{Placement: node.PlacementManifest}); err != nil {
		t.Fatal(err)
	}
	warm(t, f, "shop", first.Revision)
	if p := status(t, op, "shop").Policy(); len(p.Residency) != 0 {
		t.Errorf("policy %+v, want the revision's own", p)
	}
	if again, err := op.Promote(t.Context(), "shop", first.Revision, node.DeployOptions{Placement: node.PlacementManifest}); err != nil || again.Changed {
		t.Errorf("promote what is live: %+v, %v", again, err)
	}
	_, err = op.Promote(t.Context(), "shop", "000000000000", node.DeployOptions{})
	wantError(t, "promote an unknown revision", err, "perigee show shop")
}

func status(t *testing.T, p *node.Person, name string) *node.FunctionStatus {
	t.Helper()
	s, _, err := p.Function(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestIfRevision deploys only in the place of what is expected.
func TestIfRevision(t *testing.T) {
	f := cluster(t, "fra")
	op := f.Operator()
	try := func(answer string, expect perigee.RevisionID) (node.Deployed, error) {
		fn := pack(t, "shop", wasmtest.Answer(answer), perigee.Policy{})
		body := fn.Open()
		defer body.Close()
		return op.DeployWith(t.Context(), node.DeployOptions{If: expect}, fn.Manifest, fn.Digest, perigee.Bytes(fn.Size), body, nil)
	}
	_, err := try("one", "0123456789ab")
	wantError(t, "in the place of one that is not there", err, "revision none is live")
	first, err := try("one", node.NoRevision)
	if err != nil {
		t.Fatal(err)
	}
	_, err = try("two", node.NoRevision)
	wantError(t, "again as the first", err, string(first.Revision), "is live, not none")
	if _, err = try("two", first.Revision); err != nil {
		t.Error(err)
	}
}
