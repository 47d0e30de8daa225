package placement

import (
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// holders plans hello and lists its holders.
func holders(v *perigee.View, p perigee.Policy) string {
	var out []string
	for _, id := range planOf(v, p).Holders {
		out = append(out, string(id))
	}
	return strings.Join(out, " ")
}

func TestNearHost(t *testing.T) {
	v := cluster(t, "ams-1", "fra-1 zone=a", "fra-2 zone=b", "syd-1", "wdc-1")
	policy := perigee.Policy{Near: "host:db.example.com:5432"}
	for id, us := range map[perigee.NodeID]uint32{"ams-1": 7000, "fra-1": 400, "fra-2": 900, "wdc-1": 92_000} {
		v.Observed.Nodes[id].Near = map[string]uint32{"db.example.com:5432": us}
	}
	if got := holders(v, policy); got != "fra-1 fra-2" {
		t.Errorf("beside the database: %s", got)
	}
	policy.Survive = perigee.SurviveRegion
	if got := holders(v, policy); got != "ams-1 fra-1" && got != "ams-1 fra-2" {
		t.Errorf("beside the database and in two regions: %s", got)
	}
	policy.Forbid = []string{"eu"}
	if got := holders(v, policy); got != "syd-1 wdc-1" {
		t.Errorf("far from the database: %s", got)
	}
}

func TestNearFunction(t *testing.T) {
	v := cluster(t, "ams-1", "fra-1", "fra-2", "syd-1", "syd-2", "wdc-1")
	db := &perigee.Function{Name: "db", Live: &perigee.Revision{ID: "d1", Manifest: perigee.Manifest{Name: "db", Placement: perigee.Policy{Pin: []string{"syd"}}}}}
	v.Desired.Functions = map[string]*perigee.Function{"db": db}
	plan := NewPlanner(v).Plan(function(perigee.Policy{Near: "fn:db"}))
	if got := plan.Holders; len(got) != 2 || got[0] != "syd-1" || got[1] != "syd-2" {
		t.Errorf("holders %v, want those beside db", got)
	}
	// Two that name each other are planned as if one of them did not.
	db.Live.Manifest.Placement = perigee.Policy{Near: "fn:hello"}
	v.Desired.Functions["hello"] = function(perigee.Policy{Near: "fn:db"})
	if plan := NewPlanner(v).Plan(v.Desired.Functions["hello"]); len(plan.Holders) != 2 {
		t.Errorf("holders %v", plan.Holders)
	}
	// A function that does not exist moves nothing.
	if a, b := holders(v, perigee.Policy{Near: "fn:gone"}), holders(v, perigee.Policy{}); a != b {
		t.Errorf("near a function that is not there: %s, without near %s", a, b)
	}
}

func TestSurvive(t *testing.T) {
	for _, tt := range []struct {
		name, survive, nodes, holders, lack string
		policy                              perigee.Policy
	}{
		{"two zones of one region", "zone", "fra-1 zone=a, fra-2 zone=a, fra-3 zone=b", "fra-3 and one", "", perigee.Policy{}},
		{"one zone only", "zone", "fra-1 zone=a, fra-2 zone=a", "fra-1 fra-2",
			`survive = "zone": all allowed nodes in service are in zone "a" of fra, so there is no second zone; join one in another zone with: perigee token create --region fra --zone <another>`, perigee.Policy{}},
		{"two regions beside the warm ones", "region", "fra-1, fra-2, wdc-1", "fra-1 fra-2 wdc-1", "", perigee.Policy{Warm: map[string]int{"fra": 2}}},
		{"one region only", "region", "fra-1, fra-2, wdc-1 dead", "fra-1 fra-2",
			`survive = "region": all allowed nodes in service are in fra, so there is no second region; join one elsewhere with: perigee token create --region <another>, or use survive = "zone"`, perigee.Policy{}},
		{"max leaves no room", "region", "fra-1, fra-2, wdc-1", "fra-1 fra-2",
			`survive = "region": max = 2 leaves no room for a holder elsewhere; raise max`, perigee.Policy{Warm: map[string]int{"fra": 2}, Max: 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.policy.Survive = tt.survive
			p := planOf(cluster(t, strings.Split(tt.nodes, ", ")...), tt.policy)
			var got []string
			for _, id := range p.Holders {
				got = append(got, string(id))
			}
			if s := strings.Join(got, " "); s != tt.holders && !(tt.holders == "fra-3 and one" && len(got) == 2 && got[1] == "fra-3") {
				t.Errorf("holders %s, want %s", s, tt.holders)
			}
			if lack := strings.Join(p.Unsatisfied, "\n"); lack != tt.lack {
				t.Errorf("unsatisfied:\n%s\nwant\n%s", lack, tt.lack)
			}
			tt.policy.OnUnsatisfiable = perigee.OnDegrade
			p = planOf(cluster(t, strings.Split(tt.nodes, ", ")...), tt.policy)
			if lack := strings.Join(p.Relaxed, "\n"); lack != tt.lack || len(p.Unsatisfied) > 0 {
				t.Errorf("relaxed:\n%s\nunsatisfied: %q", lack, p.Unsatisfied)
			}
		})
	}
}

func TestDegradeKeepsHardRules(t *testing.T) {
	p := planOf(cluster(t, "fra-1"), perigee.Policy{Pin: []string{"fra", "ams"}, Warm: map[string]int{"fra": 2}, OnUnsatisfiable: perigee.OnDegrade})
	if len(p.Unsatisfied) != 1 || !strings.HasPrefix(p.Unsatisfied[0], "pin") || len(p.Relaxed) != 1 || !strings.HasPrefix(p.Relaxed[0], "warm") {
		t.Errorf("unsatisfied %q, relaxed %q", p.Unsatisfied, p.Relaxed)
	}
}

func TestCallers(t *testing.T) {
	policy := perigee.Policy{Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"sao"}, Run: []string{"sao", "node:wdc-1"}}}}
	v := cluster(t, "fra-1 warm", "sao-1 held", "syd-1", "wdc-1 warm", "ams-1")
	for _, tt := range []struct {
		entry, caller, want string
	}{
		{"fra-1", "", "fra-1"},
		{"ams-1", "", "fra-1 ams-1"},
		{"sao-1", "", "wdc-1 sao-1"},
		{"syd-1", "", "wdc-1 fra-1 sao-1"},
		{"syd-1", "lhr", "fra-1"},
		{"syd-1", "mars", "fra-1"}, // nobody knows where that is: it may be in Europe, but it is not São Paulo
	} {
		d := Demand{Function: function(policy), Entry: perigee.NodeID(tt.entry), Caller: perigee.Region(tt.caller)}
		got := Route(d, v, nil, noon, 0)
		for _, c := range got.Candidates {
			if _, ok := AllowedFrom(&policy, perigee.Region(tt.caller), v.Observed.Nodes[c.Node].NodeClaims, v.Desired.Regions); tt.caller != "" && !ok {
				t.Errorf("%s for %s: AllowedFrom says no", c.Node, tt.caller)
			}
		}
		if s := names(got); !strings.HasPrefix(s, strings.Fields(tt.want)[0]) || tt.entry != "syd-1" && strings.Contains(s, "syd") {
			t.Errorf("entry %s, caller %q: %s, want %s", tt.entry, tt.caller, s, tt.want)
		}
	}
	if got := holders(v, policy); !strings.Contains(got, "sao-1") && !strings.Contains(got, "wdc-1") || !strings.Contains(got, "fra-1") && !strings.Contains(got, "ams-1") {
		t.Errorf("holders %s, want one for each rule", got)
	}
	// Nobody there: refused, not leaked.
	v.Observed.Nodes["fra-1"].State, v.Observed.Nodes["ams-1"].State = perigee.NodeDead, perigee.NodeDead
	r := Route(Demand{Function: function(policy), Entry: "syd-1", Caller: "fra"}, v, nil, noon, 0).Refusal
	if r == nil || r.Cause != CauseAllowedDown || !strings.Contains(r.Detail, `callers = [{ from = ["eu"], run = ["eu"] }]`) {
		t.Errorf("got %+v", r)
	}
}

// A large node gets more functions than a small one, and weight 1 changes nothing.
func TestWeight(t *testing.T) {
	v := cluster(t, "fra-1", "fra-2", "fra-3", "fra-4")
	v.Observed.Nodes["fra-1"].Memory = 12 * perigee.GiB
	held := map[perigee.NodeID]int{}
	pl := NewPlanner(v)
	for i := range 2000 {
		fn := function(perigee.Policy{Max: 1})
		fn.Name = "f" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26)
		held[pl.Plan(fn).Holders[0]]++
	}
	if n := held["fra-1"]; n < 800 || n > 1200 { // 3 shares of 6
		t.Errorf("the node with 3 shares of 6 holds %d of 2000: %v", n, held)
	}
}
