package placement

import (
	"cmp"
	"maps"
	"slices"

	"github.com/perigee-edge/perigee"
)

// Fleet is the plans of all functions of one View, without verdicts. It does not change and may be used
// from any goroutine.
type Fleet struct {
	desired *perigee.Desired
	planner *Planner
	rulings map[string]*ruling  // by policy
	open    map[*ruling][]int32 // how many seats there are for each of its asks
	kept    map[string]*kept    // by function
}

// kept is the plan of one function, with what tells whether a change of the cluster changes it.
type kept struct {
	*ruling
	key   string
	fn    *perigee.Function
	plan  Plan
	takes []take
	hash  uint64
	near  bool // it depends on measurements or on another function
	short bool // something is missing, which any node might bring
	tight bool // max bounds what is asked for, which makes all steps depend on all nodes
}

// take is one step of a draft: which seat was taken, and what for.
type take struct {
	region perigee.Region
	zone   string
	id     perigee.NodeID
	tier   int32
	score  uint64
	ask    int16 // the number of the ask that the step was for; anyNode or oneNode
	alone  byte  // the place had to have no holder yet: 'z' a zone, 'r' a region
}

// NewFleet plans all functions of a View.
func NewFleet(v *perigee.View) *Fleet {
	f := &Fleet{planner: &Planner{catalogue: v.Desired.Regions}, rulings: map[string]*ruling{}, kept: make(map[string]*kept, len(v.Desired.Functions))}
	return f.Next(v)
}

// Next plans all functions of a View that follows the one of f. Plans that can't have changed are taken
// over: the result is the same as NewFleet's, sooner.
func (f *Fleet) Next(v *perigee.View) *Fleet {
	next := &Fleet{desired: v.Desired, planner: NewPlanner(v), rulings: f.rulings, kept: maps.Clone(f.kept), open: map[*ruling][]int32{}}
	fresh := !f.planner.catalogue.Equal(next.planner.catalogue)
	if fresh || len(f.rulings) > 2*len(v.Desired.Functions)+100 {
		next.rulings = map[string]*ruling{}
	} else {
		next.planner.catalogue = f.planner.catalogue // an equal one, which the rulings have
	}
	changes := f.planner.changes(next.planner)
	moved, differ := f.planner.moved(next.planner)
	if !fresh && len(changes) == 0 && !differ && f.desired == v.Desired {
		return f
	}
	at := &room{rulings: next.rulings}
	seen := map[*ruling]*effects{}
	carry := func(name string, fn *perigee.Function, k *kept) {
		if !fresh && k != nil && k.is(fn) && !moved[name] && !next.planner.bars(k.fn, fn) {
			e := seen[k.ruling]
			if e == nil {
				e = newEffects(k.ruling, changes, f.open[k.ruling])
				seen[k.ruling] = e
				next.open[k.ruling] = e.open
			}
			if k.holds(e, len(changes)+len(moved)) {
				if k.fn != fn {
					next.kept[name] = k.renewed(fn)
				}
				return
			}
		}
		k = next.planner.keep(fn, at)
		next.kept[name] = k
		if next.open[k.ruling] == nil {
			next.open[k.ruling] = at.shapes[k.key].counts()
		}
	}
	if f.desired == v.Desired {
		for name, k := range f.kept {
			carry(name, k.fn, k)
		}
		return next
	}
	for name, fn := range v.Desired.Functions {
		carry(name, fn, f.kept[name])
	}
	if len(next.kept) > len(v.Desired.Functions) {
		maps.DeleteFunc(next.kept, func(name string, _ *kept) bool { return v.Desired.Functions[name] == nil })
	}
	return next
}

// Plan returns the plan of a function, without verdicts. One that is not in the View, or another by the
// same name, is planned now. The result is shared and must not be changed.
func (f *Fleet) Plan(fn *perigee.Function) Plan {
	if k := f.kept[fn.Name]; k != nil && k.is(fn) && !f.planner.bars(k.fn, fn) {
		return k.plan
	}
	return f.planner.draft(fn, &room{}).plan()
}

// Explain returns the plan of a function with its verdicts.
func (f *Fleet) Explain(fn *perigee.Function) Plan { return f.planner.Plan(fn) }

// Planner returns the planner of the View.
func (f *Fleet) Planner() *Planner { return f.planner }

func (pl *Planner) keep(fn *perigee.Function, at *room) *kept {
	d := pl.draft(fn, at)
	near := d.policy.Near
	k := &kept{
		ruling: d.ruling, key: d.key, fn: fn, plan: d.plan(), takes: make([]take, len(d.holders)), hash: hashName(fn.Name),
		near:  near != "" && near != perigee.NearClient,
		short: len(d.unsatisfied)+len(d.relaxed) > 0 || len(d.holders) < BaseHolders && !d.capped || d.roomless() || d.missed,
		tight: d.policy.Max > 0 && len(d.asks) > 0,
	}
	for i, h := range d.holders {
		t := take{region: h.Region, zone: h.Zone, id: h.ID, tier: h.tier, score: h.score, ask: h.ask}
		if h.reason == ReasonSurvives {
			t.alone = d.policy.Survive[0]
		}
		k.takes[i] = t
	}
	return k
}

// is reports whether a function is planned as the one that the plan was made for.
func (k *kept) is(fn *perigee.Function) bool {
	return k.fn == fn || k.fn.Name == fn.Name && (k.fn.Policy() == fn.Policy() || k.key == policyKey(fn.Policy()))
}

// bars reports whether the live revision tells two states of a function apart: where a disk is full, only
// what is there already may stay.
func (pl *Planner) bars(a, b *perigee.Function) bool {
	return pl.full && a != b && live(a) != live(b)
}

func live(fn *perigee.Function) perigee.RevisionID {
	if fn.Live == nil {
		return ""
	}
	return fn.Live.ID
}

func (k *kept) renewed(fn *perigee.Function) *kept {
	other := *k
	other.fn = fn
	return &other
}

// change is a node that is otherwise than it was; nil = it was not, or is not, there.
type change struct{ old, new *member }

// changes lists the nodes that plans see as different.
func (pl *Planner) changes(next *Planner) (out []change) {
	old, new := pl.members, next.members
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].ID < new[0].ID:
			out, old = append(out, change{old: &old[0]}), old[1:]
		case len(old) == 0 || new[0].ID < old[0].ID:
			out, new = append(out, change{new: &new[0]}), new[1:]
		default:
			if !alike(&old[0], &new[0]) {
				out = append(out, change{&old[0], &new[0]})
			}
			old, new = old[1:], new[1:]
		}
	}
	return out
}

// alike reports whether plans can't tell two states of a node apart.
func alike(a, b *member) bool {
	return a.Peer == b.Peer && a.revoked == b.revoked ||
		a.State == b.State && a.routable == b.routable && a.revoked == b.revoked && a.Region == b.Region && a.Zone == b.Zone &&
			a.Full == b.Full && (!a.Full || maps.Equal(a.Revisions, b.Revisions)) && a.weight == b.weight && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Near, b.Near)
}

// effects is what changes mean for all functions with one policy.
type effects struct {
	left  []*member // could hold them, and can no more
	came  []arrived // can hold them from now on
	asked bool      // an ask is about one of them
	turn  bool      // the order of the asks, by the number of seats, is another
	open  []int32   // these numbers
	full  bool      // the disk of one of them is or was full
}

// arrived is a node that can hold the functions of a policy from now on.
type arrived struct {
	*member
	tier int32
	asks []bool // those that it would serve
}

func newEffects(r *ruling, changes []change, open []int32) *effects {
	e := &effects{open: slices.Clone(open)}
	if e.open == nil {
		e.open = []int32{}
	}
	seat := func(m *member) bool {
		return m != nil && m.routable && !m.revoked && r.rules.excludes(m.NodeClaims) == nothing
	}
	count := func(m *member, n int32) []bool {
		in := make([]bool, len(r.asks))
		for i := range r.asks {
			if in[i] = r.rules.inAny(r.asks[i].terms, m.NodeClaims); in[i] {
				e.open[i] += n
				e.asked = true
			}
		}
		return in
	}
	for _, c := range changes {
		e.full = e.full || c.old != nil && c.old.Full || c.new != nil && c.new.Full
		if seat(c.old) {
			count(c.old, -1)
			e.left = append(e.left, c.old)
		}
		if seat(c.new) {
			e.came = append(e.came, arrived{c.new, r.tier(c.new.NodeClaims), count(c.new, 1)})
		}
	}
	e.turn = !slices.Equal(order(open), order(e.open))
	return e
}

// order returns the order in which asks are served.
func order(open []int32) []int {
	out := make([]int, len(open))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(open[a], open[b]) })
	return out
}

// holds reports whether the plan is certainly what it would be if it were made anew.
func (k *kept) holds(e *effects, changes int) bool {
	if k.near || k.short && changes > 0 || e.full || e.turn || k.tight && e.asked {
		return false
	}
	for _, m := range e.left {
		if slices.Contains(k.plan.Holders, m.ID) {
			return false
		}
	}
	for i := range e.came {
		if k.takesIn(&e.came[i]) {
			return false
		}
	}
	return true
}

// takesIn reports whether a node that came would have been taken in any step.
func (k *kept) takesIn(m *arrived) bool {
	n := take{region: m.Region, zone: m.Zone, id: m.ID, tier: m.tier, score: m.score(k.hash)}
	for i := range k.takes {
		if t := &k.takes[i]; (t.ask == anyNode || t.ask >= 0 && m.asks[t.ask]) && k.fits(&n, t, i) && k.before(&n, t, i) {
			return true
		}
	}
	return false
}

// fits reports whether a node could have been taken in the i-th step.
func (k *kept) fits(n, t *take, i int) bool {
	zones, regions := k.counts(n, i)
	return t.alone == 0 || t.alone == 'z' && zones == 0 || t.alone == 'r' && regions == 0
}

// before is the order of draft.take for a node and the one that was taken in the i-th step.
func (k *kept) before(n, t *take, i int) bool {
	nz, nr := k.counts(n, i)
	tz, tr := k.counts(t, i)
	switch {
	case n.tier != t.tier:
		return n.tier < t.tier
	case nz != tz:
		return nz < tz
	case nr != tr:
		return nr < tr
	case n.score != t.score:
		return n.score > t.score
	}
	return n.id < t.id
}

// counts returns how many holders there were before the i-th step in the zone and the region of a node.
func (k *kept) counts(n *take, i int) (zone, region int) {
	for j := range k.takes[:i] {
		if t := &k.takes[j]; t.region == n.region {
			region++
			if t.zone == n.zone {
				zone++
			}
		}
	}
	return zone, region
}
