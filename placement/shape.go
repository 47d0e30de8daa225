package placement

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
)

// shape is what a policy makes of the nodes, the same for all functions that have it: who may hold them
// and which places ask for holders. It does not change.
type shape struct {
	*ruling
	open    []seat // with tier, and without what depends on the function; sorted by ID
	demands []demand
}

// ruling is a policy, read. It depends on the catalogue of regions and on no node.
type ruling struct {
	key    string // policyKey of
	policy *perigee.Policy
	rules  rules
	prefer []perigee.Term
	asks   []demand // without seats
}

// shapeOf returns the shape of a policy, that of another function if it has the same.
func (pl *Planner) shapeOf(p *perigee.Policy, at *room) *shape {
	key := policyKey(p)
	if s := at.shapes[key]; s != nil {
		return s
	}
	if at.shapes == nil {
		at.shapes = map[string]*shape{}
	}
	if at.rulings == nil {
		at.rulings = map[string]*ruling{}
	}
	r := at.rulings[key]
	if r == nil {
		r = &ruling{key: key, policy: p, rules: compile(p, pl.catalogue, nil)}
		r.prefer, _, _ = parseTerms(p.Prefer, nil)
		r.asks = r.rules.demands()
		at.rulings[key] = r
	}
	s := pl.newShape(r)
	at.shapes[key] = s
	return s
}

func (pl *Planner) newShape(r *ruling) *shape {
	s := &shape{ruling: r, demands: slices.Clone(r.asks)}
	regional := r.rules.regional() && !slices.ContainsFunc(r.prefer, func(t perigee.Term) bool { return t.Place == "" })
	standing, tiers := make([]exclusion, len(pl.regions)), make([]int32, len(pl.regions)) // of rules that name neither nodes nor labels
	for i, region := range pl.regions {
		n := perigee.NodeClaims{Region: region}
		standing[i], tiers[i] = r.rules.excludes(n), r.tier(n)
	}
	for i := range pl.members {
		m := &pl.members[i]
		if m.revoked || !m.routable {
			continue
		}
		out, tier := standing[m.region], tiers[m.region]
		if !regional {
			out, tier = r.rules.excludes(m.NodeClaims), r.tier(m.NodeClaims)
		}
		if out == nothing {
			s.open = append(s.open, seat{member: m, index: int32(len(s.open)), region: int32(m.region), zone: int32(m.zone), tier: tier})
		}
	}
	for i := range s.demands {
		dm := &s.demands[i]
		dm.seats = make([]bool, len(s.open))
		for k := range s.open {
			if r.rules.inAny(dm.terms, s.open[k].NodeClaims) {
				dm.seats[k] = true
				dm.open++
			}
		}
	}
	narrowFirst(s.demands)
	return s
}

// recount returns demands as they are where only these seats are open.
func recount(list []demand, seats []seat) []demand {
	out := slices.Clone(list)
	for i := range out {
		out[i].open = 0
		for k := range seats {
			if out[i].has(&seats[k]) {
				out[i].open++
			}
		}
	}
	narrowFirst(out)
	return out
}

// narrowFirst sorts demands by how many seats are open for them; among equals pins stand before callers and
// those before warm.
func narrowFirst(list []demand) {
	slices.SortFunc(list, func(a, b demand) int { return cmp.Or(cmp.Compare(a.open, b.open), cmp.Compare(a.ask, b.ask)) })
}

// counts returns how many seats there are for each ask, in the order of the manifest.
func (s *shape) counts() []int32 {
	out := make([]int32, len(s.demands))
	for i := range s.demands {
		out[s.demands[i].ask] = int32(s.demands[i].open)
	}
	return out
}

func (r *ruling) tier(n perigee.NodeClaims) int32 { return int32(tierOf(r.prefer, n, r.rules.regions)) }

// tierOf returns the index of the first entry of prefer that the node is in, or their number.
func tierOf(prefer []perigee.Term, n perigee.NodeClaims, regions *perigee.Regions) int {
	for i, t := range prefer {
		if t.Matches(n, regions) {
			return i
		}
	}
	return len(prefer)
}

// policyKey is equal for policies that say the same.
func policyKey(p *perigee.Policy) string {
	var b strings.Builder
	list := func(places []string) {
		for _, s := range places {
			b.WriteString(s)
			b.WriteByte(0)
		}
		b.WriteByte(1)
	}
	list(p.Residency)
	list(p.Pin)
	list(p.Forbid)
	list(p.Prefer)
	for i := range p.Callers {
		list(p.Callers[i].From)
		list(p.Callers[i].Run)
	}
	b.WriteByte(2)
	for _, place := range slices.Sorted(maps.Keys(p.Warm)) {
		b.WriteString(place + "=" + strconv.Itoa(p.Warm[place]) + "\x00")
	}
	list([]string{p.Near, p.Survive, p.OnUnsatisfiable, strconv.Itoa(p.Max)})
	return b.String()
}

// demand asks for holders in a place of the manifest: pin and callers for one, warm for n that are
// kept warm.
type demand struct {
	rule   string // as the manifest spells it
	text   string // the place
	terms  []perigee.Term
	reason Reason
	n      int
	ask    int16  // its number, in the order of the manifest
	open   int    // seats in the place
	seats  []bool // which they are, by seat.index
}

// has reports whether a seat is in the place.
func (dm *demand) has(s *seat) bool { return dm.seats[s.index] }

// hard reports that the demand is for a holder, warm or not.
func (dm *demand) hard() bool { return dm.reason != ReasonKeptWarm }

// demands lists what pin, callers and warm ask for. Narrow places come first, so that their holders
// count for the wider ones they lie in; that way no holder more than needed is taken.
func (r *rules) demands() (list []demand) {
	add := func(dm demand, places ...string) {
		for _, place := range places {
			t, err := perigee.ParseTerm(place)
			if err != nil {
				t = perigee.Term{Place: place} // no node is there
			}
			dm.terms = append(dm.terms, t)
		}
		dm.text, dm.ask = strings.Join(places, ", "), int16(len(list))
		list = append(list, dm)
	}
	for _, place := range r.policy.Pin {
		add(demand{rule: r.text(byPin), reason: ReasonPinned, n: 1}, place)
	}
	for i := range r.policy.Callers {
		add(demand{rule: "callers = [" + spellCaller(&r.policy.Callers[i]) + "]", reason: ReasonForCallers, n: 1}, r.policy.Callers[i].Run...)
	}
	for _, place := range slices.Sorted(maps.Keys(r.policy.Warm)) {
		n := r.policy.Warm[place]
		add(demand{rule: spellWarm(place, n), reason: ReasonKeptWarm, n: n}, place)
	}
	return list
}
