package placement

import (
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// The properties below must hold in every world. To know that the tests would notice if they did
// not, the same tests run on variants of Route and PlanFunction that are broken on purpose, one rule
// each, and must find every one of them out (TestBrokenVariantsAreCaught).

type (
	router  func(Demand, *perigee.View, func(perigee.NodeID) Fact, time.Time, float64) Decision
	planner func(*perigee.Function, map[perigee.NodeID]*perigee.Peer, *perigee.Regions) Plan
)

// seed returns SEED from the environment, or one drawn by chance; it is printed.
func seed(t testing.TB) uint64 {
	s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		s = rand.Uint64()
	}
	t.Logf("SEED=%d", s)
	return s
}

const worlds = 10_000

// mayRun is the meaning of the hard rules, written a second time and as plainly as possible. It
// knows all regions, so it also tells whether ignorance let a node through.
func mayRun(p *perigee.Policy, n perigee.NodeClaims, truth *perigee.Regions) bool {
	in := func(entry string) bool {
		info, _ := truth.Lookup(n.Region)
		for k, v := range n.Labels {
			if entry == "label:"+k+"="+v {
				return true
			}
		}
		return entry != "" && (entry == "node:"+string(n.ID) || entry == string(n.Region) || slices.Contains(info.Groups, entry))
	}
	unreadable := func(entry string) bool { _, err := perigee.ParseTerm(entry); return err != nil }
	return (len(p.Residency) == 0 || slices.ContainsFunc(p.Residency, in)) &&
		(len(p.Pin) == 0 || slices.ContainsFunc(p.Pin, in)) &&
		!slices.ContainsFunc(p.Forbid, in) &&
		!slices.ContainsFunc(p.Forbid, unreadable) // who knows what it was to forbid
}

// mayServe is mayRun for a request of a caller in a region.
func mayServe(p *perigee.Policy, caller perigee.Region, n perigee.NodeClaims, truth *perigee.Regions) bool {
	for _, rule := range p.Callers {
		from := &perigee.Policy{Residency: rule.From}
		run := &perigee.Policy{Residency: rule.Run}
		if mayRun(from, perigee.NodeClaims{Region: caller}, truth) && !mayRun(run, n, truth) {
			return false
		}
	}
	return mayRun(p, n, truth)
}

// caller is where the request comes from.
func (w *world) caller() perigee.Region {
	if w.demand.Caller != "" {
		return w.demand.Caller
	}
	return w.view.Observed.Nodes[w.demand.Entry].Region
}

// allowed says what the code says, with what this node knows.
func (w *world) allowed(n perigee.NodeClaims) bool {
	_, ok := AllowedFrom(w.policy(), w.caller(), n, w.view.Desired.Regions)
	return ok
}

// routeViolation returns how a decision breaks a promise of Route, or "".
func routeViolation(w *world, d Decision) string {
	if (d.Refusal == nil) == (len(d.Candidates) == 0) {
		return "not exactly one of candidates and refusal"
	}
	if r := d.Refusal; r != nil {
		return refusalViolation(w, r)
	}
	seen := map[perigee.NodeID]bool{}
	fetchers := 0
	for id := range w.demand.Tried {
		p := w.view.Observed.Nodes[id]
		if w.allowed(p.NodeClaims) && p.Revisions[rev] == perigee.Absent && p.Routable() && !w.view.Desired.Revoked[id] {
			fetchers++ // it was offered before
		}
	}
	for i, c := range d.Candidates {
		p := w.view.Observed.Nodes[c.Node]
		if p == nil {
			return "candidate is no node"
		}
		switch forced := w.demand.Steer.Mode == SteerForce; {
		case !mayRun(w.policy(), p.NodeClaims, w.truth):
			return fmt.Sprintf("candidate %s is not allowed", c.Node)
		case !mayServe(w.policy(), w.caller(), p.NodeClaims, w.truth):
			return fmt.Sprintf("candidate %s is not for this caller", c.Node)
		case !p.Routable():
			return fmt.Sprintf("candidate %s is out of service", c.Node)
		case w.view.Desired.Revoked[c.Node]:
			return fmt.Sprintf("candidate %s is revoked", c.Node)
		case w.demand.Tried[c.Node]:
			return fmt.Sprintf("candidate %s was tried", c.Node)
		case forced && !(perigee.Term{Place: w.demand.Steer.Place}).Matches(p.NodeClaims, w.truth):
			return fmt.Sprintf("candidate %s is not where the client forced", c.Node)
		case seen[c.Node]:
			return fmt.Sprintf("candidate %s twice", c.Node)
		case c.Reason.Text() == "":
			return fmt.Sprintf("candidate %s has no reason", c.Node)
		case (i > 0 || len(w.demand.Tried) > 0) != (c.Reason == ReasonNext):
			return fmt.Sprintf("candidate %s, number %d, has reason %s", c.Node, i, c.Reason)
		case c.Warm != (p.Revisions[rev] == perigee.Warm):
			return fmt.Sprintf("candidate %s: warm = %v", c.Node, c.Warm)
		case p.Revisions[rev] == perigee.Absent:
			fetchers++
			if fetchers > maxFetchers {
				return "too many nodes without the bundle"
			}
		}
		seen[c.Node] = true
	}
	for id, p := range w.view.Observed.Nodes { // nobody who could serve now is forgotten
		ok := w.allowed(p.NodeClaims)
		wanted := w.demand.Steer.Mode != SteerForce || (perigee.Term{Place: w.demand.Steer.Place}).Matches(p.NodeClaims, w.view.Desired.Regions)
		if ok && wanted && !seen[id] && p.Routable() && !w.view.Desired.Revoked[id] && !w.demand.Tried[id] && p.Revisions[rev] != perigee.Absent {
			return fmt.Sprintf("%s could serve and is no candidate", id)
		}
	}
	return ""
}

func refusalViolation(w *world, r *Refusal) string {
	if r.Status != 503 && r.Status != 403 || r.Cause == "" || r.Detail == "" {
		return fmt.Sprintf("refusal is incomplete: %+v", r)
	}
	if r.Rule != "" && !strings.Contains(r.Detail, strings.TrimPrefix(r.Rule, "force = ")) && r.Cause[:5] != "force" && w.demand.Steer.Mode != SteerForce {
		return fmt.Sprintf("refusal does not say its rule %s: %s", r.Rule, r.Detail)
	}
	if n := r.Nearest; n != nil {
		p := w.view.Observed.Nodes[n.Node]
		allowed := w.allowed(p.NodeClaims)
		forcedAway := w.demand.Steer.Mode == SteerForce && !(perigee.Term{Place: w.demand.Steer.Place}).Matches(p.NodeClaims, w.view.Desired.Regions)
		if allowed && !forcedAway {
			return fmt.Sprintf("refusal calls %s excluded, which is allowed", n.Node)
		}
		if !strings.Contains(r.Detail, string(n.Node)) {
			return fmt.Sprintf("refusal does not say its nearest node %s: %s", n.Node, r.Detail)
		}
	}
	return ""
}

// planViolation returns how a plan breaks a promise of PlanFunction, or "".
func planViolation(w *world, p Plan) string {
	nodes, policy := w.view.Observed.Nodes, w.policy()
	var seats []perigee.NodeClaims // who could hold it, as far as this node knows
	for _, n := range nodes {
		if _, ok := Allowed(policy, n.NodeClaims, w.view.Desired.Regions); ok && n.Routable() {
			seats = append(seats, n.NodeClaims)
		}
	}
	for _, id := range p.Holders {
		switch {
		case !mayRun(policy, nodes[id].NodeClaims, w.truth):
			return fmt.Sprintf("holder %s is not allowed", id)
		case !nodes[id].Routable():
			return fmt.Sprintf("holder %s is out of service", id)
		}
	}
	base := min(BaseHolders, len(seats))
	if policy.Max > 0 {
		base = min(base, policy.Max)
		if len(p.Holders) > policy.Max {
			return fmt.Sprintf("%d holders, max %d", len(p.Holders), policy.Max)
		}
	}
	if len(p.Holders) < base {
		return fmt.Sprintf("%d holders, want at least %d", len(p.Holders), base)
	}
	count := func(place string, set func(perigee.NodeID) bool) (n int) {
		t, err := perigee.ParseTerm(place)
		for _, s := range seats {
			if err == nil && t.Matches(s, w.view.Desired.Regions) && set(s.ID) {
				n++
			}
		}
		return n
	}
	all := func(perigee.NodeID) bool { return true }
	holds := func(id perigee.NodeID) bool { return slices.Contains(p.Holders, id) }
	warm := func(id perigee.NodeID) bool { return p.Warm[id] }
	short := false
	for _, place := range policy.Pin {
		short = short || count(place, holds) == 0
		if count(place, holds) == 0 && count(place, all) > 0 && (policy.Max == 0 || policy.Max >= len(policy.Pin)) {
			return fmt.Sprintf("no holder in pinned %s", place)
		}
	}
	soft := false // short of what may be relaxed
	run := func(c perigee.CallerRule, set func(perigee.NodeID) bool) (n int) {
		for _, s := range seats {
			if slices.ContainsFunc(c.Run, func(place string) bool {
				t, err := perigee.ParseTerm(place)
				return err == nil && t.Matches(s, w.view.Desired.Regions)
			}) && set(s.ID) {
				n++
			}
		}
		return n
	}
	for _, c := range policy.Callers {
		short = short || run(c, holds) == 0
		if run(c, holds) == 0 && run(c, all) > 0 && policy.Max == 0 {
			return "no holder for callers"
		}
	}
	if policy.Survive == perigee.SurviveRegion || policy.Survive == perigee.SurviveZone {
		key := func(n perigee.NodeClaims) string {
			if policy.Survive == perigee.SurviveRegion {
				return string(n.Region)
			}
			return string(n.Region) + "/" + n.Zone
		}
		have, can := map[string]bool{}, map[string]bool{}
		for _, s := range seats {
			can[key(s)] = true
			if holds(s.ID) {
				have[key(s)] = true
			}
		}
		soft = len(have) < BaseHolders
		if len(have) < min(BaseHolders, len(can)) && policy.Max == 0 {
			return fmt.Sprintf("survives in %d places, want %d", len(have), min(BaseHolders, len(can)))
		}
	}
	for place, n := range policy.Warm {
		soft = soft || count(place, warm) < n
		if got, can := count(place, warm), min(n, count(place, all)); got < can && policy.Max == 0 {
			return fmt.Sprintf("%d warm in %s, want %d", got, place, can)
		}
	}
	degrade := policy.OnUnsatisfiable == perigee.OnDegrade
	if (short || soft && !degrade) != (len(p.Unsatisfied) > 0) && len(seats) > 0 {
		return fmt.Sprintf("short = %v, %v, unsatisfied = %q", short, soft, p.Unsatisfied)
	}
	if (soft && degrade) != (len(p.Relaxed) > 0) && len(seats) > 0 {
		return fmt.Sprintf("short = %v, relaxed = %q", soft, p.Relaxed)
	}
	if len(seats) == 0 && len(p.Unsatisfied) == 0 {
		return "nobody can hold it, and unsatisfied is empty"
	}
	if len(p.Verdicts) != len(nodes) || !slices.IsSortedFunc(p.Verdicts, func(a, b Verdict) int { return strings.Compare(string(a.Node), string(b.Node)) }) {
		return "verdicts are not one a node, sorted"
	}
	for _, v := range p.Verdicts {
		if v.Chosen != holds(v.Node) || v.Warm != warm(v.Node) || v.Warm && !v.Chosen || v.Reason.Text() == "" || v.Text() == "" {
			return fmt.Sprintf("verdict %+v does not fit the plan", v)
		}
	}
	return ""
}

// check runs both on many worlds and returns the first violation that says what, "" for any.
func check(seed uint64, n int, route router, plan planner, what string) error {
	for i := range n {
		w := randomWorld(rand.New(rand.NewPCG(seed, uint64(i))))
		if bad := routeViolation(w, route(w.demand, w.view, w.fact, noon, w.chance)); bad != "" && strings.Contains(bad, what) {
			return fmt.Errorf("world %d: route: %s\n%v", i, bad, w)
		}
		if bad := planViolation(w, plan(w.demand.Function, w.view.Observed.Nodes, w.view.Desired.Regions)); bad != "" && strings.Contains(bad, what) {
			return fmt.Errorf("world %d: plan: %s\n%v", i, bad, w)
		}
	}
	return nil
}

func TestPromisesHoldInRandomWorlds(t *testing.T) {
	if err := check(seed(t), worlds, Route, PlanFunction, ""); err != nil {
		t.Fatal(err)
	}
}

// with returns fn with another policy.
func with(fn *perigee.Function, change func(*perigee.Policy)) *perigee.Function {
	p := fn.Live.Manifest.Placement
	change(&p)
	return function(p)
}

func unruled(p *perigee.Policy)     { p.Residency, p.Pin, p.Forbid, p.Callers = nil, nil, nil, nil }
func noCallers(p *perigee.Policy)   { p.Callers = nil }
func noResidency(p *perigee.Policy) { p.Residency = nil }
func noPin(p *perigee.Policy)       { p.Pin = nil }
func noForbid(p *perigee.Policy)    { p.Forbid = nil }

func ruleless(change func(*perigee.Policy)) func(*perigee.Policy, *perigee.Regions) {
	return func(p *perigee.Policy, _ *perigee.Regions) { change(p) }
}

// TestBrokenVariantsAreCaught shows that the test above has teeth: each variant lacks one rule or
// relaxes it in the way real schedulers have, and the test must notice within the same worlds.
func TestBrokenVariantsAreCaught(t *testing.T) {
	// relax routes with other rules in the cases that when names.
	relax := func(when func(Demand) bool, change func(*perigee.Policy, *perigee.Regions)) router {
		return func(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, chance float64) Decision {
			if when(d) {
				d.Function = with(d.Function, func(p *perigee.Policy) { change(p, v.Desired.Regions) })
			}
			return Route(d, v, fact, now, chance)
		}
	}
	// forgetful routes with a part of the demand or of the View left out.
	forgetful := func(forget func(*Demand, *perigee.Desired)) router {
		return func(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, chance float64) Decision {
			desired := *v.Desired
			forget(&d, &desired)
			return Route(d, &perigee.View{Desired: &desired, Observed: v.Observed}, fact, now, chance)
		}
	}
	replan := func(change func(*perigee.Policy)) planner {
		return func(fn *perigee.Function, nodes map[perigee.NodeID]*perigee.Peer, regions *perigee.Regions) Plan {
			return PlanFunction(with(fn, change), nodes, regions)
		}
	}
	always := func(Demand) bool { return true }
	withoutForbid := func(drop func(string, *perigee.Regions) bool) func(*perigee.Policy, *perigee.Regions) {
		return func(p *perigee.Policy, regions *perigee.Regions) {
			p.Forbid = slices.DeleteFunc(slices.Clone(p.Forbid), func(s string) bool { return drop(s, regions) })
		}
	}
	onlyReadable := withoutForbid(func(s string, _ *perigee.Regions) bool {
		_, err := perigee.ParseTerm(s)
		return err != nil
	})
	onlyKnown := withoutForbid(func(s string, regions *perigee.Regions) bool {
		t, err := perigee.ParseTerm(s)
		return err == nil && t.Place != "" && !regions.Known(s)
	})
	for _, tt := range []struct {
		name   string
		route  router
		plan   planner
		caught string // the finding
	}{
		{"route without residency", relax(always, ruleless(noResidency)), PlanFunction, "is not allowed"},
		{"route without pin", relax(always, ruleless(noPin)), PlanFunction, "is not allowed"},
		{"route without forbid", relax(always, ruleless(noForbid)), PlanFunction, "is not allowed"},
		{"route without callers", relax(always, ruleless(noCallers)), PlanFunction, "is not for this caller"},
		{"callers are those of the entry, wherever the client is", forgetful(func(d *Demand, _ *perigee.Desired) { d.Caller = "" }), PlanFunction, "is not for this caller"},
		{"entries that can't be read forbid nothing", relax(always, onlyReadable), PlanFunction, "is not allowed"},
		{"places not heard of yet are forbidden to nobody", relax(always, onlyKnown), PlanFunction, "is not allowed"},
		{"force outranks the rules", relax(func(d Demand) bool { return d.Steer.Mode == SteerForce }, ruleless(unruled)), PlanFunction, "is not allowed"},
		{"a client's preference outranks the rules", relax(func(d Demand) bool { return d.Steer.Mode == SteerPrefer }, ruleless(unruled)), PlanFunction, "is not allowed"},
		{"the rules are relaxed after a failed try", relax(func(d Demand) bool { return len(d.Tried) > 0 }, ruleless(unruled)), PlanFunction, "is not allowed"},
		{"the rules are relaxed when nobody is left", failOpen, PlanFunction, "is not allowed"},
		{"force is ignored", forgetful(func(d *Demand, _ *perigee.Desired) { d.Steer.Mode = SteerNone }), PlanFunction, "is not where the client forced"},
		{"revocation is ignored", forgetful(func(_ *Demand, v *perigee.Desired) { v.Revoked = nil }), PlanFunction, "is revoked"},
		{"tried nodes are offered again", forgetful(func(d *Demand, _ *perigee.Desired) { d.Tried = nil }), PlanFunction, "was tried"},
		{"plan without residency", Route, replan(noResidency), "is not allowed"},
		{"plan without pin", Route, replan(noPin), "is not allowed"},
		{"plan without forbid", Route, replan(noForbid), "is not allowed"},
		{"plan without max", Route, replan(func(p *perigee.Policy) { p.Max = 0 }), "max"},
		{"plan without warm", Route, replan(func(p *perigee.Policy) { p.Warm = nil }), "warm in"},
		{"plan without callers", Route, replan(noCallers), "for callers"},
		{"plan without survive", Route, replan(func(p *perigee.Policy) { p.Survive = "" }), "survives in"},
		{"degrade relaxes everything", Route, degraded, "unsatisfied"},
		{"degrade is ignored", Route, replan(func(p *perigee.Policy) { p.OnUnsatisfiable = "" }), "unsatisfied"},
		{"plan takes dead and draining nodes", Route, raise, "is out of service"},
	} {
		if check(1, worlds, tt.route, tt.plan, tt.caught) == nil {
			t.Errorf("%s: not caught", tt.name)
		}
	}
}

// failOpen answers a request that the rules leave nobody for with whoever is there.
func failOpen(d Demand, v *perigee.View, fact func(perigee.NodeID) Fact, now time.Time, chance float64) Decision {
	if out := Route(d, v, fact, now, chance); out.Refusal == nil {
		return out
	}
	d.Function = with(d.Function, unruled)
	return Route(d, v, fact, now, chance)
}

// degraded hides all that is unsatisfied when the policy may be relaxed.
func degraded(fn *perigee.Function, nodes map[perigee.NodeID]*perigee.Peer, regions *perigee.Regions) Plan {
	p := PlanFunction(fn, nodes, regions)
	if fn.Policy().OnUnsatisfiable == perigee.OnDegrade {
		p.Unsatisfied = nil
	}
	return p
}

// raise plans as if all nodes were in service.
func raise(fn *perigee.Function, nodes map[perigee.NodeID]*perigee.Peer, regions *perigee.Regions) Plan {
	up := map[perigee.NodeID]*perigee.Peer{}
	for id, p := range nodes {
		q := *p
		q.State, q.Draining = perigee.NodeAlive, false
		up[id] = &q
	}
	return PlanFunction(fn, up, regions)
}

// Equal input, equal output: whatever order the maps are walked in.
func TestDecisionsAreDeterministic(t *testing.T) {
	s := seed(t)
	for i := range 300 {
		w := randomWorld(rand.New(rand.NewPCG(s, uint64(i))))
		route := Route(w.demand, w.view, w.fact, noon, w.chance)
		plan := PlanFunction(w.demand.Function, w.view.Observed.Nodes, w.view.Desired.Regions)
		for range 10 {
			again := randomWorld(rand.New(rand.NewPCG(s, uint64(i)))) // other maps, same content
			if got := Route(again.demand, again.view, again.fact, noon, again.chance); !reflect.DeepEqual(got, route) {
				t.Fatalf("world %d: Route: %+v, then %+v", i, route, got)
			}
			if got := PlanFunction(again.demand.Function, again.view.Observed.Nodes, again.view.Desired.Regions); !reflect.DeepEqual(got, plan) {
				t.Fatalf("world %d: PlanFunction: %+v, then %+v", i, plan, got)
			}
		}
	}
}

// Allowed agrees with the plain reading of the rules when it knows all regions and can read all
// entries, and is never more generous.
func TestAllowedAgreesWithPlainReading(t *testing.T) {
	s := seed(t)
	for i := range worlds {
		w := randomWorld(rand.New(rand.NewPCG(s, uint64(i))))
		sure := w.truth == w.view.Desired.Regions &&
			!slices.ContainsFunc(w.policy().Forbid, func(e string) bool {
				t, err := perigee.ParseTerm(e)
				return err == nil && t.Place != "" && !w.truth.Known(t.Place)
			})
		for _, p := range w.view.Observed.Nodes {
			rule, ok := Allowed(w.policy(), p.NodeClaims, w.view.Desired.Regions)
			want := mayRun(w.policy(), p.NodeClaims, w.truth)
			if ok && !want || sure && ok != want || ok != (rule == "") {
				t.Fatalf("world %d: Allowed(%s) = %q, %v; plain reading %v\n%v", i, p.ID, rule, ok, want, w)
			}
		}
	}
}
