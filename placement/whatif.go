package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Change is a question: what would happen if this were so?
type Change struct {
	Lose []string          `json:"lose,omitempty"` // places whose nodes are gone: regions, groups, node:<id>, label:<key>=<value>
	Add  []Added           `json:"add,omitempty"`  // nodes that join
	Rate float64           `json:"rate,omitempty"` // times the requests there are now; 0 = as now
	Spec *perigee.Function `json:"spec,omitempty"` // a function that is deployed, in the place of the live one of its name
}

// Added is a number of nodes that join in a region.
type Added struct {
	Region perigee.Region `json:"region"`
	Nodes  int            `json:"nodes"`
}

// Outcome is the answer.
type Outcome struct {
	Lost      []perigee.NodeID  `json:"lost"`
	Added     []perigee.NodeID  `json:"added"`
	Functions []FunctionOutcome `json:"functions"` // those for which anything changes or is wrong, by name
	Same      int               `json:"same"`      // how many others there are
	Copies    int               `json:"copies"`    // bundles to be copied
	Bytes     perigee.Bytes     `json:"bytes"`
	Overload  []string          `json:"overload"` // nodes that would have more to do than they can
}

// FunctionOutcome is what happens to one function.
type FunctionOutcome struct {
	Function    string                    `json:"function"`
	Before      []perigee.NodeID          `json:"before"` // holders; nil = it does not exist yet
	After       []perigee.NodeID          `json:"after"`
	Copy        perigee.Bytes             `json:"copy"`            // to nodes that have no copy now
	Calls       *Calls                    `json:"calls,omitempty"` // as they would be; nil = nobody calls it
	Gains       map[perigee.NodeID]uint32 `json:"gains,omitempty"` // of the holders for demand: what callers would wait less in each second, in milliseconds
	Unsatisfied []string                  `json:"unsatisfied,omitempty"`
	Relaxed     []string                  `json:"relaxed,omitempty"`
	Ways        []Way                     `json:"ways"` // by the region of the client
}

// Way is how a function's requests from one region fare. Times are the client's, as far as the map
// tells: to the nearest gateway and on from there.
type Way struct {
	From    perigee.Region `json:"from"`
	Now     time.Duration  `json:"now"` // 0 = nobody serves it
	RunsNow perigee.Region `json:"runs_now,omitempty"`
	Then    time.Duration  `json:"then"`
	Runs    perigee.Region `json:"runs,omitempty"`
	Refused string         `json:"refused,omitempty"` // why nobody would
}

// WhatIf plans and routes as production does, on the View as it is and as it would be once all holders
// are warm.
func WhatIf(v *perigee.View, c Change) (Outcome, error) {
	out := Outcome{Lost: []perigee.NodeID{}, Added: []perigee.NodeID{}, Functions: []FunctionOutcome{}, Overload: []string{}}
	then, err := c.apply(v, &out)
	if err != nil {
		return out, err
	}
	end := NewPlanner(then)
	end.foreseeAll(then)
	plansNow, plansThen := plansOf(v, NewPlanner(v)), plansOf(then, end)
	settledNow, settledThen := settle(v, plansNow), settle(then, plansThen)
	regions, calls := populated(v, then), CallsOf(then, nil)
	for _, name := range slices.Sorted(maps.Keys(then.Desired.Functions)) {
		fn := then.Desired.Functions[name]
		f := FunctionOutcome{Function: name, Calls: calls[name], Gains: gains(end.optional[name], plansThen[name]), After: plansThen[name].Holders, Unsatisfied: plansThen[name].Unsatisfied, Relaxed: plansThen[name].Relaxed}
		old := v.Desired.Functions[name]
		if old != nil {
			f.Before = plansNow[name].Holders
		}
		for _, id := range f.After {
			if p := v.Observed.Nodes[id]; p == nil || p.Revisions[fn.Live.ID] == perigee.Absent {
				f.Copy += fn.Live.Size
				out.Copies++
			}
		}
		out.Bytes += f.Copy
		if slices.Equal(f.Before, f.After) && len(f.Unsatisfied)+len(f.Relaxed) == 0 {
			out.Same++
			continue
		}
		for _, region := range regions {
			way := Way{From: region}
			if old != nil {
				way.Now, way.RunsNow, _ = expect(old, settledNow, region)
			}
			way.Then, way.Runs, way.Refused = expect(fn, settledThen, region)
			f.Ways = append(f.Ways, way)
		}
		out.Functions = append(out.Functions, f)
	}
	out.Overload = overload(then, plansThen)
	return out, nil
}

// gains returns what each holder that demand asks for saves.
func gains(list []perigee.Optional, p Plan) map[perigee.NodeID]uint32 {
	out := map[perigee.NodeID]uint32{}
	for _, o := range list {
		if slices.Contains(p.Holders, o.Node) {
			out[o.Node] = o.Gain
		}
	}
	return out
}

// apply returns the View as it would be.
func (c *Change) apply(v *perigee.View, out *Outcome) (*perigee.View, error) {
	nodes := maps.Clone(v.Observed.Nodes)
	for _, s := range c.Lose {
		t, err := perigee.ParseTerm(s)
		if err != nil {
			return nil, fmt.Errorf("lose: %w", err)
		}
		n := len(out.Lost)
		for _, id := range slices.Sorted(maps.Keys(nodes)) {
			if p := nodes[id]; t.Matches(p.NodeClaims, v.Desired.Regions) && p.Routable() {
				dead := *p
				dead.State = perigee.NodeDead
				nodes[id] = &dead
				out.Lost = append(out.Lost, id)
			}
		}
		if n == len(out.Lost) {
			return nil, fmt.Errorf("lose: no node in service is in %q: `perigee node ls` shows where they are", s)
		}
	}
	for _, a := range c.Add {
		if _, ok := v.Desired.Regions.Lookup(a.Region); !ok {
			return nil, fmt.Errorf("add: this cluster has no region %q: `perigee region ls` lists them", a.Region)
		}
		for i := 1; i <= a.Nodes; {
			id := perigee.NodeID(fmt.Sprintf("%s-new-%d", a.Region, i))
			i++
			if nodes[id] != nil {
				a.Nodes++
				continue
			}
			p := &perigee.Peer{State: perigee.NodeAlive}
			p.ID, p.Node, p.Region = id, id, a.Region
			nodes[id] = p
			out.Added = append(out.Added, id)
		}
	}
	desired := *v.Desired
	c.reroute(nodes, v.Desired, out.Lost)
	if c.Spec != nil {
		desired.Functions = maps.Clone(desired.Functions)
		if desired.Functions == nil {
			desired.Functions = map[string]*perigee.Function{}
		}
		desired.Functions[c.Spec.Name] = c.Spec
	}
	return &perigee.View{Desired: &desired, Observed: &perigee.Observed{Self: v.Observed.Self, Nodes: nodes, At: v.Observed.At}}, nil
}

// reroute has the clients of nodes that are gone reach the nearest others, and calls be as many as asked.
func (c *Change) reroute(nodes map[perigee.NodeID]*perigee.Peer, desired *perigee.Desired, lost []perigee.NodeID) {
	v := &perigee.View{Desired: desired, Observed: &perigee.Observed{Nodes: nodes}}
	give := func(id perigee.NodeID, from map[string]perigee.Traffic, rate float64) {
		p := *nodes[id]
		p.Traffic = maps.Clone(p.Traffic)
		if p.Traffic == nil {
			p.Traffic = map[string]perigee.Traffic{}
		}
		for name, t := range from {
			sum := p.Traffic[name]
			sum.Asked += uint32(rate * float64(t.Asked))
			sum.Busy += uint32(rate * float64(t.Busy))
			p.Traffic[name] = sum
		}
		nodes[id] = &p
	}
	for _, id := range lost {
		if to, _ := Gateway(v, nodes[id].Region); to != "" {
			give(to, nodes[id].Traffic, 1)
		}
	}
	if c.Rate == 0 {
		return
	}
	for id, p := range nodes {
		give(id, p.Traffic, c.Rate-1)
	}
}

func plansOf(v *perigee.View, pl *Planner) map[string]Plan {
	plans := make(map[string]Plan, len(v.Desired.Functions))
	at := &room{}
	for name, fn := range v.Desired.Functions {
		plans[name] = pl.draft(fn, at).plan()
	}
	return plans
}

// settle returns the View as it would be with all plans carried out: holders are as warm as they should
// be, and idle.
func settle(v *perigee.View, plans map[string]Plan) *perigee.View {
	nodes := make(map[perigee.NodeID]*perigee.Peer, len(v.Observed.Nodes))
	for id, p := range v.Observed.Nodes {
		q := *p
		q.Load.InFlight = 0
		q.Revisions = map[perigee.RevisionID]perigee.Warmth{}
		nodes[id] = &q
	}
	for name, plan := range plans {
		rev := v.Desired.Functions[name].Live.ID
		for _, id := range plan.Holders {
			nodes[id].Revisions[rev] = perigee.Held
			if plan.Warm[id] {
				nodes[id].Revisions[rev] = perigee.Warm
			}
		}
	}
	return &perigee.View{Desired: v.Desired, Observed: &perigee.Observed{Self: v.Observed.Self, Nodes: nodes, At: v.Observed.At}}
}

// populated lists the regions that have nodes in either View: clients are taken to be there.
func populated(views ...*perigee.View) (out []perigee.Region) {
	for _, v := range views {
		for _, p := range v.Observed.Nodes {
			if !slices.Contains(out, p.Region) && !v.Desired.Revoked[p.ID] && p.State != perigee.NodeLeft {
				out = append(out, p.Region)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Gateway returns the node that a client in a region reaches: the nearest in service. Of those that are
// as near, the first by name; "" = none.
func Gateway(v *perigee.View, region perigee.Region) (id perigee.NodeID, away time.Duration) {
	for _, p := range v.Observed.Nodes {
		if !p.Routable() || v.Desired.Revoked[p.ID] {
			continue
		}
		d := estimateRTT(v.Desired.Regions, region, p.Region)
		if id == "" || cmp.Or(cmp.Compare(d, away), strings.Compare(string(p.ID), string(id))) < 0 {
			id, away = p.ID, d
		}
	}
	return id, away
}

// Away estimates the way between clients in a region and a node.
func Away(v *perigee.View, region perigee.Region, node *perigee.Peer) time.Duration {
	return estimateRTT(v.Desired.Regions, region, node.Region)
}

// expect returns how long a request from a region takes, and where it runs; or why nobody serves it.
func expect(fn *perigee.Function, v *perigee.View, from perigee.Region) (time.Duration, perigee.Region, string) {
	entry, away := Gateway(v, from)
	if entry == "" {
		return 0, "", "no node is in service"
	}
	d := Route(Demand{Function: fn, Entry: entry, Caller: from}, v, nil, time.Time{}, 0)
	if d.Refusal != nil {
		return 0, "", d.Refusal.Detail
	}
	best := &d.Candidates[0]
	return away + best.Score.Total, best.Region, ""
}

// overload lists nodes whose functions, shared out evenly among their holders, would need more slots than
// the node has.
func overload(v *perigee.View, plans map[string]Plan) []string {
	busy := map[string]float64{}
	for _, p := range v.Observed.Nodes {
		for name, t := range p.Traffic {
			busy[name] += float64(t.Busy) / 100
		}
	}
	load := map[perigee.NodeID]float64{}
	for name, n := range busy {
		for _, id := range plans[name].Holders {
			load[id] += n / float64(len(plans[name].Holders))
		}
	}
	out := []string{}
	for _, id := range slices.Sorted(maps.Keys(load)) {
		if slots := v.Observed.Nodes[id].Load.Slots; slots > 0 && load[id] > float64(slots) {
			out = append(out, fmt.Sprintf("%s in %s: %.0f requests at once for %d slots", id, v.Observed.Nodes[id].Region, load[id], slots))
		}
	}
	return out
}
