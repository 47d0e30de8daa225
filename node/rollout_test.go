package node_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// TestBadRevisionStops deploys a revision whose guest traps: it stops on the one node that tries it, and
// clients of every node get the answer of the one before, with no operator.
func TestBadRevisionStops(t *testing.T) {
	f := clusterWith(t, fleet.Config{Regions: []perigee.Region{"fra", "fra", "wdc"}, Trial: time.Minute})
	op := f.Operator()
	first := pack(t, "shop", wasmtest.Answer("good"), perigee.Policy{Pin: []string{"fra", "wdc"}, Warm: map[string]int{"fra": 2, "wdc": 1}})
	body := first.Open()
	defer body.Close()
	if _, err := op.DeployWith(t.Context(), node.DeployOptions{Rollout: placement.RolloutAll}, first.Manifest, first.Digest, perigee.Bytes(first.Size), body, nil); err != nil {
		t.Fatal(err)
	}
	served(t, f, "shop", "good")
	bad := pack(t, "shop", wasmtest.Trap(), first.Placement)
	d, _, err := deployAs(t.Context(), op, bad)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "stopped", func() error {
		for _, m := range f.Members() {
			get(t.Context(), f, m, "shop") // some of these meet the bad revision
		}
		s := status(t, op, "shop")
		if s.Rollout == nil || s.Rollout.Stage != placement.StageStopped {
			return fmt.Errorf("rollout %+v", s.Rollout)
		}
		return nil
	})
	served(t, f, "shop", "good")
	s := status(t, op, "shop")
	tried := 0
	for _, h := range s.Holders {
		if h.Trial > perigee.Untried {
			tried++
		}
	}
	if s.Live.ID != d.Revision || tried != 1 {
		t.Errorf("%s is live, tried on %d nodes, want %s tried on one: %+v", s.Live.ID, tried, d.Revision, s.Holders)
	}

	// What failed goes on only when somebody insists.
	if _, err := op.Promote(t.Context(), "shop", d.Revision, node.DeployOptions{}); err != nil {
		t.Fatal(err)
	}
	served(t, f, "shop", "good")
}

// TestGoodRevisionSpreads: a revision goes from one node to its region and to all, by time alone.
func TestGoodRevisionSpreads(t *testing.T) {
	f := cluster(t, "fra", "fra", "wdc")
	policy := perigee.Policy{Warm: map[string]int{"fra": 2, "wdc": 1}}
	deploy(t, f, pack(t, "shop", wasmtest.Answer("one"), policy))
	two := pack(t, "shop", wasmtest.Answer("two"), policy)
	two.Health = "/healthz"
	deploy(t, f, two)
	served(t, f, "shop", "two")
	eventually(t, 10*time.Second, "over", func() error {
		if s := status(t, f.Operator(), "shop"); s.Rollout != nil {
			return fmt.Errorf("%s", s.Rollout.Text())
		}
		return nil
	})
}
