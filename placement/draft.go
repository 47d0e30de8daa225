package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// draft is the plan of one function while it is being made.
type draft struct {
	*Planner
	*shape
	fn     *perigee.Function
	target *target

	demands  []demand // of the shape, counted again where a disk is full
	seats    []seat
	holders  []*holder // in the order in which they were taken
	inRegion []int32   // how many of them, by member.region
	inZone   []int32   // and by member.zone
	capped   bool      // max kept a seat from being taken
	missed   bool      // an optional holder could not be had

	unsatisfied []string
	relaxed     []string
}

// seat is a node that is in service and allowed, with its place in the order of choice. There is one for
// each function and node, so it is small.
type seat struct {
	*member
	score        uint64
	index        int32 // among the seats
	region, zone int32 // those of the member, at hand
	tier         int32 // the first entry of prefer that it is in; their number if it is in none
	near         int8  // how far it is from the target of near, in powers of two; 0 = within a millisecond, or no target
	taken        bool
}

// holder is a seat that was taken.
type holder struct {
	*seat
	warm   bool
	ask    int16 // the number of the demand it was taken for; anyNode or oneNode if there was none
	reason Reason
	rule   string
	gain   uint32 // of an optional one
}

// What a holder was taken for besides demands.
const (
	anyNode = -1 - iota // the best there was
	oneNode             // this very node
)

// room is what drafts use again, one after the other.
type room struct {
	seats            []seat
	inRegion, inZone []int32
	shapes           map[string]*shape  // by policy
	rulings          map[string]*ruling // likewise
}

func newDraft(pl *Planner, fn *perigee.Function, at *room) *draft {
	d := &draft{
		Planner: pl, fn: fn, shape: pl.shapeOf(fn.Policy(), at), target: pl.target(fn),
		inRegion: cleared(&at.inRegion, pl.regionCount), inZone: cleared(&at.inZone, pl.zoneCount),
	}
	d.seats = at.seats[:0]
	hash := hashName(fn.Name)
	for i := range d.shape.open {
		s := d.shape.open[i]
		if noRoom(s.member, fn) {
			continue
		}
		s.score = s.member.score(hash)
		if d.target != nil {
			s.near = int8(d.target.bucket(s.member))
		}
		d.seats = append(d.seats, s)
	}
	at.seats = d.seats
	d.demands = d.shape.demands
	if d.roomless() {
		d.demands = recount(d.demands, d.seats)
	}
	return d
}

// roomless reports whether full disks keep nodes from holding the function that may otherwise.
func (d *draft) roomless() bool { return len(d.seats) < len(d.shape.open) }

// noRoom reports whether a node's disk is full: then it keeps what it has, and takes nothing new.
func noRoom(m *member, fn *perigee.Function) bool {
	return m.Full && fn.Live != nil && m.Revisions[fn.Live.ID] == perigee.Absent
}

// cleared returns n zeros in the room of *s.
func cleared(s *[]int32, n int) []int32 {
	if cap(*s) < n {
		*s = make([]int32, n)
	}
	*s = (*s)[:n]
	clear(*s)
	return *s
}

// seatDemands gives each place that the policy names its holders. Holders that are there already are
// counted, and warmed, before others are added.
func (d *draft) seatDemands() {
	list := d.demands
	for i := range list {
		dm := &list[i]
		have := 0
		for _, s := range d.holders {
			if dm.has(s.seat) && (dm.hard() || s.warm || have < dm.n) {
				s.warm = s.warm || !dm.hard()
				have++
			}
		}
		for ; have < dm.n; have++ {
			reserve := 0
			if !dm.hard() {
				reserve = d.reserve(dm, list[i:])
			}
			s := d.take(dm.has, dm.reason, dm.rule, reserve)
			if s == nil {
				d.lacks(dm, have)
				break
			}
			s.warm, s.ask = !dm.hard(), dm.ask
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
		if pin.hard() && pin.open > 0 && !d.covers(pin, dm) && !slices.ContainsFunc(d.holders, func(s *holder) bool { return pin.has(s.seat) }) {
			n++
		}
	}
	return n
}

// covers reports whether all seats of inner are in outer.
func (d *draft) covers(outer, inner *demand) bool {
	for i := range d.seats {
		if s := &d.seats[i]; inner.has(s) && !outer.has(s) {
			return false
		}
	}
	return true
}

// seatOptional adds the holders that demand asks for, in that order, as far as survive and max leave room.
func (d *draft) seatOptional(list []perigee.Optional) {
	for _, o := range list {
		at, found := slices.BinarySearchFunc(d.seats, o.Node, func(s seat, id perigee.NodeID) int { return cmp.Compare(s.ID, id) })
		switch {
		case !found:
			d.missed = true
		case d.seats[at].taken:
			for _, h := range d.holders {
				if h.ID == o.Node {
					h.gain = o.Gain
				}
			}
		default:
			if h := d.seat(&d.seats[at], ReasonForDemand, "", d.unsurvived(&d.seats[at])); h != nil {
				h.ask, h.gain, h.warm = oneNode, o.Gain, true
			}
		}
	}
}

// unsurvived returns how many holders survive asks for beyond those that there are with one more.
func (d *draft) unsurvived(with *seat) int {
	places, taken := d.survivors()
	if places == nil {
		return 0
	}
	have := distinct(*places)
	if (*places)[taken(with)] == 0 {
		have++
	}
	return max(0, BaseHolders-have)
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
		case n > 0 && int(s.tier) < n:
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
func (d *draft) survivors() (counts *[]int32, of func(*seat) int32) {
	switch d.policy.Survive {
	case perigee.SurviveZone:
		return &d.inZone, func(s *seat) int32 { return s.zone }
	case perigee.SurviveRegion:
		return &d.inRegion, func(s *seat) int32 { return s.region }
	}
	return nil, nil
}

func distinct(counts []int32) (n int) {
	for _, c := range counts {
		if c > 0 {
			n++
		}
	}
	return n
}

// take makes a holder of the best free seat that fits, nil for any, and returns it; nil if there is
// none or max, less a reserve, is reached.
func (d *draft) take(fits func(*seat) bool, reason Reason, rule string, reserve int) *holder {
	var best *seat
	var least uint64
	for i := range d.seats {
		s := &d.seats[i]
		if s.taken || fits != nil && !fits(s) {
			continue
		}
		if rank := d.rank(s); best == nil || rank < least || rank == least && s.precedes(best) {
			best, least = s, rank
		}
	}
	if best == nil {
		return nil
	}
	return d.seat(best, reason, rule, reserve)
}

// seat makes a holder of a free seat, unless max, less a reserve, is reached.
func (d *draft) seat(best *seat, reason Reason, rule string, reserve int) *holder {
	if d.policy.Max > 0 && len(d.holders)+reserve >= d.policy.Max {
		d.capped = true
		return nil
	}
	best.taken = true
	h := &holder{seat: best, ask: anyNode, reason: reason, rule: rule}
	d.holders = append(d.holders, h)
	d.inRegion[best.region]++
	d.inZone[best.zone]++
	return h
}

// rank is the order of choice, lowest first: the earlier entry of prefer, the nearer to the target, the
// less used zone, the less used region. Seats of one rank go by precedes.
func (d *draft) rank(s *seat) uint64 {
	return uint64(s.tier)<<48 | uint64(s.near)<<40 | uint64(d.inZone[s.zone])<<20 | uint64(d.inRegion[s.region])
}

// precedes is total, since IDs differ.
func (s *seat) precedes(other *seat) bool {
	return s.score > other.score || s.score == other.score && s.ID < other.ID
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
	*v = Verdict{Node: s.ID, Region: s.Region, Zone: s.Zone, State: s.State, Chosen: s.taken}
	switch {
	case s.taken:
		h := d.holders[slices.IndexFunc(d.holders, func(h *holder) bool { return h.seat == s })]
		v.Warm, v.Reason, v.Rule, v.Gain = h.warm, h.reason, h.rule, h.gain
	case d.capped:
		v.Reason, v.Rule = ReasonOverMax, fmt.Sprintf("max = %d", d.policy.Max)
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
