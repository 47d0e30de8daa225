package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// stage is a cluster in which every node decides what it is responsible for, second by second, and where
// holders are warm a while after they are planned.
type stage struct {
	view    *perigee.View
	fleet   *Fleet
	scalers map[perigee.NodeID]*Scaler
	now     time.Time
	loads   time.Duration // how long a holder takes until it is warm
	planned map[perigee.NodeID]time.Time
	changes []time.Time // of the optional holders
}

// newStage has two nodes in each region, and one function, hello.
func newStage(t testing.TB, p perigee.Policy, regions ...string) *stage {
	var nodes []string
	for _, r := range regions {
		nodes = append(nodes, r+"-1 zone=a", r+"-2 zone=b")
	}
	s := &stage{view: cluster(t, nodes...), scalers: map[perigee.NodeID]*Scaler{}, now: noon, planned: map[perigee.NodeID]time.Time{}}
	s.view.Desired.Functions = map[string]*perigee.Function{"hello": function(p)}
	for id := range s.view.Observed.Nodes {
		s.scalers[id] = NewScaler(id)
	}
	s.fleet = NewFleet(s.view)
	return s
}

// set changes a node's row.
func (s *stage) set(id perigee.NodeID, change func(*perigee.Peer)) {
	p := *s.view.Observed.Nodes[id]
	p.Revisions = maps.Clone(p.Revisions)
	change(&p)
	nodes := maps.Clone(s.view.Observed.Nodes)
	nodes[id] = &p
	s.view = &perigee.View{Desired: s.view.Desired, Observed: &perigee.Observed{Nodes: nodes, At: s.now}}
}

// calls has the first node of each region asked so many times a second.
func (s *stage) calls(rates map[string]float64) {
	for id, p := range s.view.Observed.Nodes {
		if string(id) == string(p.Region)+"-1" {
			s.set(id, func(p *perigee.Peer) {
				t := p.Traffic["hello"]
				t.Asked = uint32(100 * rates[string(p.Region)])
				p.Traffic = map[string]perigee.Traffic{"hello": t}
			})
		}
	}
}

// optional returns the optional holders, as the plan has them.
func (s *stage) optional() (out []perigee.NodeID) {
	for _, o := range s.fleet.planner.optional["hello"] {
		out = append(out, o.Node)
	}
	return out
}

// second lets one pass.
func (s *stage) second() {
	s.now = s.now.Add(time.Second)
	before := s.optional()
	for _, id := range slices.Sorted(maps.Keys(s.scalers)) {
		if !s.view.Observed.Nodes[id].Routable() {
			continue
		}
		out := s.scalers[id].Step(s.view, s.fleet, s.now)
		if !maps.EqualFunc(out, s.view.Observed.Nodes[id].Optional, slices.Equal) {
			s.set(id, func(p *perigee.Peer) { p.Optional = out })
		}
	}
	s.fleet = s.fleet.Next(s.view)
	plan := s.fleet.Plan(s.view.Desired.Functions["hello"])
	for _, id := range plan.Holders {
		if s.planned[id].IsZero() {
			s.planned[id] = s.now
		}
		if s.now.Sub(s.planned[id]) >= s.loads && s.view.Observed.Nodes[id].Revisions[rev] == perigee.Absent {
			s.set(id, func(p *perigee.Peer) { p.Revisions[rev] = perigee.Warm })
		}
	}
	for id := range s.planned {
		if !slices.Contains(plan.Holders, id) {
			delete(s.planned, id)
			s.set(id, func(p *perigee.Peer) { p.Revisions[rev] = perigee.Absent })
		}
	}
	after := s.optional()
	for _, id := range before {
		if !slices.Contains(after, id) {
			s.changes = append(s.changes, s.now)
		}
	}
	for _, id := range after {
		if !slices.Contains(before, id) {
			s.changes = append(s.changes, s.now)
		}
	}
}

func (s *stage) seconds(n int) {
	for range n {
		s.second()
	}
}

// in reports whether an optional holder is in the region.
func (s *stage) in(region string) bool {
	return slices.ContainsFunc(s.optional(), func(id perigee.NodeID) bool { return s.view.Observed.Nodes[id].Region == perigee.Region(region) })
}

var everywhere = []string{"fra", "lon", "wdc", "sjc", "syd", "tok", "sao", "sin"}

// Where calls come from, a holder comes, and it goes when they end.
func TestScalerFollowsTheCalls(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.seconds(5)
	if got := s.optional(); len(got) > 0 {
		t.Fatalf("nobody calls: %v", got)
	}
	for _, region := range []string{"syd", "sao"} {
		s.calls(map[string]float64{region: 10})
		s.seconds(2)
		if !s.in(region) {
			t.Fatalf("calls from %s: %v", region, s.optional())
		}
		verdicts := s.fleet.Explain(s.view.Desired.Functions["hello"]).Verdicts
		if !slices.ContainsFunc(verdicts, func(v Verdict) bool {
			return v.Region == perigee.Region(region) && v.Reason == ReasonForDemand && v.Gain > 1000
		}) {
			t.Errorf("calls from %s: %+v", region, verdicts)
		}
	}
	s.calls(nil)
	s.seconds(int(dwell/time.Second) + 5)
	if got := s.optional(); len(got) > 0 {
		t.Errorf("nobody calls any more: %v", got)
	}
	if got := s.fleet.Plan(s.view.Desired.Functions["hello"]).Holders; len(got) != BaseHolders {
		t.Errorf("nobody calls any more: holders %v", got)
	}
	s.calls(map[string]float64{"tok": 2})
	s.seconds(2)
	s.calls(nil)
	s.seconds(int(dwell/time.Second) - 10)
	if !s.in("tok") {
		t.Errorf("what came less than %v ago is gone", dwell)
	}
	s.seconds(15)
	if s.in("tok") {
		t.Errorf("what nobody calls is still there after %v", dwell)
	}
}

// One region's calls that one holder can't take get more of them, at once, beginning with the nearest nodes.
func TestScalerGivesRoom(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.calls(map[string]float64{"fra": 100})
	s.seconds(3)
	s.set("fra-1", func(p *perigee.Peer) { p.Traffic["hello"] = perigee.Traffic{Asked: 50000, Busy: 2000, Slots: 8} })
	s.seconds(2)
	near := 0
	for _, id := range s.fleet.Plan(s.view.Desired.Functions["hello"]).Holders {
		if r := s.view.Observed.Nodes[id].Region; r == "fra" || r == "lon" {
			near++
		}
	}
	if near != 4 { // 20 at once need 20/(0.7*8) = 3.6 holders
		t.Errorf("20 requests at once of holders that take 8: %v", s.fleet.Plan(s.view.Desired.Functions["hello"]).Holders)
	}
}

// What hovers around a limit, and what comes and goes, moves nothing, and nothing moves fast.
func TestScalerIsSteady(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.calls(map[string]float64{"syd": 2})
	s.seconds(3)
	if !s.in("syd") {
		t.Fatalf("calls from syd: %v", s.optional())
	}
	moves := len(s.changes)
	r := rand.New(rand.NewPCG(seed(t), 0))
	way := estimateRTT(s.view.Desired.Regions, "syd", "sin").Seconds() // to the nearest other place
	for range 3600 {
		s.calls(map[string]float64{"syd": (0.021 + r.Float64()*0.028) / way})
		s.second()
	}
	if got := len(s.changes) - moves; got > 0 {
		t.Errorf("%d changes while calls hover between the limits", got)
	}
	moves = len(s.changes)
	for i := range 1200 { // 25 s on, 25 s off
		s.calls(map[string]float64{"syd": float64(i / 25 % 2 * 2)})
		s.second()
	}
	if got := len(s.changes) - moves; got > 0 {
		t.Errorf("%d changes while calls come and go", got)
	}
	moves = len(s.changes)
	for range 45 { // somebody calls for a moment, and is gone for longer than a holder is given
		s.calls(map[string]float64{"tok": 2})
		s.seconds(2)
		s.calls(nil)
		s.seconds(38)
	}
	if got := len(s.changes) - moves; got > 2 {
		t.Errorf("%d changes for 45 bursts in half an hour", got)
	}
}

// However much is wanted, the moves are bounded.
func TestScalerBoundsMoves(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	rates := map[string]float64{}
	for _, region := range everywhere {
		rates[region] = 100
		s.set(perigee.NodeID(region+"-1"), func(p *perigee.Peer) { p.Traffic = map[string]perigee.Traffic{"hello": {Busy: 1e5, Slots: 1}} })
	}
	s.calls(rates)
	s.second()
	if got := len(s.optional()); got > movesAtOnce+BaseHolders { // with those that were holders without being chosen
		t.Errorf("%d at once", got)
	}
	s.seconds(60)
	if got := len(s.optional()); got != 16 {
		t.Errorf("%d after a minute, want all nodes", got)
	}
	sd := seed(t)
	for i := range 4 { // whatever happens
		r := rand.New(rand.NewPCG(sd, uint64(i)))
		s := newStage(t, perigee.Policy{Max: r.IntN(2) * 3}, everywhere...)
		for range 300 {
			if r.IntN(4) == 0 {
				rates := map[string]float64{}
				for range 1 + r.IntN(5) {
					rates[pick(r, everywhere...)] = r.Float64() * 100
				}
				s.calls(rates)
			}
			s.second()
		}
		for k, at := range s.changes {
			n := 0
			for _, other := range s.changes[k:] {
				if other.Sub(at) < time.Minute {
					n++
				}
			}
			if n > 2*(movesPerMinute+movesAtOnce) { // a swap changes two
				t.Fatalf("world %d: %d changes in the minute after %v", i, n, at.Sub(noon))
			}
		}
		if len(s.changes) == 0 {
			t.Errorf("world %d: nothing moved at all", i)
		}
	}
}

// A holder is given up only when those that remain have the function.
func TestScalerMakesBeforeItBreaks(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.calls(map[string]float64{"syd": 5, "fra": 5})
	s.seconds(3)
	if !s.in("syd") || !s.in("fra") {
		t.Fatalf("calls from syd and fra: %v", s.optional())
	}
	s.loads = 10 * time.Minute
	s.calls(map[string]float64{"sao": 5})
	s.seconds(300)
	if !s.in("syd") || !s.in("fra") || !s.in("sao") {
		t.Errorf("sao has nothing yet, and the holders are %v", s.optional())
	}
	s.loads = 0
	s.seconds(5)
	if s.in("syd") && s.in("fra") || !s.in("sao") {
		t.Errorf("sao is warm, and the holders are %v", s.optional())
	}
}

// When the node that decides dies, the next one goes on from where it was; when it returns, it goes on from there.
func TestScalerIsTakenOver(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.calls(map[string]float64{"syd": 1, "sao": 1})
	s.seconds(3)
	want := s.optional()
	for range 8 {
		boss := s.fleet.planner.responsible(hashName("hello"))
		if slices.Contains(want, boss.ID) {
			break
		}
		s.set(boss.ID, func(p *perigee.Peer) { p.State = perigee.NodeDead })
		s.fleet = s.fleet.Next(s.view)
		if got := s.optional(); !slices.Equal(got, want) {
			t.Fatalf("%s died: %v, want %v", boss.ID, got, want)
		}
		moves := len(s.changes)
		s.seconds(3)
		if got := len(s.changes) - moves; got > 0 {
			t.Fatalf("%s died: %d changes", boss.ID, got)
		}
		next := s.fleet.planner.responsible(hashName("hello"))
		if got := s.view.Observed.Nodes[next.ID].Optional["hello"]; len(got) != len(want) {
			t.Fatalf("%s took over, and says %v", next.ID, got)
		}
		delete(s.scalers, boss.ID) // it starts again, with nothing in its row, and waits at first
		s.set(boss.ID, func(p *perigee.Peer) { p.State, p.Optional = perigee.NodeAlive, nil })
		s.fleet = s.fleet.Next(s.view)
		s.seconds(int(lingers/time.Second) / 2)
		s.scalers[boss.ID] = NewScaler(boss.ID)
		s.seconds(int(lingers/time.Second) + 3)
		if got := len(s.changes) - moves; got > 0 {
			t.Fatalf("%s returned: %d changes", boss.ID, got)
		}
		if p := s.view.Observed.Nodes[next.ID]; p.Optional["hello"] != nil {
			t.Fatalf("%s still says %v", next.ID, p.Optional)
		}
		s.set(boss.ID, func(p *perigee.Peer) { p.Draining = true }) // for the next round
		s.seconds(int(lingers/time.Second) + 3)
	}
}

// What a dead node said ends when the one that took over says so.
func TestScalerOverrulesTheDead(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	s.calls(map[string]float64{"syd": 1})
	s.seconds(3)
	boss := s.fleet.planner.responsible(hashName("hello"))
	s.set(boss.ID, func(p *perigee.Peer) { p.State = perigee.NodeDead })
	s.calls(nil)
	s.seconds(3)
	if !s.in("syd") {
		t.Errorf("%s died: %v", boss.ID, s.optional())
	}
	s.seconds(int(dwell/time.Second) + 5)
	if got := s.optional(); len(got) > 0 {
		t.Errorf("%s died and nobody calls: %v", boss.ID, got)
	}
}

// Demand takes no place that survive needs.
func TestOptionalHoldersLeaveRoomToSurvive(t *testing.T) {
	s := newStage(t, perigee.Policy{Max: 2, Survive: perigee.SurviveRegion}, "fra", "syd")
	s.set("fra-1", func(p *perigee.Peer) {
		p.Optional = map[string][]perigee.Optional{"hello": {{Node: "fra-1"}, {Node: "fra-2"}}}
	})
	plan := NewPlanner(s.view).Plan(s.view.Desired.Functions["hello"])
	if len(plan.Unsatisfied) > 0 || len(plan.Holders) != 2 || !slices.Contains(plan.Holders, "fra-1") || slices.Contains(plan.Holders, "fra-2") {
		t.Errorf("%+v", plan)
	}
}

// Whatever nodes say about optional holders, the rules of the policy hold.
func TestOptionalHoldersObeyThePolicy(t *testing.T) {
	s := seed(t)
	added := 0
	for i := range worlds {
		r := rand.New(rand.NewPCG(s, uint64(i)))
		w := randomWorld(r)
		w.view.Desired.Revoked = nil // as for PlanFunction, whose promises are checked
		nodes := w.view.Observed.Nodes
		for _, p := range nodes {
			if r.IntN(2) == 0 {
				p.Optional = claimed(r, nodes, w.demand.Function.Name)
			}
		}
		plan := NewPlanner(w.view).Plan(w.demand.Function)
		if bad := planViolation(w, plan); bad != "" {
			t.Fatalf("world %d: %s\n%+v\n%v", i, bad, plan, w)
		}
		for _, v := range plan.Verdicts {
			if v.Reason == ReasonForDemand {
				added++
			}
		}
	}
	if added < worlds/10 {
		t.Errorf("only %d holders for demand in %d worlds", added, worlds)
	}
}

// A node that reports nonsense can't make a decision that can't end.
func TestScalerEnds(t *testing.T) {
	s := newStage(t, perigee.Policy{}, everywhere...)
	for id := range s.view.Observed.Nodes {
		s.set(id, func(p *perigee.Peer) {
			p.Traffic = map[string]perigee.Traffic{"hello": {Asked: 1<<32 - 1, Busy: 1<<32 - 1, Slots: 1}}
		})
	}
	s.seconds(120)
	if got := len(s.optional()); got > MaxOptional || got < len(everywhere) {
		t.Errorf("endless demand: %d optional holders", got)
	}
	for _, o := range s.fleet.planner.optional["hello"] {
		if o.Gain == 0 {
			t.Errorf("%s saves nothing: %v", o.Node, fmt.Sprint(s.fleet.planner.optional["hello"]))
		}
	}
}
