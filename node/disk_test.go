package node_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

// TestDeployToOther deploys through a node whose disk is full, and whose peers do not all know that yet:
// another one takes the bundle, what was on the full one stays, and it is chosen again when it has room.
func TestDeployToOther(t *testing.T) {
	t.Parallel()
	f := cluster(t, "fra", "fra")
	first, other := f.Member("fra-1"), f.Member("fra-2")
	before := pack(t, "before", nil, perigee.Policy{})
	deploy(t, f, before)
	holders := func(name string) []perigee.NodeID {
		fn, _, err := other.Client().Function(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return fn.Plan.Holders
	}
	both := []perigee.NodeID{first.ID(), other.ID()}
	eventually(t, 10*time.Second, "both hold the first", func() error {
		fn, _, err := other.Client().Function(t.Context(), "before")
		if err == nil && !fn.Ready() {
			err = fmt.Errorf("%+v", fn.Holders)
		}
		return err
	})

	// Too small for the bundle, but not full: the plan still names it.
	node.SetFree(first.Node(), 64*perigee.MiB+1)
	node.LookAtDisk(first.Node())
	eventually(t, 10*time.Second, "the plan names both", func() error {
		if got := holders("before"); !slices.Equal(got, both) {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	deploy(t, f, pack(t, "tight", nil, perigee.Policy{}))
	if left := bundles(t, first); len(left) != 1 {
		t.Errorf("the node without room has %v", left)
	}

	node.SetFree(first.Node(), perigee.MiB)
	node.LookAtDisk(first.Node())
	eventually(t, 10*time.Second, "its peer knows", func() error {
		if !other.View().Observed.Nodes[first.ID()].Full {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	deploy(t, f, pack(t, "after", nil, perigee.Policy{}))
	if got := holders("after"); !slices.Equal(got, both[1:]) {
		t.Errorf("holders of a new function: %v, want %s alone", got, other.ID())
	}
	if got := holders("before"); !slices.Equal(got, both) {
		t.Errorf("holders of the one before: %v, want %v", got, both)
	}

	node.SetFree(first.Node(), perigee.GiB)
	eventually(t, 20*time.Second, "it takes new ones again", func() error {
		fn, _, err := other.Client().Function(t.Context(), "after")
		if err == nil && (!fn.Ready() || !slices.Equal(fn.Plan.Holders, both)) {
			err = fmt.Errorf("%+v", fn.Holders)
		}
		return err
	})
}
