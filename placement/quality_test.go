package placement

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// scene is a world of known distances: places on a map, nodes in them, and the true round trip
// between any two nodes, which is the distance with detours and noise that no map shows.
type scene struct {
	view *perigee.View
	ids  []perigee.NodeID
	rtt  map[[2]perigee.NodeID]time.Duration
}

// newScene puts perPlace nodes at each point. The detour of each pair of places is up to stretch.
func newScene(r *rand.Rand, points []perigee.Point, perPlace int, stretch float64) *scene {
	s := &scene{rtt: map[[2]perigee.NodeID]time.Duration{}}
	var infos []perigee.RegionInfo
	s.view = &perigee.View{Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}, At: noon}}
	for i, pt := range points {
		info := perigee.RegionInfo{Code: perigee.Region(fmt.Sprintf("p%02d", i)), Point: pt}
		infos = append(infos, info)
		for k := range perPlace {
			p := &perigee.Peer{State: perigee.NodeAlive}
			p.ID, p.Region, p.Zone = perigee.NodeID(fmt.Sprintf("%s-%d", info.Code, k)), info.Code, string(rune('a'+k%2))
			p.Load.Slots = 8
			s.view.Observed.Nodes[p.ID] = p
			s.ids = append(s.ids, p.ID)
		}
	}
	slices.Sort(s.ids)
	regions := perigee.NewRegions(infos)
	s.view.Desired = &perigee.Desired{Regions: regions}
	detour := map[[2]perigee.Region]float64{}
	for _, a := range infos {
		for _, b := range infos {
			if _, ok := detour[[2]perigee.Region{b.Code, a.Code}]; !ok {
				detour[[2]perigee.Region{a.Code, b.Code}] = 1 + stretch*r.Float64()
			}
		}
	}
	for i, a := range s.ids {
		for _, b := range s.ids[i+1:] {
			ra, rb := s.view.Observed.Nodes[a].Region, s.view.Observed.Nodes[b].Region
			d := max(detour[[2]perigee.Region{ra, rb}], detour[[2]perigee.Region{rb, ra}])
			actual := time.Duration(float64(estimateRTT(regions, ra, rb)) * d * (1 + 0.01*r.Float64()))
			s.rtt[[2]perigee.NodeID{a, b}], s.rtt[[2]perigee.NodeID{b, a}] = actual, actual
		}
	}
	return s
}

// scenes are the three worlds of the quality tests.
func scenes(r *rand.Rand) map[string]*scene {
	var line, ring, continents []perigee.Point
	for i := range 12 {
		line = append(line, perigee.Point{Lat: 10, Lon: float64(i) * 8})
		ring = append(ring, perigee.Point{Lat: 0, Lon: float64(i)*30 - 180})
	}
	for range 6 {
		continents = append(continents,
			perigee.Point{Lat: 48 + 8*r.Float64(), Lon: 15 * r.Float64()},
			perigee.Point{Lat: 34 + 10*r.Float64(), Lon: -100 + 25*r.Float64()})
	}
	return map[string]*scene{
		"line":           newScene(r, line, 3, 0.4),
		"ring":           newScene(r, ring, 3, 0.4),
		"two continents": newScene(r, continents, 3, 0.4),
	}
}

func (s *scene) from(entry perigee.NodeID, known func(perigee.NodeID) bool) func(perigee.NodeID) Fact {
	return func(id perigee.NodeID) Fact {
		return Fact{RTT: s.rtt[[2]perigee.NodeID{entry, id}], Measured: known(id)}
	}
}

// nearest is the brute force: the smallest true round trip to any of the nodes.
func (s *scene) nearest(entry perigee.NodeID, nodes []perigee.NodeID) time.Duration {
	best := time.Duration(math.MaxInt64)
	for _, id := range nodes {
		best = min(best, s.rtt[[2]perigee.NodeID{entry, id}])
	}
	return best
}

// Regret is how much farther the chosen node is than the nearest warm one. When all is measured it
// stays within what counts as nearly as good. When nothing is, the map stands in, and it
// misses only where detours differ: on average by less than a tenth of the way.
func TestRouteRegret(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 0))
	for name, s := range scenes(r) {
		var blind, best float64
		for range 1000 {
			var warm []perigee.NodeID
			for _, id := range s.ids {
				s.view.Observed.Nodes[id].Revisions = map[perigee.RevisionID]perigee.Warmth{}
			}
			for range 1 + r.IntN(6) {
				id := pick(r, s.ids...)
				s.view.Observed.Nodes[id].Revisions[rev] = perigee.Warm
				warm = append(warm, id)
			}
			entry := pick(r, s.ids...)
			d := Demand{Function: function(perigee.Policy{}), Entry: entry}
			want := s.nearest(entry, warm)

			got := Route(d, s.view, s.from(entry, func(perigee.NodeID) bool { return true }), noon, r.Float64()).Candidates[0]
			if way := got.Score.Way; way > want+among(want+assumedService) || !got.Warm || way != s.rtt[[2]perigee.NodeID{entry, got.Node}] {
				t.Fatalf("%s: %s to %s is %v; the nearest of %v is %v away", name, entry, got.Node, way, warm, want)
			}
			got = Route(d, s.view, nil, noon, r.Float64()).Candidates[0]
			blind += float64(s.rtt[[2]perigee.NodeID{entry, got.Node}])
			best += float64(want)
		}
		t.Logf("%s: mean regret on distance alone %.1f %%", name, 100*(blind/best-1))
		if blind > 1.1*best {
			t.Errorf("%s: mean regret on distance alone %.1f %%, want at most 10", name, 100*(blind/best-1))
		}
	}
}

// When the nearest warm nodes are full, the request goes where the answer comes soonest, or nearly so, in
// every scene. The expectation is written a second time here, as plainly as possible.
func TestRouteSpillInScenes(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 1))
	spilled := 0
	for name, s := range scenes(r) {
		for range 1000 {
			for _, id := range s.ids {
				p := s.view.Observed.Nodes[id]
				p.Revisions = map[perigee.RevisionID]perigee.Warmth{rev: perigee.Warm}
				p.Load.InFlight = int32(r.IntN(2) * (8 + r.IntN(80)))
			}
			entry := pick(r, s.ids...)
			takes := func(id perigee.NodeID) time.Duration {
				d := s.rtt[[2]perigee.NodeID{entry, id}] + assumedService
				if n := s.view.Observed.Nodes[id].Load.InFlight; n >= 8 {
					d += waitWeight * (assumedService * time.Duration(n-7) / 8)
				}
				return d
			}
			best := slices.MinFunc(s.ids, func(a, b perigee.NodeID) int { return cmp.Compare(takes(a), takes(b)) })
			list := Route(Demand{Function: function(perigee.Policy{}), Entry: entry}, s.view,
				s.from(entry, func(perigee.NodeID) bool { return true }), noon, r.Float64()).Candidates
			got := list[0]
			if !slices.IsSortedFunc(list[1:], func(a, b Candidate) int { return cmp.Compare(takes(a.Node), takes(b.Node)) }) {
				t.Fatalf("%s: not the soonest first: %+v", name, list)
			}
			if takes(got.Node) > takes(best)+among(takes(best)) || takes(got.Node) != got.Score.Total {
				t.Fatalf("%s: %s takes %v, %s %v", name, got.Node, takes(got.Node), best, takes(best))
			}
			if best == entry && s.view.Observed.Nodes[entry].Load.InFlight < 8 && got.Node != entry {
				t.Fatalf("%s: sent to %s, though the entry is free", name, got.Node)
			}
			if got.Reason == ReasonLessLoaded {
				spilled++
			}
		}
	}
	if spilled == 0 {
		t.Error("no request was ever spilled: the test tests nothing")
	}
}

// hundred is a cluster of 100 nodes over ten regions of unequal size.
func hundred(t testing.TB) *perigee.View {
	var nodes []string
	for i, region := range []string{"ams", "bom", "dal", "fra", "gru", "lon", "nrt", "sin", "syd", "wdc"} {
		for k := range 6 + i - (i % 2) {
			nodes = append(nodes, fmt.Sprintf("%s-%d zone=%c", region, k, 'a'+k%3))
		}
	}
	return cluster(t, nodes[:100]...)
}

// planAll returns who holds what for functions with various policies.
func planAll(v *perigee.View, n int) (held map[string]bool, perNode map[perigee.NodeID]int) {
	held, perNode = map[string]bool{}, map[perigee.NodeID]int{}
	pl := NewPlanner(v)
	policies := []perigee.Policy{
		{}, {}, {},
		{Residency: []string{"eu"}},
		{Pin: []string{"fra", "wdc"}},
		{Prefer: []string{"as", "na"}},
		{Warm: map[string]int{"eu": 2, "na": 1}},
	}
	for i := range n {
		fn := function(policies[i%len(policies)])
		fn.Name = fmt.Sprintf("fn-%d", i)
		for _, id := range pl.Plan(fn).Holders {
			held[fn.Name+" "+string(id)] = true
			perNode[id]++
		}
	}
	return held, perNode
}

// When one of 100 nodes leaves, about one holder in 100 must move; more than 1.5 is churn.
func TestPlanChurn(t *testing.T) {
	v := hundred(t)
	before, _ := planAll(v, 700)
	var moved, total int
	for i, id := range slices.Sorted(maps.Keys(v.Observed.Nodes)) {
		if i%12 != 0 {
			continue
		}
		v.Observed.Nodes[id].State = perigee.NodeDead
		after, _ := planAll(v, 700)
		for h := range after {
			if !before[h] {
				moved++
			}
		}
		total += len(before)
		v.Observed.Nodes[id].State = perigee.NodeSuspect
		if flap, _ := planAll(v, 700); !maps.Equal(flap, before) {
			t.Fatalf("%s is suspect, which alone must move nothing", id)
		}
		v.Observed.Nodes[id].State = perigee.NodeAlive
	}
	pct := 100 * float64(moved) / float64(total)
	t.Logf("holders moved when 1 of 100 nodes leaves: %.2f %%", pct)
	if pct > 1.5 {
		t.Errorf("%.2f %% of holders moved, want at most 1.5", pct)
	}
	if after, _ := planAll(v, 700); !maps.Equal(after, before) {
		t.Error("all nodes are back, and the plan is not what it was")
	}
}

// Hashing shares functions out evenly among nodes that are alike.
func TestPlanBalance(t *testing.T) {
	var nodes []string
	for _, region := range []string{"ams", "fra", "nrt", "syd", "wdc"} {
		for k := range 20 {
			nodes = append(nodes, fmt.Sprintf("%s-%d", region, k))
		}
	}
	pl := NewPlanner(cluster(t, nodes...))
	count := map[perigee.NodeID]int{}
	const functions = 5000
	for i := range functions {
		fn := function(perigee.Policy{})
		fn.Name = fmt.Sprintf("fn-%d", i)
		for _, id := range pl.Plan(fn).Holders {
			count[id]++
		}
	}
	const mean = functions * BaseHolders / 100 // 100, so chance alone spreads it by 10
	for _, id := range nodes {
		if n := count[perigee.NodeID(id)]; n < mean/2 || n > mean*3/2 {
			t.Errorf("%s holds %d functions, the mean is %d", id, n, mean)
		}
	}
}
