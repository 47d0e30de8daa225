package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// rolloutWorld writes down nodes and what they say of revision "new" of a function, which serves "old"
// besides: "fra-1:passed ams-1:trying*" where * is a node that fell silent.
func rolloutWorld(text string) (map[perigee.NodeID]*perigee.Peer, *perigee.Function) {
	nodes := map[perigee.NodeID]*perigee.Peer{}
	for _, word := range strings.Fields(text) {
		name, say, _ := strings.Cut(word, ":")
		region, _, _ := strings.Cut(name, "-")
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.ID, p.Region = perigee.NodeID(name), perigee.Region(region)
		p.Revisions = map[perigee.RevisionID]perigee.Warmth{"old": perigee.Warm}
		p.Trials = map[perigee.RevisionID]perigee.Trial{}
		say, silent := strings.CutSuffix(say, "*")
		if silent {
			p.State = perigee.NodeDead
		}
		switch say {
		case "passed":
			p.Revisions["new"] = perigee.Warm
		case "held":
			p.Revisions["new"], p.Trials["new"] = perigee.Held, perigee.Untried
		case "trying":
			p.Revisions["new"], p.Trials["new"] = perigee.Warm, perigee.Trying
		case "failed":
			p.Trials["new"] = perigee.TrialFailed
		}
		nodes[p.ID] = p
	}
	old, live := &perigee.Revision{ID: "old"}, &perigee.Revision{ID: "new"}
	return nodes, &perigee.Function{Name: "f", Live: live, Kept: []*perigee.Revision{old}, Placement: &perigee.Policy{Pin: []string{"eu"}}}
}

func rolloutOf(fn *perigee.Function, plan Plan, nodes map[perigee.NodeID]*perigee.Peer) *Rollout {
	v := &perigee.View{Desired: &perigee.Desired{Regions: perigee.BuiltinRegions()}, Observed: &perigee.Observed{Nodes: nodes}}
	return NewRollouts(v).Of(fn, plan, "")
}

// TestRollout states for each picture of a cluster which nodes run the new revision; the others run the old.
func TestRollout(t *testing.T) {
	holders := []string{"ams-1", "ams-2", "fra-1", "fra-2"}
	for _, tt := range []struct {
		name, nodes string
		stage       Stage
		runs        string // who runs the new one
	}{
		{"nobody has it", "ams-1: ams-2: fra-1: fra-2:", StageOne, "ams-1"},
		{"one has it", "ams-1: ams-2: fra-1:held fra-2:", StageOne, "fra-1"},
		{"one tries it", "ams-1:held ams-2: fra-1: fra-2:trying", StageOne, "fra-2"},
		{"one died trying it: no other tries", "ams-1:held ams-2: fra-1: fra-2:trying*", StageOne, "fra-2"},
		{"passed on one", "ams-1:held ams-2: fra-1:passed fra-2:", StageRegion, "fra-1 fra-2"},
		{"the region tries it", "ams-1:held ams-2: fra-1:passed fra-2:trying", StageRegion, "fra-1 fra-2"},
		{"the second one died trying it", "ams-1:held ams-2: fra-1:passed fra-2:trying*", StageRegion, "fra-1 fra-2"},
		{"passed in the region", "ams-1:held ams-2: fra-1:passed fra-2:passed", StageAll, "ams-1 ams-2 fra-1 fra-2"},
		{"passed in two regions", "ams-1:passed ams-2: fra-1:passed fra-2:", StageAll, "ams-1 ams-2 fra-1 fra-2"},
		{"passed everywhere", "ams-1:passed ams-2:passed fra-1:passed fra-2:passed", "", "ams-1 ams-2 fra-1 fra-2"},
		{"failed on the first", "ams-1:held ams-2: fra-1:failed fra-2:", StageStopped, ""},
		{"failed on the first, which is gone", "ams-1:held ams-2: fra-1:failed* fra-2:", StageStopped, ""},
		{"failed on the second", "ams-1: ams-2: fra-1:passed fra-2:failed", StageStopped, ""},
		{"passed on one that is gone: it proved it", "ams-1: ams-2: fra-1:passed* fra-2:", StageRegion, "fra-1 fra-2"},
		{"passed on a region that is gone", "ams-1: ams-2: fra-1:passed fra-2:passed*", StageAll, "ams-1 ams-2 fra-1 fra-2"},
		{"failed on one of many", "ams-1:passed ams-2: fra-1:passed fra-2:failed", StageAll, "ams-1 ams-2 fra-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nodes, fn := rolloutWorld(tt.nodes)
			plan := Plan{Function: "f"}
			for _, id := range holders {
				plan.Holders = append(plan.Holders, perigee.NodeID(id))
			}
			r := rolloutOf(fn, plan, nodes)
			stage := Stage("")
			if r != nil {
				stage = r.Stage
			}
			var runs []string
			for _, id := range holders {
				on := r.On(fn, nodes[perigee.NodeID(id)])
				if on == nil {
					t.Fatalf("%s runs nothing", id)
				}
				if on.Live.ID == "new" {
					runs = append(runs, id)
				}
			}
			if got := strings.Join(runs, " "); stage != tt.stage || got != tt.runs {
				t.Errorf("stage %q on %q, want %q on %q", stage, got, tt.stage, tt.runs)
			}
			if r != nil && len(r.fallback.Policy().Pin) == 0 {
				t.Error("what served before is not bound by the rules of now")
			}
			if serves := r.Function(fn).Live.ID; (serves == "old") != (stage == StageStopped) {
				t.Errorf("%s serves", serves)
			}
			if r.Text() == "" {
				t.Error("no text")
			}
			fn.Rollout = RolloutAll
			if rolloutOf(fn, plan, nodes) != nil {
				t.Error("not skipped")
			}
		})
	}
}

// TestRolloutSkipsWhatFailed: what serves instead of a revision is the last that did not fail itself.
func TestRolloutSkipsWhatFailed(t *testing.T) {
	nodes, fn := rolloutWorld("fra-1:failed fra-2:held")
	fn.Kept = []*perigee.Revision{{ID: "worse"}, fn.Kept[0]}
	nodes["fra-2"].Trials["worse"] = perigee.TrialFailed
	r := rolloutOf(fn, Plan{Holders: []perigee.NodeID{"fra-1", "fra-2"}}, nodes)
	if r.Before != "old" || r.Function(fn).Live.ID != "old" {
		t.Errorf("%+v", r)
	}
}

// TestRolloutOfTheFirst: without a revision before, nodes out of the stage run nothing.
func TestRolloutOfTheFirst(t *testing.T) {
	nodes, fn := rolloutWorld("fra-1:trying fra-2:held")
	fn.Kept = nil
	plan := Plan{Holders: []perigee.NodeID{"fra-1", "fra-2"}}
	r := rolloutOf(fn, plan, nodes)
	if r.On(fn, nodes["fra-1"]) != fn || r.On(fn, nodes["fra-2"]) != nil {
		t.Errorf("%+v", r)
	}
	// The router offers no node that is not to run it.
	v := &perigee.View{Desired: perigee.NewDesired(perigee.Desired{Regions: perigee.BuiltinRegions()}), Observed: &perigee.Observed{Nodes: nodes}}
	d := Route(Demand{Function: fn, Entry: "fra-2", Rollout: r}, v, nil, v.Observed.At, 0)
	if len(d.Candidates) != 1 || d.Candidates[0].Node != "fra-1" {
		t.Errorf("candidates %+v, refusal %+v", d.Candidates, d.Refusal)
	}
	nodes["fra-1"].Trials["new"] = perigee.TrialFailed
	r = rolloutOf(fn, plan, nodes)
	d = Route(Demand{Function: fn, Entry: "fra-2", Rollout: r}, v, nil, v.Observed.At, 0)
	if d.Refusal == nil || !strings.Contains(d.Refusal.Detail, "stopped: it failed on fra-1") {
		t.Errorf("candidates %+v, refusal %+v", d.Candidates, d.Refusal)
	}
}

// TestRolloutIgnoresOutsiders: what a node says that may not run the function counts for nothing.
func TestRolloutIgnoresOutsiders(t *testing.T) {
	nodes, fn := rolloutWorld("fra-1:trying fra-2:held syd-1:failed")
	plan := Plan{Holders: []perigee.NodeID{"fra-1", "fra-2"}}
	if r := rolloutOf(fn, plan, nodes); r.Stage != StageOne {
		t.Errorf("%s, want %s", r.Stage, StageOne)
	}
}

// TestRolloutSpreads walks every order in which nodes may pass: the new revision always gets
// everywhere, and never runs on more nodes than the stage allows.
func TestRolloutSpreads(t *testing.T) {
	words := []string{"ams-1", "ams-2", "fra-1", "fra-2", "lon-1"}
	plan := Plan{}
	for _, w := range words {
		plan.Holders = append(plan.Holders, perigee.NodeID(w))
	}
	for seed := range 20 {
		says := map[string]string{}
		for step := 0; ; step++ {
			if step > 20 {
				t.Fatalf("seed %d: stuck at %v", seed, says)
			}
			var text strings.Builder
			for _, w := range words {
				fmt.Fprintf(&text, "%s:%s ", w, says[w])
			}
			nodes, fn := rolloutWorld(text.String())
			r := rolloutOf(fn, plan, nodes)
			var may []string
			passed := 0
			for _, w := range words {
				if says[w] == "passed" {
					passed++
				} else if r.On(fn, nodes[perigee.NodeID(w)]) == fn {
					may = append(may, w)
				}
			}
			if r == nil {
				break
			}
			if passed == 0 && len(may) != 1 {
				t.Fatalf("seed %d: %v may try it at first", seed, may)
			}
			who := may[(seed+step)%len(may)]
			if says[who] == "trying" {
				says[who] = "passed"
			} else {
				says[who] = "trying"
			}
		}
		if slices.ContainsFunc(words, func(w string) bool { return says[w] != "passed" }) {
			t.Fatalf("seed %d: over with %v", seed, says)
		}
	}
}
