package placement

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// noon is the time of all tests.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const rev = perigee.RevisionID("a1b2c3d4e5f6")

// function returns one function with a policy.
func function(p perigee.Policy) *perigee.Function {
	return &perigee.Function{Name: "hello", Live: &perigee.Revision{
		ID:       rev,
		Manifest: perigee.Manifest{Name: "hello", Wasm: "hello.wasm", Placement: p},
	}}
}

// cluster writes a View down as words, one node each: "fra-1 warm", "fra-2 held zone=b dead". The
// region is what comes before the dash. Words: warm, held, dead, left, suspect, draining, revoked,
// zone=…, label=k:v, load=used/slots.
func cluster(t testing.TB, nodes ...string) *perigee.View {
	t.Helper()
	v := &perigee.View{
		Desired:  &perigee.Desired{Regions: perigee.BuiltinRegions(), Revoked: map[perigee.NodeID]bool{}},
		Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}, At: noon},
	}
	for _, text := range nodes {
		words := strings.Fields(text)
		id := perigee.NodeID(words[0])
		region, _, _ := strings.Cut(words[0], "-")
		p := &perigee.Peer{State: perigee.NodeAlive}
		p.ID, p.Region, p.Node = id, perigee.Region(region), id
		p.Load.Slots = 8
		p.Revisions = map[perigee.RevisionID]perigee.Warmth{}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			switch key {
			case "warm":
				p.Revisions[rev] = perigee.Warm
			case "held":
				p.Revisions[rev] = perigee.Held
			case "dead", "left", "suspect":
				p.State = perigee.NodeState(key)
			case "draining":
				p.Draining = true
			case "revoked":
				v.Desired.Revoked[id] = true
			case "zone":
				p.Zone = value
			case "label":
				k, val, _ := strings.Cut(value, ":")
				p.Labels = map[string]string{k: val}
			case "load":
				if _, err := fmt.Sscanf(value, "%d/%d", &p.Load.InFlight, &p.Load.Slots); err != nil {
					t.Fatalf("node %q: %v", text, err)
				}
			default:
				t.Fatalf("node %q: unknown word %q", text, w)
			}
		}
		v.Observed.Nodes[id] = p
	}
	return v
}

// measured turns round trips in milliseconds into the facts that Route asks for.
func measured(ms map[perigee.NodeID]float64) func(perigee.NodeID) Fact {
	return func(id perigee.NodeID) Fact {
		d, ok := ms[id]
		return Fact{RTT: time.Duration(d * float64(time.Millisecond)), Measured: ok}
	}
}

// names lists the candidates.
func names(d Decision) string {
	var out []string
	for _, c := range d.Candidates {
		out = append(out, string(c.Node))
	}
	return strings.Join(out, " ")
}

// world is a cluster made by chance, with what is true about it and what one node knows.
type world struct {
	truth   *perigee.Regions // all regions
	view    *perigee.View    // its catalogue may lack some
	demand  Demand
	facts   map[perigee.NodeID]Fact
	chance  float64
	regions []perigee.RegionInfo
}

func (w *world) fact(id perigee.NodeID) Fact { return w.facts[id] }

func (w *world) policy() *perigee.Policy { return &w.demand.Function.Live.Manifest.Placement }

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// randomWorld makes a small cluster in which everything that can be odd is odd at times: regions
// and groups this node has not heard of, entries that can't be read, nodes in every state.
func randomWorld(r *rand.Rand) *world {
	w := &world{facts: map[perigee.NodeID]Fact{}, chance: r.Float64()}
	groups := []string{"north", "south", "law"}
	for i := range 2 + r.IntN(5) {
		info := perigee.RegionInfo{
			Code:  perigee.Region(fmt.Sprintf("r%d", i)),
			Point: perigee.Point{Lat: r.Float64()*120 - 60, Lon: r.Float64()*360 - 180},
		}
		for _, g := range groups {
			if r.IntN(3) == 0 {
				info.Groups = append(info.Groups, g)
			}
		}
		w.regions = append(w.regions, info)
	}
	w.truth = perigee.NewRegions(w.regions)
	known := w.truth
	if r.IntN(3) == 0 { // some records of regions have not arrived yet
		known = perigee.NewRegions(slices.DeleteFunc(slices.Clone(w.regions), func(perigee.RegionInfo) bool { return r.IntN(3) == 0 }))
	}
	w.view = &perigee.View{
		Desired:  &perigee.Desired{Regions: known, Revoked: map[perigee.NodeID]bool{}},
		Observed: &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}, At: noon},
	}
	var ids []perigee.NodeID
	for i := range 1 + r.IntN(9) {
		p := &perigee.Peer{State: pick(r, perigee.NodeAlive, perigee.NodeAlive, perigee.NodeAlive, perigee.NodeSuspect, perigee.NodeDead, perigee.NodeLeft)}
		p.ID = perigee.NodeID(fmt.Sprintf("n%d", i))
		p.Node, p.Region, p.Zone = p.ID, pick(r, w.regions...).Code, pick(r, "", "a", "b")
		if r.IntN(2) == 0 {
			p.Labels = map[string]string{"gpu": pick(r, "yes", "no")}
		}
		p.Draining = r.IntN(8) == 0
		p.Load = perigee.Load{InFlight: int32(r.IntN(6)), Slots: int32(r.IntN(5))}
		p.Revisions = map[perigee.RevisionID]perigee.Warmth{rev: pick(r, perigee.Absent, perigee.Held, perigee.Warm)}
		w.view.Observed.Nodes[p.ID] = p
		w.view.Desired.Revoked[p.ID] = r.IntN(10) == 0
		ids = append(ids, p.ID)
		w.facts[p.ID] = Fact{
			RTT: time.Duration(r.IntN(200)) * time.Millisecond, Measured: r.IntN(2) == 0,
			InFlight:     r.IntN(6),
			Load:         perigee.Load{InFlight: int32(r.IntN(6)), Slots: int32(r.IntN(5))},
			LoadAt:       noon.Add(-time.Duration(r.IntN(3000)) * time.Millisecond),
			Penalty:      time.Duration(r.IntN(2)*r.IntN(300)) * time.Millisecond,
			EjectedUntil: noon.Add(time.Duration(r.IntN(3)-1) * time.Second),
		}
	}
	place := func() string { return pick(r, string(pick(r, w.regions...).Code), pick(r, groups...), "nowhere") }
	term := func() string {
		switch r.IntN(8) {
		case 0:
			return "node:" + string(pick(r, ids...))
		case 1:
			return "label:gpu=" + pick(r, "yes", "no")
		case 2:
			return pick(r, "label:gpu", "Not A Label", "node:", "")
		}
		return place()
	}
	terms := func(odds int) (list []string) {
		for r.IntN(odds) == 0 && len(list) < 3 {
			list = append(list, term())
		}
		return list
	}
	p := perigee.Policy{Residency: terms(3), Pin: terms(4), Forbid: terms(3), Prefer: terms(2), Max: r.IntN(4)}
	for r.IntN(3) == 0 {
		if p.Warm == nil {
			p.Warm = map[string]int{}
		}
		p.Warm[place()] = r.IntN(4)
	}
	for r.IntN(4) == 0 && len(p.Callers) < 2 {
		p.Callers = append(p.Callers, perigee.CallerRule{From: []string{place()}, Run: []string{term(), place()}})
	}
	p.Survive = pick(r, "", "", perigee.SurviveNode, perigee.SurviveZone, perigee.SurviveRegion)
	p.OnUnsatisfiable = pick(r, "", perigee.OnReject, perigee.OnDegrade)
	w.demand = Demand{Function: function(p), Entry: pick(r, ids...), Tried: map[perigee.NodeID]bool{}}
	if r.IntN(4) == 0 {
		w.demand.Caller = pick(r, w.regions...).Code
	}
	w.demand.Steer = Steer{Mode: pick(r, SteerNone, SteerPrefer, SteerForce), Place: place()}
	for _, id := range ids {
		if r.IntN(5) == 0 {
			w.demand.Tried[id] = true
		}
	}
	return w
}

// String writes the world down for a failing test.
func (w *world) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "policy %+v\nentry %s, steer %+v, tried %v\n", *w.policy(), w.demand.Entry, w.demand.Steer, w.demand.Tried)
	for _, info := range w.regions {
		_, known := w.view.Desired.Regions.Lookup(info.Code)
		fmt.Fprintf(&b, "region %s %v known=%v\n", info.Code, info.Groups, known)
	}
	for _, id := range slices.Sorted(maps.Keys(w.view.Observed.Nodes)) {
		p := w.view.Observed.Nodes[id]
		fmt.Fprintf(&b, "node %s in %s labels %v %s draining=%v revoked=%v warmth=%d\n",
			id, p.Region, p.Labels, p.State, p.Draining, w.view.Desired.Revoked[id], p.Revisions[rev])
	}
	return b.String()
}
