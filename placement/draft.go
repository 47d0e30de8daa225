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

// draft is the plan of one function while it is being made.
type draft struct {
	*Planner
	fn     *perigee.Function
	policy *perigee.Policy
	rules  rules
	hash   uint64 // of the function's name
	prefer []perigee.Term
	target *target
	barred map[perigee.NodeID]bool // nodes that hold their share already; nil = none

	seats    []seat
	holders  []*seat // the seats taken, in that order
	inRegion []int   // how many of them, by member.region
	inZone   []int   // and by member.zone
	capped   bool    // max kept a seat from being taken

	unsatisfied []string
	relaxed     []string
}

// seat is a node that is in service and allowed, with its place in the order of choice.
type seat struct {
	*member
	tier   int // the first entry of prefer that it is in; their number if it is in none
	near   int // how far it is from the target of near, in powers of two; 0 = within a millisecond, or no target
	score  uint64
	barred bool
	taken  bool
	warm   bool
	reason Reason // if taken
	rule   string
}

// room is what drafts use again, one after the other.
type room struct {
	seats            []seat
	inRegion, inZone []int
	standing         []exclusion // by region, for rules that name neither nodes nor labels
	tiers            []int       // likewise
}

func newDraft(pl *Planner, fn *perigee.Function, barred map[perigee.NodeID]bool, at *room) *draft {
	p := fn.Policy()
	d := &draft{
		Planner: pl, fn: fn, policy: p, rules: compile(p, pl.catalogue, nil), hash: hashName(fn.Name), barred: barred,
		inRegion: cleared(&at.inRegion, pl.regionCount), inZone: cleared(&at.inZone, pl.zoneCount),
	}
	d.prefer, _, _ = parseTerms(p.Prefer, nil)
	d.target = pl.target(fn)
	d.seats = at.seats[:0]
	regional := d.rules.regional() && !slices.ContainsFunc(d.prefer, func(t perigee.Term) bool { return t.Place == "" })
	if regional {
		at.standing, at.tiers = at.standing[:0], at.tiers[:0]
		for _, region := range pl.regions {
			n := perigee.NodeClaims{Region: region}
			at.standing = append(at.standing, d.rules.excludes(n))
			at.tiers = append(at.tiers, tierOf(d.prefer, n, d.rules.regions))
		}
	}
	for i := range pl.members {
		m := &pl.members[i]
		if m.revoked || !m.routable || d.noRoom(m) {
			continue
		}
		s := seat{member: m}
		if regional {
			if at.standing[m.region] != nothing {
				continue
			}
			s.tier = at.tiers[m.region]
		} else {
			if d.rules.excludes(m.NodeClaims) != nothing {
				continue
			}
			s.tier = tierOf(d.prefer, m.NodeClaims, d.rules.regions)
		}
		s.near, s.score, s.barred = d.target.bucket(m), m.score(d.hash), barred[m.ID]
		d.seats = append(d.seats, s)
	}
	at.seats = d.seats
	return d
}

// noRoom reports whether the node's disk is full: then it keeps what it has, and takes nothing new.
func (d *draft) noRoom(m *member) bool {
	return m.Full && d.fn.Live != nil && m.Revisions[d.fn.Live.ID] == perigee.Absent
}

// cleared returns n zeros in the room of *s.
func cleared(s *[]int, n int) []int {
	if cap(*s) < n {
		*s = make([]int, n)
	}
	*s = (*s)[:n]
	clear(*s)
	return *s
}

// tierOf returns the index of the first entry of prefer that the node is in, or their number.
func tierOf(prefer []perigee.Term, n perigee.NodeClaims, regions *perigee.Regions) int {
	for i, t := range prefer {
		if t.Matches(n, regions) {
			return i
		}
	}
	return len(prefer)
}

// demand asks for holders in a place of the manifest: pin and callers for one, warm for n that are
// kept warm.
type demand struct {
	rule   string // as the manifest spells it
	text   string // the place
	terms  []perigee.Term
	reason Reason
	n      int
	open   int // seats in the place
}

// hard reports that the demand is for a holder, warm or not.
func (dm *demand) hard() bool { return dm.reason != ReasonKeptWarm }

// demands lists what pin, callers and warm ask for. Narrow places come first, so that their holders
// count for the wider ones they lie in; that way no holder more than needed is taken.
func (d *draft) demands() []demand {
	var list []demand
	add := func(dm demand, places ...string) {
		for _, place := range places {
			t, err := perigee.ParseTerm(place)
			if err != nil {
				t = perigee.Term{Place: place} // no node is there
			}
			dm.terms = append(dm.terms, t)
		}
		dm.text = strings.Join(places, ", ")
		list = append(list, dm)
	}
	for _, place := range d.policy.Pin {
		add(demand{rule: d.rules.text(byPin), reason: ReasonPinned, n: 1}, place)
	}
	for i := range d.policy.Callers {
		add(demand{rule: "callers = [" + spellCaller(&d.policy.Callers[i]) + "]", reason: ReasonForCallers, n: 1}, d.policy.Callers[i].Run...)
	}
	for _, place := range slices.Sorted(maps.Keys(d.policy.Warm)) {
		n := d.policy.Warm[place]
		add(demand{rule: spellWarm(place, n), reason: ReasonKeptWarm, n: n}, place)
	}
	for i := range list {
		for k := range d.seats {
			if d.in(d.seats[k].NodeClaims, &list[i]) {
				list[i].open++
			}
		}
	}
	slices.SortStableFunc(list, func(a, b demand) int { // pins stand before callers and those before warm
		return cmp.Compare(a.open, b.open)
	})
	return list
}

func (d *draft) in(n perigee.NodeClaims, dm *demand) bool { return d.rules.inAny(dm.terms, n) }

// seatDemands gives each place that the policy names its holders. Holders that are there already are
// counted, and warmed, before others are added.
func (d *draft) seatDemands() {
	list := d.demands()
	for i := range list {
		dm := &list[i]
		have := 0
		for _, s := range d.holders {
			if d.in(s.NodeClaims, dm) && (dm.hard() || s.warm || have < dm.n) {
				s.warm = s.warm || !dm.hard()
				have++
			}
		}
		for ; have < dm.n; have++ {
			reserve := 0
			if !dm.hard() {
				reserve = d.reserve(dm, list[i:])
			}
			s := d.take(func(s *seat) bool { return d.in(s.NodeClaims, dm) }, dm.reason, dm.rule, reserve)
			if s == nil {
				d.lacks(dm, have)
				break
			}
			s.warm = !dm.hard()
		}
	}
}

// reserve counts the pins that are still to get a holder and that one in dm's place would not
// satisfy for sure: max must leave room for them.
func (d *draft) reserve(dm *demand, rest []demand) (n int) {
	if d.policy.Max == 0 {
		return 0
	}
	for i := range rest {
		pin := &rest[i]
		if pin.hard() && pin.open > 0 && !d.covers(pin, dm) && !slices.ContainsFunc(d.holders, func(s *seat) bool { return d.in(s.NodeClaims, pin) }) {
			n++
		}
	}
	return n
}

// covers reports whether all seats of inner are in outer.
func (d *draft) covers(outer, inner *demand) bool {
	for i := range d.seats {
		if n := d.seats[i].NodeClaims; d.in(n, inner) && !d.in(n, outer) {
			return false
		}
	}
	return true
}

// seatBase adds holders until there are BaseHolders, and until they are in as many places as survive
// wants.
func (d *draft) seatBase() {
	places, taken := d.survivors()
	for places != nil && distinct(*places) < BaseHolders {
		s := d.take(func(s *seat) bool { return (*places)[taken(s)] == 0 }, ReasonSurvives, spellSurvive(d.policy.Survive), 0)
		if s == nil {
			d.lacksSurvive(distinct(*places))
			break
		}
	}
	for len(d.holders) < BaseHolders {
		s := d.take(nil, ReasonSpread, "", 0)
		if s == nil {
			break
		}
		switch n := len(d.policy.Prefer); {
		case n > 0 && s.tier < n:
			s.reason, s.rule = ReasonWanted, spell("prefer", d.policy.Prefer)
		case d.target != nil:
			s.reason, s.rule = ReasonNear, "near = \""+d.policy.Near+"\""
		}
	}
	if len(d.seats) == 0 && len(d.policy.Pin) == 0 {
		d.lacksAny()
	}
}

// survivors returns the counts that survive is about, and the place of a seat among them; nil if any
// two nodes will do.
func (d *draft) survivors() (counts *[]int, of func(*seat) int) {
	switch d.policy.Survive {
	case perigee.SurviveZone:
		return &d.inZone, func(s *seat) int { return s.zone }
	case perigee.SurviveRegion:
		return &d.inRegion, func(s *seat) int { return s.region }
	}
	return nil, nil
}

func distinct(counts []int) (n int) {
	for _, c := range counts {
		if c > 0 {
			n++
		}
	}
	return n
}

// take makes a holder of the best free seat that fits, nil for any, and returns it; nil if there is
// none or max, less a reserve, is reached.
func (d *draft) take(fits func(*seat) bool, reason Reason, rule string, reserve int) *seat {
	var best *seat
	for i := range d.seats {
		s := &d.seats[i]
		if !s.taken && (best == nil || d.before(s, best)) && (fits == nil || fits(s)) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	if d.policy.Max > 0 && len(d.holders)+reserve >= d.policy.Max {
		d.capped = true
		return nil
	}
	best.taken, best.reason, best.rule = true, reason, rule
	d.holders = append(d.holders, best)
	d.inRegion[best.region]++
	d.inZone[best.zone]++
	return best
}

// before is the order of choice; it is total, since IDs differ.
func (d *draft) before(a, b *seat) bool {
	switch {
	case a.barred != b.barred:
		return b.barred
	case a.tier != b.tier:
		return a.tier < b.tier
	case a.near != b.near:
		return a.near < b.near
	case a.zone != b.zone && d.inZone[a.zone] != d.inZone[b.zone]:
		return d.inZone[a.zone] < d.inZone[b.zone]
	case a.region != b.region && d.inRegion[a.region] != d.inRegion[b.region]:
		return d.inRegion[a.region] < d.inRegion[b.region]
	case a.score != b.score:
		return a.score > b.score
	}
	return a.ID < b.ID
}

// plan writes down what was decided.
func (d *draft) plan() Plan {
	p := Plan{
		Function:    d.fn.Name,
		Holders:     make([]perigee.NodeID, 0, len(d.holders)),
		Warm:        make(map[perigee.NodeID]bool, len(d.holders)),
		Unsatisfied: d.unsatisfied,
		Relaxed:     d.relaxed,
	}
	for _, s := range d.holders {
		if len(d.policy.Warm) == 0 {
			s.warm = true // no warm block: a holder loads what it admitted
		}
		if s.warm {
			p.Warm[s.ID] = true
		}
		p.Holders = append(p.Holders, s.ID)
	}
	slices.Sort(p.Holders)
	return p
}

// verdicts says of each node whether it is a holder, and why.
func (d *draft) verdicts() []Verdict {
	out := make([]Verdict, len(d.members))
	seats := d.seats
	for i := range d.members {
		m, v := &d.members[i], &out[i]
		if len(seats) > 0 && seats[0].ID == m.ID { // both are sorted by ID
			d.seated(v, &seats[0])
			seats = seats[1:]
		} else {
			*v = d.unseated(m)
		}
	}
	return out
}

func (d *draft) seated(v *Verdict, s *seat) {
	*v = Verdict{Node: s.ID, Region: s.Region, Zone: s.Zone, State: s.State, Chosen: s.taken, Warm: s.warm, Reason: s.reason, Rule: s.rule}
	switch {
	case s.taken:
	case d.capped:
		v.Reason, v.Rule = ReasonOverMax, fmt.Sprintf("max = %d", d.policy.Max)
	case s.barred:
		v.Reason = ReasonFull
	default:
		v.Reason = ReasonNotNeeded
	}
}

// unseated says why a node can't hold the function.
func (d *draft) unseated(m *member) Verdict {
	v := Verdict{Node: m.ID, Region: m.Region, Zone: m.Zone, State: m.State}
	ex := d.rules.excludes(m.NodeClaims)
	switch {
	case m.revoked:
		v.Reason = ReasonRevoked
	case ex != nothing:
		v.Reason, v.Rule = ReasonNotAllowed, d.rules.text(ex)
	case m.routable:
		v.Reason = ReasonDiskFull
	case m.State == perigee.NodeAlive || m.State == perigee.NodeSuspect:
		v.Reason = ReasonDraining
	default:
		v.Reason = ReasonDown
	}
	return v
}

// spellWarm writes one entry of warm as the manifest does.
func spellWarm(place string, n int) string { return fmt.Sprintf("warm = { %s = %d }", place, n) }

func spellSurvive(goal string) string { return fmt.Sprintf("survive = %q", goal) }

// bucket returns how far a round trip is, in powers of two of a millisecond: what is measured again and
// again must not move holders whenever it trembles.
func bucket(d time.Duration) (n int) {
	for d >= time.Millisecond {
		d /= 2
		n++
	}
	return n
}
