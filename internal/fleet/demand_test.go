package fleet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/placement"
)

// TestDemand has clients call a function where no node holds it: a node there becomes a holder, every node
// says so and why, and it answers them. It outlives the node that decided it.
func TestDemand(t *testing.T) {
	t.Parallel()
	f := start(t, false, "fra", "wdc", "syd", "sao")
	m, archive := hello(t, perigee.Policy{})
	rev := deploy(t, f, m, archive)
	var near *fleet.Member
	for _, member := range f.Members()[1:] { // the first one answers the operator
		if member.View().Observed.Nodes[member.ID()].Revisions[rev] == perigee.Absent {
			near = member
		}
	}
	eventually(t, 60*time.Second, "the callers' node is a holder, and warm", func() error {
		for range 10 {
			if r := get(t, f, near); r.status != 200 {
				return fmt.Errorf("%+v", r)
			}
		}
		return forDemand(f, near)
	})
	eventually(t, 30*time.Second, "it answers", func() error {
		if r := get(t, f, near); r.receipt.Node != near.ID() || r.receipt.Start != "warm" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	var decider *fleet.Member
	for _, member := range f.Members() {
		if len(member.View().Observed.Nodes[member.ID()].Optional["hello"]) > 0 {
			decider = member
		}
	}
	if decider == nil {
		t.Fatal("no node says that it decided it")
	}
	if decider == near {
		return // its end would be another matter
	}
	if err := decider.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "another decides, and leaves it where it is", func() error {
		if err := forDemand(f, near); err != nil {
			t.Error(err) // at no moment
			return nil
		}
		for id, p := range near.View().Observed.Nodes {
			if id != decider.ID() && len(p.Optional["hello"]) > 0 {
				return nil
			}
		}
		return fmt.Errorf("nobody took over from %s", decider.ID())
	})
}

// forDemand reports what keeps a node from being a holder for its callers, by the plan of any node.
func forDemand(f *fleet.Fleet, near *fleet.Member) error {
	for _, member := range f.Members() {
		if !member.Running() {
			continue
		}
		v := member.View()
		fn := v.Desired.Functions["hello"]
		plan := placement.NewPlanner(v).Plan(fn)
		for _, verdict := range plan.Verdicts {
			if verdict.Node != near.ID() {
				continue
			}
			if !verdict.Chosen || verdict.Reason != placement.ReasonForDemand || verdict.Gain == 0 {
				return fmt.Errorf("%s: %+v", member.ID(), verdict)
			}
		}
		if w := v.Observed.Nodes[near.ID()].Revisions[fn.Live.ID]; w != perigee.Warm {
			return fmt.Errorf("%s sees it %v", member.ID(), w)
		}
	}
	return nil
}
