package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func TestRoute(t *testing.T) {
	three := []string{"fra-1 warm", "syd-1 warm", "wdc-1 warm"}
	for _, tt := range []struct {
		name   string
		nodes  []string
		policy perigee.Policy
		entry  perigee.NodeID
		steer  Steer
		tried  []perigee.NodeID
		ms     map[perigee.NodeID]float64 // measured round trips
		want   string                     // candidates
		reason Reason                     // of the first
	}{
		{name: "here", nodes: three, entry: "wdc-1", want: "wdc-1 fra-1 syd-1", reason: ReasonLocalWarm},
		{name: "nearest by distance", nodes: []string{"fra-1 warm", "syd-1 warm", "wdc-1 held"}, entry: "wdc-1", want: "fra-1 wdc-1 syd-1", reason: ReasonNearestWarm},
		{name: "nearest as measured", nodes: []string{"fra-1 warm", "syd-1 warm", "wdc-1"}, entry: "wdc-1",
			ms: map[perigee.NodeID]float64{"fra-1": 300, "syd-1": 200}, want: "syd-1 fra-1 wdc-1", reason: ReasonNearestWarm},
		{name: "same region before the next", nodes: []string{"fra-1", "fra-2 warm", "ams-1 warm"}, entry: "fra-1", want: "fra-2 ams-1 fra-1", reason: ReasonNearestWarm},
		{name: "entry not in the view", nodes: three, entry: "new-1", want: "fra-1 syd-1 wdc-1", reason: ReasonNearestWarm},
		{name: "suspect nodes serve", nodes: []string{"fra-1 warm suspect", "wdc-1 warm"}, entry: "fra-1", want: "fra-1 wdc-1", reason: ReasonLocalWarm},

		{name: "pinned", nodes: three, policy: perigee.Policy{Pin: []string{"fra"}}, entry: "wdc-1", want: "fra-1", reason: ReasonOnlyAllowed},
		{name: "residency leaves two", nodes: []string{"ams-1 warm", "fra-1 warm", "wdc-1 warm"}, policy: perigee.Policy{Residency: []string{"eu"}}, entry: "wdc-1", want: "ams-1 fra-1", reason: ReasonNearestWarm},
		{name: "one in service is no rule's doing", nodes: []string{"fra-1 warm", "wdc-1 warm dead"}, entry: "fra-1", want: "fra-1", reason: ReasonLocalWarm},

		{name: "prefer beats near", nodes: three, policy: perigee.Policy{Prefer: []string{"syd", "fra"}}, entry: "wdc-1", want: "syd-1 fra-1 wdc-1", reason: ReasonPreferred},
		{name: "prefer beats warm", nodes: []string{"fra-1 held", "wdc-1 warm"}, policy: perigee.Policy{Prefer: []string{"fra"}}, entry: "wdc-1", want: "fra-1 wdc-1", reason: ReasonPreferred},
		{name: "prefer does not make a node fetch", nodes: []string{"fra-1", "wdc-1 warm"}, policy: perigee.Policy{Prefer: []string{"fra"}}, entry: "wdc-1", want: "wdc-1 fra-1", reason: ReasonLocalWarm},
		{name: "first entry with capacity", nodes: []string{"fra-1 warm", "syd-1 warm load=8/8", "wdc-1 warm"}, policy: perigee.Policy{Prefer: []string{"syd", "fra"}}, entry: "wdc-1", want: "fra-1 wdc-1 syd-1", reason: ReasonPreferred},
		{name: "prefer within the rules", nodes: three, policy: perigee.Policy{Forbid: []string{"syd"}, Prefer: []string{"syd", "fra"}}, entry: "wdc-1", want: "fra-1 wdc-1", reason: ReasonPreferred},

		{name: "client prefers", nodes: three, steer: Steer{SteerPrefer, "syd"}, entry: "wdc-1", want: "syd-1 wdc-1 fra-1", reason: ReasonClientPrefers},
		{name: "client prefers a group", nodes: three, steer: Steer{SteerPrefer, "eu"}, entry: "wdc-1", want: "fra-1 wdc-1 syd-1", reason: ReasonClientPrefers},
		{name: "client's preference before the policy's", nodes: three, policy: perigee.Policy{Prefer: []string{"fra"}}, steer: Steer{SteerPrefer, "syd"}, entry: "wdc-1", want: "syd-1 fra-1 wdc-1", reason: ReasonClientPrefers},
		{name: "client prefers what is full", nodes: []string{"fra-1 warm", "syd-1 warm load=8/8", "wdc-1 warm"}, steer: Steer{SteerPrefer, "syd"}, entry: "wdc-1", want: "wdc-1 fra-1 syd-1", reason: ReasonLocalWarm},
		{name: "client prefers what is forbidden", nodes: three, policy: perigee.Policy{Forbid: []string{"syd"}}, steer: Steer{SteerPrefer, "syd"}, entry: "wdc-1", want: "wdc-1 fra-1", reason: ReasonLocalWarm},
		{name: "client prefers nonsense", nodes: three, steer: Steer{SteerPrefer, "no such place"}, entry: "wdc-1", want: "wdc-1 fra-1 syd-1", reason: ReasonLocalWarm},
		{name: "client forces", nodes: three, steer: Steer{SteerForce, "syd"}, entry: "wdc-1", want: "syd-1", reason: ReasonClientForces},
		{name: "client forces what is full", nodes: []string{"syd-1 warm load=8/8", "wdc-1 warm"}, steer: Steer{SteerForce, "syd"}, entry: "wdc-1", want: "syd-1", reason: ReasonClientForces},
		{name: "client forces what is cold", nodes: []string{"syd-1", "wdc-1 warm"}, steer: Steer{SteerForce, "syd"}, entry: "wdc-1", want: "syd-1", reason: ReasonClientForces},
		{name: "a place without a mode asks for nothing", nodes: three, steer: Steer{SteerNone, "syd"}, entry: "wdc-1", want: "wdc-1 fra-1 syd-1", reason: ReasonLocalWarm},

		{name: "no warm node", nodes: []string{"fra-1 held", "syd-1 held", "wdc-1"}, entry: "wdc-1", want: "fra-1 syd-1 wdc-1", reason: ReasonColdNearest},
		{name: "holder is leaving", nodes: []string{"fra-1 warm draining", "syd-1", "wdc-1", "ams-1"}, entry: "wdc-1", want: "wdc-1 ams-1", reason: ReasonColdFetch},
		{name: "two fetchers at most", nodes: []string{"fra-1 warm", "ams-1", "mad-1", "wdc-1"}, entry: "fra-1", want: "fra-1 ams-1 mad-1", reason: ReasonLocalWarm},

		{name: "tried once", nodes: three, tried: []perigee.NodeID{"wdc-1"}, entry: "wdc-1", want: "fra-1 syd-1", reason: ReasonNext},
		{name: "fetchers were tried", nodes: []string{"fra-1 warm", "ams-1", "mad-1", "wdc-1"}, tried: []perigee.NodeID{"ams-1", "mad-1"}, entry: "fra-1", want: "fra-1", reason: ReasonNext},
		{name: "tried and steered", nodes: []string{"syd-1 warm", "syd-2 warm", "wdc-1 warm"}, tried: []perigee.NodeID{"syd-1"}, steer: Steer{SteerForce, "syd"}, entry: "wdc-1", want: "syd-2", reason: ReasonNext},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Demand{Function: function(tt.policy), Entry: tt.entry, Steer: tt.steer, Tried: map[perigee.NodeID]bool{"fra-1": false}}
			for _, id := range tt.tried {
				d.Tried[id] = true
			}
			got := Route(d, cluster(t, tt.nodes...), measured(tt.ms), noon, 0)
			if got.Refusal != nil {
				t.Fatalf("refused: %s", got.Refusal.Detail)
			}
			if names(got) != tt.want || got.Candidates[0].Reason != tt.reason {
				t.Errorf("%s (%s), want %s (%s)", names(got), got.Candidates[0].Reason, tt.want, tt.reason)
			}
		})
	}
}

// The nearest node gives way when waiting there takes longer than the way to another, and only then.
// A request takes 10 ms there until somebody knows better, so each one that waits for 8 slots costs 1.25 ms, which count twice.
func TestRouteSpillsToTheIdle(t *testing.T) {
	const full, idle = "load=8/8", "load=0/8"
	for _, tt := range []struct {
		name        string
		ms1, ms2    float64
		load, load2 string
		want        string
		reason      Reason
	}{
		{"hardly farther", 5, 7, full, idle, "fra-2 fra-1", ReasonLessLoaded},
		{"farther than the wait", 5, 8, full, idle, "fra-1 fra-2", ReasonNearestWarm},
		{"a longer wait", 90, 109, "load=15/8", idle, "fra-2 fra-1", ReasonLessLoaded},
		{"far, and not worth it", 90, 111, "load=15/8", idle, "fra-1 fra-2", ReasonNearestWarm},
		{"both full: the shorter queue", 90, 91, "load=12/8", full, "fra-2 fra-1", ReasonLessLoaded},
		{"both full alike: the nearer", 90, 91, full, full, "fra-1 fra-2", ReasonNearestWarm},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := cluster(t, "fra-1 warm "+tt.load, "fra-2 warm "+tt.load2, "wdc-1")
			got := Route(Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}, v,
				measured(map[perigee.NodeID]float64{"fra-1": tt.ms1, "fra-2": tt.ms2}), noon, 0)
			if !strings.HasPrefix(names(got), tt.want) || got.Candidates[0].Reason != tt.reason {
				t.Errorf("%s (%s), want %s (%s)", names(got), got.Candidates[0].Reason, tt.want, tt.reason)
			}
		})
	}
}

// Warm and far, or cold and near? What the start costs decides.
func TestRouteWarmFarOrColdNear(t *testing.T) {
	v := cluster(t, "syd-1 held", "wdc-1 warm")
	d := Demand{Function: function(perigee.Policy{}), Entry: "syd-1"}
	for _, tt := range []struct {
		start time.Duration
		want  string
	}{
		{0, "wdc-1 nearest-warm true"}, // nobody knows, so it is taken to be slow
		{300 * time.Millisecond, "wdc-1 nearest-warm true"},
		{2 * time.Millisecond, "syd-1 cold-sooner false"},
	} {
		c := Route(d, v, func(id perigee.NodeID) Fact {
			return Fact{RTT: 100 * time.Millisecond, Measured: id == "wdc-1", Start: tt.start}
		}, noon, 0).Candidates[0]
		if got := fmt.Sprint(c.Node, " ", c.Reason, " ", c.Warm); got != tt.want {
			t.Errorf("a start of %v: %s, want %s", tt.start, got, tt.want)
		}
	}
}

// A slow node counts as far, as measured there.
func TestRouteServiceTime(t *testing.T) {
	v := cluster(t, "fra-1 warm", "fra-2 warm", "wdc-1")
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	c := Route(d, v, func(id perigee.NodeID) Fact {
		f := Fact{RTT: 90 * time.Millisecond, Measured: true, LoadAt: noon, Load: perigee.Load{Slots: 8, Service: 5000}}
		if id == "fra-1" {
			f.RTT, f.Load.Service = 89*time.Millisecond, 80_000
		}
		return f
	}, noon, 0).Candidates
	if c[0].Node != "fra-2" || c[0].Reason != ReasonLessLoaded || c[0].Score.Total != 95*time.Millisecond || c[1].Score.Total != 169*time.Millisecond {
		t.Errorf("%+v", c)
	}
}

// With near, the way from the node to the target counts like the way to the node.
func TestRouteNear(t *testing.T) {
	v := cluster(t, "fra-1 warm", "wdc-1 warm", "syd-1 warm")
	for id, us := range map[perigee.NodeID]uint32{"fra-1": 1000, "wdc-1": 91_000} {
		v.Observed.Nodes[id].Near = map[string]uint32{"db:1": us}
	}
	ms := measured(map[perigee.NodeID]float64{"fra-1": 60, "syd-1": 214})
	d := Demand{Function: function(perigee.Policy{Near: "host:db:1"}), Entry: "wdc-1"}
	if c := Route(d, v, ms, noon, 0).Candidates[0]; c.Node != "fra-1" || c.Reason != ReasonThrough || c.Score.Target != time.Millisecond {
		t.Errorf("near a host: %+v", c)
	}
	d.Function = function(perigee.Policy{Near: "host:other:1"}) // nobody has reached it
	if c := Route(d, v, ms, noon, 0).Candidates[0]; c.Node != "wdc-1" || c.Reason != ReasonLocalWarm || c.Score.Target != 0 {
		t.Errorf("near a host that nobody reaches: %+v", c)
	}
	db := &perigee.Function{Name: "db", Live: &perigee.Revision{ID: "d1"}}
	v.Desired.Functions = map[string]*perigee.Function{"db": db}
	v.Observed.Nodes["fra-1"].Revisions["d1"] = perigee.Warm
	d.Function = function(perigee.Policy{Near: "fn:db"})
	if c := Route(d, v, ms, noon, 0).Candidates[0]; c.Node != "fra-1" || c.Reason != ReasonThrough {
		t.Errorf("near a function: %+v", c)
	}
}

func TestRouteKeepsTheRequestWhereItIs(t *testing.T) {
	v := cluster(t, "fra-1 warm load=7/8", "fra-2 warm load=0/8")
	d := Demand{Function: function(perigee.Policy{}), Entry: "fra-1"}
	for _, chance := range []float64{0, 0.5, 0.99} {
		if got := Route(d, v, nil, noon, chance); got.Candidates[0].Node != "fra-1" || got.Candidates[0].Reason != ReasonLocalWarm {
			t.Errorf("chance %v: %+v: a hop never pays while a slot is free here", chance, got.Candidates[0])
		}
	}
	v = cluster(t, "fra-1 warm load=8/8", "fra-2 warm load=0/8")
	if got := Route(d, v, nil, noon, 0); got.Candidates[0].Node != "fra-2" || got.Candidates[0].Reason != ReasonLessLoaded {
		t.Errorf("%+v: full here, free next door", got.Candidates[0])
	}
}

// Nodes nearly as good as each other share the work, the better ones more of it.
func TestRouteDraws(t *testing.T) {
	v := cluster(t, "fra-1 warm", "fra-2 warm", "fra-3 warm load=40/8", "wdc-1", "syd-1 warm")
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	fact := measured(map[perigee.NodeID]float64{"fra-1": 90, "fra-2": 91, "fra-3": 89, "syd-1": 200})
	got := map[perigee.NodeID]int{}
	chances := map[perigee.NodeID]float64{}
	for i := range 1000 {
		c := Route(d, v, fact, noon, float64(i)/1000).Candidates
		got[c[0].Node]++
		sum := 0.0
		for _, one := range c {
			sum += one.Score.Chance
			chances[one.Node] = one.Score.Chance
		}
		if c[len(c)-2].Node != "syd-1" || math.Abs(sum-1) > 1e-9 {
			t.Fatalf("candidates %+v, chances sum to %v", c, sum)
		}
	}
	if len(got) != 2 || got["fra-1"] <= got["fra-2"] || got["fra-2"] < 100 {
		t.Errorf("drawn: %v", got)
	}
	for id, n := range got {
		if math.Abs(float64(n)-1000*chances[id]) > 1.5 {
			t.Errorf("%s was drawn %d times of 1000, its chance is %v", id, n, chances[id])
		}
	}
}

// Being drawn is no merit: only a node that is less busy than a nearer one of its kind is less-loaded.
func TestRouteReasonOfTheDraw(t *testing.T) {
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	fact := measured(map[perigee.NodeID]float64{"ams-1": 85, "fra-1": 90, "fra-2": 90.2})
	for _, tt := range []struct {
		name  string
		nodes []string
		want  string
	}{
		{"alike", []string{"fra-1 warm load=2/8", "fra-2 warm load=2/8", "wdc-1"}, "fra-2 nearest-warm"},
		{"busier than the nearer", []string{"fra-1 warm load=2/8", "fra-2 warm load=3/8", "wdc-1"}, "fra-2 nearest-warm"},
		{"less busy than the nearer", []string{"fra-1 warm load=3/8", "fra-2 warm load=2/8", "wdc-1"}, "fra-2 less-loaded"},
		{"less busy than a nearer cold one", []string{"ams-1 held load=3/8", "fra-2 warm load=2/8", "wdc-1"}, "fra-2 nearest-warm"},
	} {
		c := Route(d, cluster(t, tt.nodes...), fact, noon, 0.99).Candidates[0]
		if got := fmt.Sprintf("%s %s", c.Node, c.Reason); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRouteDrawsTheNearest(t *testing.T) {
	v := cluster(t, "fra-1 warm load=6/8", "fra-2 warm load=2/8", "fra-3 warm load=8/8 draining", "wdc-1")
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	fact := measured(map[perigee.NodeID]float64{"fra-1": 90, "fra-2": 91, "fra-3": 89})
	if c := Route(d, v, fact, noon, 0).Candidates[0]; c.Node != "fra-1" || c.Reason != ReasonNearestWarm {
		t.Errorf("the nearest itself was drawn: %+v", c)
	}
}

// Where the load comes from: a fresh report on a response, else the View, and never less than what
// this node has under way itself.
func TestRouteLoad(t *testing.T) {
	full, idle := perigee.Load{InFlight: 8, Slots: 8}, perigee.Load{Slots: 8}
	for _, tt := range []struct {
		name string
		row  perigee.Load
		fact Fact
		busy bool
	}{
		{"the view's", full, Fact{}, true},
		{"a fresh report", full, Fact{Load: idle, LoadAt: noon.Add(-LoadTTL)}, false},
		{"a stale report", full, Fact{Load: idle, LoadAt: noon.Add(-LoadTTL - 1)}, true},
		{"a stale report and no row", perigee.Load{}, Fact{Load: full, LoadAt: noon.Add(-time.Hour)}, true},
		{"own requests", idle, Fact{InFlight: 8}, true},
		{"fewer own requests", idle, Fact{InFlight: 7}, false},
		{"own requests, fresh report", idle, Fact{InFlight: 8, Load: idle, LoadAt: noon}, true},
		{"unknown slots are never full", perigee.Load{}, Fact{InFlight: 100}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := cluster(t, "fra-1 warm", "fra-2 warm", "wdc-1")
			v.Observed.Nodes["fra-1"].Load = tt.row // nearer by its name only
			fact := func(id perigee.NodeID) Fact {
				f := Fact{}
				if id == "fra-1" {
					f = tt.fact
				}
				f.RTT, f.Measured = time.Millisecond, true
				return f
			}
			got := Route(Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}, v, fact, noon, 0)
			if busy := got.Candidates[0].Node == "fra-2"; busy != tt.busy {
				t.Errorf("fra-1 busy = %v, want %v", busy, tt.busy)
			}
		})
	}
}

func TestRoutePenaltyAndEjection(t *testing.T) {
	v := cluster(t, "ams-1 warm", "fra-1 warm", "syd-1 held", "wdc-1")
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	facts := map[perigee.NodeID]Fact{
		"ams-1": {RTT: 85 * time.Millisecond, Measured: true},
		"fra-1": {RTT: 91 * time.Millisecond, Measured: true},
	}
	route := func() Decision {
		return Route(d, v, func(id perigee.NodeID) Fact { return facts[id] }, noon, 0)
	}
	set := func(id perigee.NodeID, change func(*Fact)) {
		f := facts[id]
		change(&f)
		facts[id] = f
	}

	set("ams-1", func(f *Fact) { f.Penalty = 300 * time.Millisecond })
	if got := route(); names(got) != "fra-1 ams-1 syd-1 wdc-1" || got.Candidates[1].Score.Way != 85*time.Millisecond {
		t.Errorf("penalty: %+v", got.Candidates)
	}
	set("fra-1", func(f *Fact) { f.EjectedUntil = noon.Add(1) })
	if got := route(); names(got) != "ams-1 syd-1 fra-1 wdc-1" {
		t.Errorf("ejected: %+v", got.Candidates)
	}
	set("fra-1", func(f *Fact) { f.EjectedUntil = noon })
	if got := route(); names(got) != "fra-1 ams-1 syd-1 wdc-1" {
		t.Errorf("no longer ejected: %+v", got.Candidates)
	}
	for _, id := range []perigee.NodeID{"ams-1", "fra-1", "syd-1", "wdc-1"} {
		set(id, func(f *Fact) { f.EjectedUntil = noon.Add(time.Second) })
	}
	if got := route(); names(got) != "fra-1 ams-1 syd-1 wdc-1" || got.Candidates[0].Reason != ReasonLastResort {
		t.Errorf("all ejected: %+v", got.Candidates)
	}
}

// However many near nodes are full, the one that is not is found; and the list is bounded.
func TestRouteAmongMany(t *testing.T) {
	nodes := []string{"wdc-1"}
	for i := range 60 {
		nodes = append(nodes, fmt.Sprintf("fra-%02d warm load=80/8", i))
	}
	nodes = append(nodes, "fra-99 warm load=7/8")
	v := cluster(t, nodes...)
	d := Demand{Function: function(perigee.Policy{}), Entry: "wdc-1"}
	got := Route(d, v, nil, noon, 0.3)
	if len(got.Candidates) != MaxCandidates || got.Candidates[0].Node != "fra-99" || got.Candidates[1].Node != "fra-00" {
		t.Errorf("%d candidates: %s", len(got.Candidates), names(got))
	}
	// Prepared choices are the nearest by name here, all of them full: they say that more must be looked at.
	c := NewChoices(d.Function, "wdc-1", "", v, func(perigee.NodeID) Fact { return Fact{} }, noon)
	var out [MaxCandidates]Candidate
	if n := c.Pick(make([]Fact, c.Len()), noon, 0.3, out[:]); n != 0 || c.Len() != maxChoices {
		t.Errorf("%d of %d choices, though all are full and there are others", n, c.Len())
	}
}

func TestRouteSaysWhatItKnows(t *testing.T) {
	v := cluster(t, "fra-1 warm", "fra-2 held", "ams-1", "xyz-1 held")
	got := Route(Demand{Function: function(perigee.Policy{}), Entry: "fra-1"}, v, measured(map[perigee.NodeID]float64{"ams-1": 8}), noon, 0)
	const s, start = assumedService, assumedStart
	want := []Candidate{
		{"fra-1", "fra", true, ReasonLocalWarm, Score{Service: s, Total: s, Chance: 1}},
		{"fra-2", "fra", false, ReasonNext, Score{Way: sameRegionRTT, Service: s, Start: start, Total: sameRegionRTT + s + start}},
		{"xyz-1", "xyz", false, ReasonNext, Score{Way: farthestRTT, Service: s, Start: start, Total: farthestRTT + s + start}},
		{"ams-1", "ams", false, ReasonNext, Score{Way: 8 * time.Millisecond, Service: s, Start: start + assumedFetch, Total: 8*time.Millisecond + s + start + assumedFetch}},
	}
	if fmt.Sprint(got.Candidates) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant %+v", got.Candidates, want)
	}
}

// Prepared choices lead to the decision that Route makes, in every world.
func TestChoicesAgreeWithRoute(t *testing.T) {
	s := seed(t)
	compared := 0
	for i := range worlds {
		w := randomWorld(rand.New(rand.NewPCG(s, uint64(i))))
		w.demand.Steer, w.demand.Tried = Steer{}, nil
		d := Route(w.demand, w.view, w.fact, noon, w.chance)
		c := NewChoices(w.demand.Function, w.demand.Entry, w.demand.Caller, w.view, w.fact, noon)
		facts := make([]Fact, c.Len())
		for k := range facts {
			facts[k] = w.fact(c.Node(k))
		}
		var out [MaxCandidates]Candidate
		n := c.Pick(facts, noon, w.chance, out[:])
		if n == 0 {
			continue // nobody has the bundle: Route finds who may fetch it
		}
		compared++
		if d.Refusal != nil || !slices.Equal(d.Candidates[:n], out[:n]) {
			t.Fatalf("world %d: Route: %+v\nPick: %+v\n%v", i, d, out[:n], w)
		}
	}
	if compared < worlds/4 {
		t.Errorf("only %d worlds compared", compared)
	}
}

func TestFarthestIsFarther(t *testing.T) {
	pole, other := perigee.Point{Lat: 90}, perigee.Point{Lat: -90}
	if d := pole.EstimateRTT(other); d > farthestRTT+500*time.Microsecond || d < farthestRTT-2*time.Millisecond {
		t.Errorf("the other side of the earth is %v away, farthestRTT is %v", d, farthestRTT)
	}
}
