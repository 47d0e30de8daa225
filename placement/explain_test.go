package placement

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// What explain says is what happens: in every world, whatever is drawn, the node that serves and the
// reason in its receipt are those that the explanation has for it.
func TestExplanationAgreesWithReceipts(t *testing.T) {
	s := seed(t)
	drawn := 0
	for i := range 3000 {
		r := rand.New(rand.NewPCG(s, uint64(i)))
		w := randomWorld(r)
		w.demand.Tried = nil
		report := ExplainRoute(w.demand, w.view, w.fact, noon)
		for range 8 {
			d := Route(w.demand, w.view, w.fact, noon, r.Float64())
			if (d.Refusal == nil) != (report.Refusal == nil) || d.Refusal != nil && !reflect.DeepEqual(d.Refusal, report.Refusal) {
				t.Fatalf("world %d: refused %+v, explained %+v", i, d.Refusal, report.Refusal)
			}
			if d.Refusal != nil {
				continue
			}
			serves := d.Candidates[0]
			found := false
			for k, c := range report.Candidates {
				if c.Node == serves.Node {
					found = c.Reason == serves.Reason && c.Score == serves.Score && c.Score.Chance > 0
					if k > 0 {
						drawn++
					}
				}
			}
			if !found {
				t.Fatalf("world %d: %+v serves; explained %+v\n%v", i, serves, report.Candidates, w)
			}
		}
		if len(report.Candidates)+len(report.Others) < len(w.view.Observed.Nodes) {
			t.Fatalf("world %d: %d nodes, explained %d and %d", i, len(w.view.Observed.Nodes), len(report.Candidates), len(report.Others))
		}
		for _, o := range report.Others {
			if o.Text() == "" || o.Reason == "" {
				t.Fatalf("world %d: nothing about %+v", i, o)
			}
		}
	}
	if drawn == 0 {
		t.Error("none but the best ever served: the test tests too little")
	}
}

func TestExplainSaysWhatToChange(t *testing.T) {
	ms := measured(map[perigee.NodeID]float64{"fra-1": 250, "wdc-1": 214, "syd-2": 0.4})
	for _, tt := range []struct {
		nodes  string
		policy perigee.Policy
		want   string
	}{
		{"fra-1 warm, syd-1, wdc-1 warm", perigee.Policy{}, "syd-1 in syd is 214 ms nearer and has no copy: hold one there with warm = { syd = 1 }"},
		{"fra-1 warm, syd-1 held, wdc-1 held", perigee.Policy{}, ""}, // a start here takes less
		{"fra-1 warm, syd-1, wdc-1 warm", perigee.Policy{Residency: []string{"eu"}},
			`residency = ["eu"] excludes syd-1 in syd, which is 250 ms nearer: change the rule to allow it`},
		{"fra-1 warm, syd-1, wdc-1 warm", perigee.Policy{Prefer: []string{"fra"}},
			`prefer = ["fra"] puts fra before wdc-1 in wdc, which is 36 ms nearer: change the order` + "\n" +
				`syd-1 in syd is 250 ms nearer and has no copy: hold one there with warm = { syd = 1 }`},
		{"syd-1, syd-2 warm load=800/8, wdc-1 warm", perigee.Policy{Forbid: []string{"node:syd-1"}},
			`forbid = ["node:syd-1"] excludes syd-1 in syd, which is 214 ms nearer: change the rule to allow it` + "\n" +
				"syd-2 in syd is nearer and busy, a request waits 991 ms there: add a node in syd"},
		{"syd-1 warm, wdc-1 warm", perigee.Policy{}, ""},
		{"syd-1, wdc-1 warm dead", perigee.Policy{Pin: []string{"wdc"}}, `to let syd-1 serve it, change pin = ["wdc"] so that it allows syd`},
	} {
		got := ExplainRoute(Demand{Function: function(tt.policy), Entry: "syd-1"}, cluster(t, strings.Split(tt.nodes, ", ")...), ms, noon)
		if s := strings.Join(got.Changes, "\n"); s != tt.want {
			t.Errorf("%s, %+v:\n%s\nwant\n%s", tt.nodes, tt.policy, s, tt.want)
		}
	}
}

// Demand counts in what would be: twice the calls ask for a holder that they don't ask for now, and the
// clients of a region that is lost call from the nearest one.
func TestWhatIfDemand(t *testing.T) {
	v := cluster(t, "ams-1", "fra-1", "syd-1", "wdc-1")
	hello := function(perigee.Policy{Warm: map[string]int{"fra": 1, "wdc": 1}})
	v.Desired.Functions = map[string]*perigee.Function{"hello": hello}
	v.Observed.Nodes["syd-1"].Traffic = map[string]perigee.Traffic{"hello": {Asked: 16}} // 34 ms in each second
	if got := Foresee(v, hello).Holders; fmt.Sprint(got) != "[fra-1 wdc-1]" {
		t.Errorf("as it is: %v", got)
	}
	calls, offers := NewFleet(v).Demand(v, hello)
	if calls == nil || calls.Rates["syd"] != 0.16 || len(offers) == 0 || offers[0].Node != "syd-1" || offers[0].Gain < 25 || offers[0].Gain >= EnterGain {
		t.Errorf("offers %+v, calls %+v", offers, calls)
	}
	o, err := WhatIf(v, Change{Rate: 2})
	if err != nil || len(o.Functions) != 1 || fmt.Sprint(o.Functions[0].After) != "[fra-1 syd-1 wdc-1]" || o.Functions[0].Gains["syd-1"] < EnterGain || o.Functions[0].Calls.Rates["syd"] != 0.32 {
		t.Errorf("twice as many: %+v, %v", o, err)
	}
	o, err = WhatIf(v, Change{Lose: []string{"syd"}, Rate: 2})
	if err != nil || o.Same != 1 {
		t.Errorf("lost: %+v, %v", o, err)
	}
	if got := v.Observed.Nodes["syd-1"].Traffic["hello"].Asked; got != 16 {
		t.Errorf("the question changed the cluster: %d", got)
	}
}

func TestWhatIf(t *testing.T) {
	v := cluster(t, "ams-1", "fra-1", "syd-1", "wdc-1")
	hello := function(perigee.Policy{Pin: []string{"fra", "ams"}})
	hello.Live.Size = 1000
	other := function(perigee.Policy{Pin: []string{"syd"}})
	other.Name, other.Live.ID = "other", "0123456789ab"
	v.Desired.Functions = map[string]*perigee.Function{"hello": hello, "other": other}
	v.Observed.Nodes["ams-1"].Traffic = map[string]perigee.Traffic{"hello": {Busy: 600}}
	v.Observed.Nodes["fra-1"].Revisions[rev] = perigee.Warm

	o, err := WhatIf(v, Change{Lose: []string{"fra"}, Rate: 2})
	if err != nil || len(o.Functions) != 1 || o.Same != 1 {
		t.Fatalf("%+v, %v", o, err)
	}
	f := o.Functions[0]
	if fmt.Sprint(o.Lost, f.Function, f.Before, f.After, f.Copy, o.Copies) != "[fra-1] hello [ams-1 fra-1] [ams-1] 1kB 1" && f.Copy != 1000 {
		t.Errorf("%+v", f)
	}
	if len(f.Unsatisfied) != 1 || !strings.Contains(f.Unsatisfied[0], "no allowed node in fra is in service (fra-1 is dead)") {
		t.Errorf("unsatisfied: %q", f.Unsatisfied)
	}
	for _, w := range f.Ways {
		if w.Refused != "" || w.Runs != "ams" || w.Then < w.Now || w.From == "fra" && (w.RunsNow != "fra" || w.Then < w.Now+5*time.Millisecond) {
			t.Errorf("clients in %s: %+v", w.From, w)
		}
	}
	if len(o.Overload) != 1 || o.Overload[0] != "ams-1 in ams: 12 requests at once for 8 slots" {
		t.Errorf("overload: %q", o.Overload)
	}

	if o, err = WhatIf(v, Change{Lose: []string{"eu"}}); err != nil || len(o.Functions) != 1 || len(o.Functions[0].After) != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	for _, w := range o.Functions[0].Ways {
		if !strings.Contains(w.Refused, `pin = ["fra", "ams"] allows only`) {
			t.Errorf("%+v", w)
		}
	}

	o, err = WhatIf(v, Change{Add: []Added{{"syd", 2}}})
	if err != nil || len(o.Functions) != 1 || fmt.Sprint(o.Added) != "[syd-new-1 syd-new-2]" || o.Functions[0].Function != "other" {
		t.Errorf("%+v, %v", o, err)
	}

	spec := function(perigee.Policy{Residency: []string{"na"}})
	o, err = WhatIf(v, Change{Spec: spec})
	if err != nil || len(o.Functions) != 1 || fmt.Sprint(o.Functions[0].Before, o.Functions[0].After) != "[ams-1 fra-1] [wdc-1]" {
		t.Errorf("%+v, %v", o, err)
	}
	if v.Desired.Functions["hello"] != hello || v.Observed.Nodes["fra-1"].State != perigee.NodeAlive {
		t.Error("the question changed the cluster")
	}
	for _, bad := range []Change{{Lose: []string{"nrt"}}, {Lose: []string{"label:x"}}, {Add: []Added{{"atlantis", 1}}}} {
		if _, err := WhatIf(v, bad); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
