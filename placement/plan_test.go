package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// sixteen is four regions of four nodes in two zones each.
func sixteen(t testing.TB) *perigee.View {
	var nodes []string
	for _, region := range []string{"ams", "fra", "syd", "wdc"} {
		for i, zone := range []string{"a", "a", "b", "b"} {
			nodes = append(nodes, fmt.Sprintf("%s-%d zone=%s", region, i+1, zone))
		}
	}
	return cluster(t, nodes...)
}

// show writes a plan as its holders with region, zone and, if kept warm, "*".
func show(v *perigee.View, p Plan) string {
	var out []string
	for _, id := range p.Holders {
		s := string(v.Observed.Nodes[id].Region)
		if z := v.Observed.Nodes[id].Zone; z != "" {
			s += "/" + z
		}
		if p.Warm[id] {
			s += "*"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func planOf(v *perigee.View, p perigee.Policy) Plan { return NewPlanner(v).Plan(function(p)) }

// TestPlanFullDisk: a node without room keeps what it has, gets nothing new, and the plan says why.
func TestPlanFullDisk(t *testing.T) {
	v := cluster(t, "fra-1", "fra-2", "syd-1")
	fn := function(perigee.Policy{Pin: []string{"fra"}})
	fn.Live.ID = "abc"
	full := *v.Observed.Nodes["fra-1"]
	full.Full, full.Revisions = true, map[perigee.RevisionID]perigee.Warmth{"abc": perigee.Held}
	v.Observed.Nodes["fra-1"] = &full
	if p := NewPlanner(v).Plan(fn); !slices.Equal(p.Holders, []perigee.NodeID{"fra-1", "fra-2"}) {
		t.Errorf("with the bundle: holders %v", p.Holders)
	}
	full.Revisions = nil
	p := NewPlanner(v).Plan(fn)
	if !slices.Equal(p.Holders, []perigee.NodeID{"fra-2"}) || p.Verdicts[0].Reason != ReasonDiskFull || !strings.Contains(p.Verdicts[0].Text(), "full") {
		t.Errorf("without the bundle: holders %v, %s", p.Holders, p.Verdicts[0].Text())
	}
	fn.Live.Manifest.Placement.Pin = []string{"node:fra-1"}
	if p := NewPlanner(v).Plan(fn); len(p.Unsatisfied) != 1 || !strings.Contains(p.Unsatisfied[0], "fra-1 is disk-full") {
		t.Errorf("only that node: %v", p.Unsatisfied)
	}
}

func TestPlanCounts(t *testing.T) {
	v := sixteen(t)
	for _, tt := range []struct {
		name   string
		policy perigee.Policy
		want   string // places of the holders; a region alone if any zone will do
	}{
		{"one pin, two holders, two zones", perigee.Policy{Pin: []string{"fra"}}, "fra/a* fra/b*"},
		{"one in each pin and no more", perigee.Policy{Pin: []string{"fra", "syd", "wdc"}}, "fra* syd* wdc*"},
		{"a holder counts for every pin it is in", perigee.Policy{Pin: []string{"eu", "fra"}, Max: 2, Prefer: []string{"fra"}}, "fra/a* fra/b*"},
		{"max caps the base", perigee.Policy{Pin: []string{"fra"}, Max: 1}, "fra*"},
		{"prefer orders the places", perigee.Policy{Prefer: []string{"syd"}}, "syd/a* syd/b*"},
		{"prefer inside the residency", perigee.Policy{Residency: []string{"eu"}, Prefer: []string{"ams"}}, "ams/a* ams/b*"},
		{"prefer after forbid", perigee.Policy{Prefer: []string{"node:ams-1", "wdc"}, Forbid: []string{"label:x=y"}}, "ams/a* wdc*"},
		{"warm keeps only what it names", perigee.Policy{Pin: []string{"fra", "ams"}, Warm: map[string]int{"fra": 1}}, "ams fra*"},
		{"warm adds holders", perigee.Policy{Warm: map[string]int{"fra": 3}}, "fra* fra* fra*"},
		{"warm counts a holder for its group", perigee.Policy{Warm: map[string]int{"fra": 1, "eu": 2}, Prefer: []string{"fra"}}, "fra/a* fra/b*"},
		{"warm in several places", perigee.Policy{Warm: map[string]int{"fra": 2, "syd": 1}}, "fra/a* fra/b* syd*"},
		{"warm = 0 keeps nothing warm", perigee.Policy{Pin: []string{"fra"}, Warm: map[string]int{"fra": 0}}, "fra/a fra/b"},
		{"warm places the holder of a wider pin", perigee.Policy{Pin: []string{"eu"}, Warm: map[string]int{"fra": 1}, Max: 1}, "fra*"},
		{"pinned node and label", perigee.Policy{Pin: []string{"node:wdc-3"}}, "wdc/b*"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := planOf(v, tt.policy)
			got := show(v, p)
			if !strings.Contains(tt.want, "/") {
				got = strings.NewReplacer("/a", "", "/b", "").Replace(got)
			} else if strings.Contains(tt.want, "syd*") || strings.Contains(tt.want, "wdc*") {
				got = strings.NewReplacer("syd/a", "syd", "syd/b", "syd", "wdc/a", "wdc", "wdc/b", "wdc").Replace(got)
			}
			if got != tt.want || len(p.Unsatisfied) > 0 {
				t.Errorf("holders %s, want %s; unsatisfied %q", got, tt.want, p.Unsatisfied)
			}
		})
	}
}

// Without any rule the two holders are in different regions: no zone is used twice while another
// is unused, and then no region.
func TestPlanSpreads(t *testing.T) {
	v := sixteen(t)
	pl := NewPlanner(v)
	for i := range 100 {
		fn := function(perigee.Policy{})
		fn.Name = fmt.Sprintf("fn-%d", i)
		p := pl.Plan(fn)
		if len(p.Holders) != 2 || v.Observed.Nodes[p.Holders[0]].Region == v.Observed.Nodes[p.Holders[1]].Region {
			t.Errorf("%s is held by %v", fn.Name, p.Holders)
		}
		fn = function(perigee.Policy{Warm: map[string]int{"eu": 4}})
		fn.Name = fmt.Sprintf("fn-%d", i)
		if p := pl.Plan(fn); show(v, p) != "ams/a* ams/b* fra/a* fra/b*" {
			t.Errorf("%s: four holders in two regions of two zones: %s", fn.Name, show(v, p))
		}
	}
}

func TestPlanFewNodes(t *testing.T) {
	for _, tt := range []struct {
		nodes []string
		want  string
	}{
		{nil, ""},
		{[]string{"fra-1"}, "fra-1"},
		{[]string{"fra-1", "fra-2"}, "fra-1 fra-2"},
		{[]string{"fra-1", "fra-2 dead", "syd-1 draining", "wdc-1 left", "ams-1 revoked"}, "fra-1"},
		{[]string{"fra-1 suspect", "fra-2 suspect draining", "wdc-1"}, "fra-1 wdc-1"},
	} {
		p := planOf(cluster(t, tt.nodes...), perigee.Policy{})
		if got := strings.Trim(fmt.Sprint(p.Holders), "[]"); got != tt.want {
			t.Errorf("%v: holders %s, want %s", tt.nodes, got, tt.want)
		}
		if (len(p.Unsatisfied) > 0) != (tt.want == "") {
			t.Errorf("%v: unsatisfied %q", tt.nodes, p.Unsatisfied)
		}
	}
}

func TestPlanUnsatisfied(t *testing.T) {
	for _, tt := range []struct {
		name   string
		nodes  []string
		policy perigee.Policy
		want   string
	}{
		{"no node", nil, perigee.Policy{}, "no rule excludes a node, but none is in service"},
		{"all down", []string{"fra-1 dead", "fra-2 draining"}, perigee.Policy{}, "no rule excludes a node, but none is in service (fra-1 is dead, fra-2 is draining)"},
		{"nobody there", []string{"wdc-1"}, perigee.Policy{Residency: []string{"eu"}}, `residency = ["eu"] allows no node of this cluster; add a node there or change the rule`},
		{"nobody there is up", []string{"fra-1 dead", "wdc-1"}, perigee.Policy{Residency: []string{"eu"}, Forbid: []string{"lon"}}, `residency = ["eu"] and forbid = ["lon"]: no allowed node is in service (fra-1 is dead)`},
		{"pin without a node", []string{"fra-1", "fra-2"}, perigee.Policy{Pin: []string{"fra", "ams"}}, `pin = ["fra", "ams"]: no allowed node in ams is in service; start one, or join one with: perigee token create --region ams`},
		{"pinned node is down", []string{"fra-1", "ams-1 dead"}, perigee.Policy{Pin: []string{"fra", "ams"}}, `pin = ["fra", "ams"]: no allowed node in ams is in service (ams-1 is dead); start one, or join one with: perigee token create --region ams`},
		{"pinned node is forbidden", []string{"fra-1", "ams-1 label=old:yes"}, perigee.Policy{Pin: []string{"fra", "ams"}, Forbid: []string{"label:old=yes"}}, `pin = ["fra", "ams"]: no allowed node in ams is in service (ams-1 is excluded by forbid = ["label:old=yes"]); start one, or join one with: perigee token create --region ams`},
		{"pinned group", []string{"wdc-1"}, perigee.Policy{Pin: []string{"eu", "wdc"}}, `pin = ["eu", "wdc"]: no allowed node in eu is in service; start one, or join one with: perigee token create --region <a region of eu>`},
		{"pinned by name", []string{"wdc-1"}, perigee.Policy{Pin: []string{"node:fra-1"}}, `pin = ["node:fra-1"]: no allowed node named fra-1 is in service; start that node or change the rule`},
		{"pinned by label", []string{"wdc-1 revoked"}, perigee.Policy{Pin: []string{"label:gpu=yes"}}, `pin = ["label:gpu=yes"]: no allowed node labelled gpu=yes is in service; join a node whose token gives it that label, or change the rule`},
		{"too few to keep warm", []string{"fra-1", "fra-2 left", "wdc-1"}, perigee.Policy{Warm: map[string]int{"fra": 2}}, `warm = { fra = 2 }: 1 of the 2 nodes asked for in fra can hold it (fra-2 is left); start one, or join one with: perigee token create --region fra`},
		{"max in the way of overlapping places", []string{"dxb-1", "nrt-1", "sin-1", "wdc-1"}, perigee.Policy{Warm: map[string]int{"as": 2}, Pin: []string{"me", "na", "as"}, Max: 2}, `warm = { as = 2 }: max = 2 leaves 1 of 2 for as; raise max`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := planOf(cluster(t, tt.nodes...), tt.policy)
			if len(p.Unsatisfied) == 0 || p.Unsatisfied[len(p.Unsatisfied)-1] != tt.want {
				t.Errorf("unsatisfied:\n %s\nwant:\n %s", strings.Join(p.Unsatisfied, "\n "), tt.want)
			}
		})
	}
}

// When max is too small for all that is asked, which Check refuses, pins are served and warm is not.
func TestPlanServesPinsBeforeWarm(t *testing.T) {
	v := cluster(t, "fra-1", "fra-2", "wdc-1", "wdc-2", "wdc-3")
	p := planOf(v, perigee.Policy{Pin: []string{"eu", "na"}, Warm: map[string]int{"fra": 2}, Max: 2})
	if got := show(v, p); got != "fra* wdc" || len(p.Unsatisfied) != 1 || p.Unsatisfied[0] != "warm = { fra = 2 }: max = 2 leaves 1 of 2 for fra; raise max" {
		t.Errorf("holders %s, unsatisfied %q", got, p.Unsatisfied)
	}
}

// A policy that Check passes is satisfied by a cluster with enough nodes in every region.
func TestWhatCheckPassesCanBePlanned(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 0))
	var nodes []string
	places := []string{"eu", "na", "as", "sa"}
	for _, info := range perigee.BuiltinRegions().All() {
		for i := range 3 {
			nodes = append(nodes, fmt.Sprintf("%s-%d", info.Code, i))
		}
		places = append(places, string(info.Code))
	}
	pl := NewPlanner(cluster(t, nodes...))
	some := func(odds int) (out []string) {
		for r.IntN(odds) > 0 && len(out) < 3 {
			out = append(out, pick(r, places...))
		}
		return out
	}
	passed := 0
	for range 2_000 {
		p := perigee.Policy{Residency: some(2), Pin: some(2), Forbid: some(2), Prefer: some(2), Max: r.IntN(6), Warm: map[string]int{}}
		for _, place := range some(3) {
			p.Warm[place] = r.IntN(3)
		}
		if Check("", &p, perigee.BuiltinRegions()) != nil {
			continue
		}
		passed++
		if plan := pl.Plan(function(p)); len(plan.Unsatisfied) > 0 {
			t.Fatalf("%+v:\n%s", p, strings.Join(plan.Unsatisfied, "\n"))
		}
	}
	t.Logf("%d policies passed Check", passed)
	if passed < 100 {
		t.Errorf("only %d policies passed Check: too few to mean anything", passed)
	}
}

func TestVerdicts(t *testing.T) {
	v := cluster(t, "ams-1", "ams-2 revoked", "fra-1 suspect", "fra-2 dead draining", "fra-3 draining", "lon-1", "mad-1", "wdc-1")
	p := planOf(v, perigee.Policy{
		Residency: []string{"eu"}, Pin: []string{"fra", "ams", "mad"}, Forbid: []string{"lon"},
		Prefer: []string{"ams"}, Warm: map[string]int{"fra": 1},
	})
	want := `ams-1: holds it, pin = ["fra", "ams", "mad"]: a pinned place needs a holder
ams-2: its certificate is revoked
fra-1: holds it warm, pin = ["fra", "ams", "mad"]: a pinned place needs a holder; it did not answer lately, which alone moves nothing
fra-2: allowed, but dead
fra-3: allowed, but draining
lon-1: excluded by pin = ["fra", "ams", "mad"]
mad-1: holds it, pin = ["fra", "ams", "mad"]: a pinned place needs a holder
wdc-1: excluded by residency = ["eu"]`
	if got := texts(p); got != want {
		t.Errorf("verdicts:\n%s\nwant:\n%s", got, want)
	}

	v = cluster(t, "ams-1", "fra-1", "fra-2", "wdc-1")
	p = planOf(v, perigee.Policy{Warm: map[string]int{"wdc": 1}, Prefer: []string{"ams"}})
	want = `ams-1: holds it, prefer = ["ams"]: first in the order of prefer
fra-1: allowed, but not needed: enough holders elsewhere
fra-2: allowed, but not needed: enough holders elsewhere
wdc-1: holds it warm, warm = { wdc = 1 }: warm asks for it`
	if got := texts(p); got != want {
		t.Errorf("verdicts:\n%s\nwant:\n%s", got, want)
	}

	p = planOf(cluster(t, "ams-1", "wdc-1"), perigee.Policy{Max: 1, Pin: []string{"ams"}, Forbid: []string{"syd"}})
	if got := texts(p); got != `ams-1: holds it warm, pin = ["ams"]: a pinned place needs a holder
wdc-1: excluded by pin = ["ams"]` {
		t.Errorf("verdicts:\n%s", got)
	}
	p = planOf(cluster(t, "ams-1", "ams-2"), perigee.Policy{Max: 1, Prefer: []string{"node:ams-2"}})
	if got := texts(p); got != `ams-1: allowed, but not needed: max = 1 is reached
ams-2: holds it warm, prefer = ["node:ams-2"]: first in the order of prefer` {
		t.Errorf("verdicts:\n%s", got)
	}
	p = planOf(cluster(t, "ams-1"), perigee.Policy{})
	if got := texts(p); got != "ams-1: holds it warm, chosen by spread and hashing" {
		t.Errorf("verdicts:\n%s", got)
	}
}

func texts(p Plan) string {
	var out []string
	for _, v := range p.Verdicts {
		out = append(out, fmt.Sprintf("%s: %s", v.Node, v.Text()))
	}
	return strings.Join(out, "\n")
}

// PlanFunction and Planner agree.
func TestPlannerIsPlanFunction(t *testing.T) {
	v := sixteen(t)
	a, b := planOf(v, perigee.Policy{Pin: []string{"eu"}}), PlanFunction(function(perigee.Policy{Pin: []string{"eu"}}), v.Observed.Nodes, v.Desired.Regions)
	if !slices.Equal(a.Holders, b.Holders) || !maps.Equal(a.Warm, b.Warm) || !slices.Equal(a.Verdicts, b.Verdicts) {
		t.Errorf("Planner says %+v, PlanFunction %+v", a, b)
	}
}

// The hash is part of the protocol: nodes of two releases plan the same.
func TestScoreNeverChanges(t *testing.T) {
	for _, tt := range []struct {
		function string
		node     perigee.NodeID
		want     uint64
	}{
		{"", "", 0x276fdbcc82b3dcc6},
		{"hello", "fra-1", 0xe66e456219fc4d7b},
		{"hello", "fra-2", 0xda2d5268397b50a7},
		{"a", "b-c", 0x61335b3411a1c1c1},
		{"ab", "-c", 0xaf26a4688266ea07},
	} {
		if got := score(hashName(tt.function), hashName(string(tt.node))); got != tt.want {
			t.Errorf("score(%q, %q) = %#x, want %#x", tt.function, tt.node, got, tt.want)
		}
	}
}
