package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
)

// draft is the plan of one function while it is being made.
type draft struct {
	*Planner
	fn          *perigee.Function
	policy      *perigee.Policy
	rules       rules
	seats       []seat
	holders     []*seat // the seats taken, in that order
	inRegion    []int   // how many of them, by member.region
	inZone      []int   // and by member.zone
	capped      bool    // max kept a seat from being taken
	verdicts    []Verdict
	unsatisfied []string
}

// seat is a node that is in service and allowed, with its place in the order of choice.
type seat struct {
	*member
	verdict *Verdict
	tier    int // the first entry of prefer that it is in; their number if it is in none
	score   uint64
	taken   bool
}

func newDraft(pl *Planner, fn *perigee.Function) *draft {
	p := fn.Policy()
	d := &draft{
		Planner:  pl,
		fn:       fn,
		policy:   p,
		rules:    compile(p, pl.catalogue, nil),
		inRegion: make([]int, pl.regionCount),
		inZone:   make([]int, pl.zoneCount),
		verdicts: make([]Verdict, len(pl.members)),
		seats:    make([]seat, 0, len(pl.members)),
	}
	prefer, _, _ := parseTerms(p.Prefer, nil)
	name := hashName(fn.Name)
	var texts [exclusions]string
	for ex := range exclusions {
		texts[ex] = d.rules.text(ex)
	}
	for i := range pl.members {
		m, v := &pl.members[i], &d.verdicts[i]
		*v = Verdict{Node: m.ID, Region: m.Region, Zone: m.Zone, State: m.State}
		ex := d.rules.excludes(m.NodeClaims)
		switch {
		case m.revoked:
			v.Reason = ReasonRevoked
		case ex != nothing:
			v.Reason, v.Rule = ReasonNotAllowed, texts[ex]
		case m.Routable():
			d.seats = append(d.seats, seat{m, v, tierOf(prefer, m.NodeClaims, d.rules.regions), score(name, m.ID), false})
		case m.State == perigee.NodeAlive || m.State == perigee.NodeSuspect:
			v.Reason = ReasonDraining
		default:
			v.Reason = ReasonDown
		}
	}
	return d
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

// demand asks for holders in a place of the manifest: pin for one, warm for n that are kept warm.
type demand struct {
	rule string // as the manifest spells it
	text string // the place
	term perigee.Term
	pin  bool
	n    int
	open int // seats in the place
}

// demands lists what pin and warm ask for. Narrow places come first, so that their holders count
// for the wider ones they lie in; that way no holder more than needed is taken.
func (d *draft) demands() []demand {
	var list []demand
	for _, place := range d.policy.Pin {
		list = append(list, demand{rule: d.rules.text(byPin), text: place, pin: true, n: 1})
	}
	for _, place := range slices.Sorted(maps.Keys(d.policy.Warm)) {
		n := d.policy.Warm[place]
		list = append(list, demand{rule: spellWarm(place, n), text: place, n: n})
	}
	for i := range list {
		dm := &list[i]
		t, err := perigee.ParseTerm(dm.text)
		if err != nil {
			t = perigee.Term{Place: dm.text} // no node is there
		}
		dm.term = t
		for k := range d.seats {
			if d.in(&d.seats[k], dm) {
				dm.open++
			}
		}
	}
	slices.SortStableFunc(list, func(a, b demand) int { // pins stand before warm
		return cmp.Compare(a.open, b.open)
	})
	return list
}

func (d *draft) in(s *seat, dm *demand) bool { return dm.term.Matches(s.NodeClaims, d.rules.regions) }

// seatDemands gives each pinned place a holder and each place of warm its warm holders. Holders
// that are there already are counted, and warmed, before others are added.
func (d *draft) seatDemands() {
	list := d.demands()
	for i := range list {
		dm := &list[i]
		have := 0
		for _, s := range d.holders {
			if d.in(s, dm) && (dm.pin || s.verdict.Warm || have < dm.n) {
				s.verdict.Warm = s.verdict.Warm || !dm.pin
				have++
			}
		}
		for ; have < dm.n; have++ {
			var s *seat
			if dm.pin {
				s = d.take(dm, ReasonPinned, dm.rule, 0)
			} else if s = d.take(dm, ReasonKeptWarm, dm.rule, d.reserve(dm, list[i:])); s != nil {
				s.verdict.Warm = true
			}
			if s == nil {
				d.lacks(dm, have)
				break
			}
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
		if pin.pin && pin.open > 0 && !d.covers(pin, dm) && !slices.ContainsFunc(d.holders, func(s *seat) bool { return d.in(s, pin) }) {
			n++
		}
	}
	return n
}

// covers reports whether all seats of inner are in outer.
func (d *draft) covers(outer, inner *demand) bool {
	for i := range d.seats {
		if s := &d.seats[i]; d.in(s, inner) && !d.in(s, outer) {
			return false
		}
	}
	return true
}

// seatBase adds holders up to BaseHolders.
func (d *draft) seatBase() {
	for len(d.holders) < BaseHolders {
		s := d.take(nil, ReasonSpread, "", 0)
		if s == nil {
			break
		}
		if n := len(d.policy.Prefer); n > 0 && s.tier < n {
			s.verdict.Reason, s.verdict.Rule = ReasonWanted, spell("prefer", d.policy.Prefer)
		}
	}
	if len(d.seats) == 0 && len(d.policy.Pin) == 0 {
		d.lacksAny()
	}
}

// take makes a holder of the best free seat in the place of dm, nil for anywhere, and returns it;
// nil if there is none or max, less a reserve, is reached.
func (d *draft) take(dm *demand, reason Reason, rule string, reserve int) *seat {
	var best *seat
	for i := range d.seats {
		s := &d.seats[i]
		if !s.taken && (dm == nil || d.in(s, dm)) && (best == nil || d.before(s, best)) {
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
	best.taken = true
	best.verdict.Chosen, best.verdict.Reason, best.verdict.Rule = true, reason, rule
	d.holders = append(d.holders, best)
	d.inRegion[best.region]++
	d.inZone[best.zone]++
	return best
}

// before is the order of choice; it is total, since IDs differ.
func (d *draft) before(a, b *seat) bool {
	return cmp.Or(
		cmp.Compare(a.tier, b.tier),
		cmp.Compare(d.inZone[a.zone], d.inZone[b.zone]),
		cmp.Compare(d.inRegion[a.region], d.inRegion[b.region]),
		cmp.Compare(b.score, a.score),
		strings.Compare(string(a.ID), string(b.ID)),
	) < 0
}

// plan writes down what was decided.
func (d *draft) plan() Plan {
	p := Plan{
		Function:    d.fn.Name,
		Holders:     make([]perigee.NodeID, 0, len(d.holders)),
		Warm:        make(map[perigee.NodeID]bool, len(d.holders)),
		Verdicts:    d.verdicts,
		Unsatisfied: d.unsatisfied,
	}
	for _, s := range d.holders {
		if len(d.policy.Warm) == 0 {
			s.verdict.Warm = true // no warm block: a holder loads what it admitted
		}
		if s.verdict.Warm {
			p.Warm[s.ID] = true
		}
		p.Holders = append(p.Holders, s.ID)
	}
	slices.Sort(p.Holders)
	for i := range d.seats {
		if s := &d.seats[i]; !s.taken {
			s.verdict.Reason = ReasonNotNeeded
			if d.capped {
				s.verdict.Reason, s.verdict.Rule = ReasonOverMax, fmt.Sprintf("max = %d", d.policy.Max)
			}
		}
	}
	return p
}

// spellWarm writes one entry of warm as the manifest does.
func spellWarm(place string, n int) string { return fmt.Sprintf("warm = { %s = %d }", place, n) }
