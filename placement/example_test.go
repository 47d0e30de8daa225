package placement_test

import (
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// view is a cluster of three nodes, of which the one in Frankfurt and the one in Washington have
// revision a1 loaded.
func view() *perigee.View {
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: perigee.BuiltinRegions()},
		Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}},
	}
	for id, warmth := range map[perigee.NodeID]perigee.Warmth{"fra-1": perigee.Warm, "syd-1": perigee.Absent, "wdc-1": perigee.Warm} {
		v.Observed.Nodes[id] = &perigee.Peer{
			NodeClaims: perigee.NodeClaims{ID: id, Region: perigee.Region(id[:3])},
			Row:        perigee.Row{Node: id, Revisions: map[perigee.RevisionID]perigee.Warmth{"a1": warmth}},
			State:      perigee.NodeAlive,
		}
	}
	return v
}

func hello(p perigee.Policy) *perigee.Function {
	return &perigee.Function{Name: "hello", Live: &perigee.Revision{ID: "a1", Manifest: perigee.Manifest{Name: "hello", Placement: p}}}
}

func ExampleAllowed() {
	policy := &perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"label:disk=shared"}}
	for _, n := range []perigee.NodeClaims{
		{ID: "fra-1", Region: "fra"},
		{ID: "fra-2", Region: "fra", Labels: map[string]string{"disk": "shared"}},
		{ID: "wdc-1", Region: "wdc"},
	} {
		rule, ok := placement.Allowed(policy, n, perigee.BuiltinRegions())
		fmt.Printf("%s %v %q\n", n.ID, ok, rule)
	}
	// Output:
	// fra-1 true ""
	// fra-2 false "forbid = [\"label:disk=shared\"]"
	// wdc-1 false "residency = [\"eu\"]"
}

func ExampleCheck() {
	err := placement.Check("hello", &perigee.Policy{Residency: []string{"eu"}, Pin: []string{"fra", "wdc"}}, perigee.BuiltinRegions())
	fmt.Println(err)
	// Output:
	// pin: "wdc" lies outside residency = ["eu"]: remove the entry or widen the residency
}

func ExamplePlanFunction() {
	fn := hello(perigee.Policy{Forbid: []string{"na"}, Warm: map[string]int{"fra": 2}})
	v := view()
	plan := placement.PlanFunction(fn, v.Observed.Nodes, v.Desired.Regions)
	fmt.Println("holders:", plan.Holders)
	for _, verdict := range plan.Verdicts {
		fmt.Printf("%s (%s): %s\n", verdict.Node, verdict.Reason, verdict.Text())
	}
	for _, u := range plan.Unsatisfied {
		fmt.Println("unsatisfied:", u)
	}
	// Output:
	// holders: [fra-1 syd-1]
	// fra-1 (kept-warm): holds it warm, warm = { fra = 2 }: warm asks for it
	// syd-1 (spread): holds it, chosen by spread and hashing
	// wdc-1 (not-allowed): excluded by forbid = ["na"]
	// unsatisfied: warm = { fra = 2 }: 1 of the 2 nodes asked for in fra can hold it; start one, or join one with: perigee token create --region fra
}

func ExampleRoute() {
	fact := func(id perigee.NodeID) placement.Fact {
		rtt := map[perigee.NodeID]time.Duration{"fra-1": 250 * time.Millisecond, "wdc-1": 214 * time.Millisecond}[id]
		return placement.Fact{RTT: rtt, Measured: rtt > 0}
	}
	decide := func(p perigee.Policy, steer placement.Steer) {
		d := placement.Demand{Function: hello(p), Entry: "syd-1", Steer: steer}
		decision := placement.Route(d, view(), fact, time.Now(), 0)
		if r := decision.Refusal; r != nil {
			fmt.Println(r.Status, r.Detail)
			return
		}
		best := decision.Candidates[0]
		fmt.Println(best.Node, best.Score.Way, best.Reason)
	}
	decide(perigee.Policy{}, placement.Steer{})
	decide(perigee.Policy{Residency: []string{"eu"}}, placement.Steer{})
	decide(perigee.Policy{}, placement.Steer{Mode: placement.SteerPrefer, Place: "fra"})
	decide(perigee.Policy{Residency: []string{"eu"}}, placement.Steer{Mode: placement.SteerForce, Place: "wdc"})
	decide(perigee.Policy{Pin: []string{"ams"}}, placement.Steer{})
	// Output:
	// wdc-1 214ms nearest-warm
	// fra-1 250ms only-allowed
	// fra-1 250ms client-preferred
	// 403 the client forced wdc, where residency = ["eu"] allows no node; the nearest node it excludes is wdc-1 in wdc, 214 ms away
	// 503 pin = ["ams"] allows no node of this cluster; the nearest node it excludes is syd-1 in syd, which took the request
}
