package placement

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// A holder beyond those that the policy asks for costs memory and disk, so it has to save waiting: the
// seconds that all calls of one second are on their way, together.
const (
	enterGain = 0.050 // one that saves so much is added: 50 ms on each of one request a second
	leaveGain = 0.020 // one that saves less is dropped, if it does for lowFor

	// Where one takes the place of another, so that there are as many as before, a move is all it costs.
	enterMove = 0.020
	leaveMove = 0.005

	lowFor = time.Minute
	dwell  = 2 * time.Minute // what was added stays so long

	movesPerMinute = 12 // changes of one function's optional holders
	movesAtOnce    = 8

	// MaxOptional is how many optional holders a function has at most.
	MaxOptional = 32
)

// decision is one round for one function.
type decision struct {
	*scaled
	planner *Planner
	fn      *perigee.Function
	view    *perigee.View
	ways    *ways
	at      *room
	now     time.Time
	hasty   bool // no patience and no bound on moves: where things end
	moves   int

	open    []site             // one for each region that has a node to give
	sites   []site             // the holders of the plan as it is now
	fillers []perigee.Optional // of those, the ones that are there so that there are enough
	waits   float64            // what callers wait with these
}

func (d *decision) decide() {
	d.refill()
	d.chosen = slices.DeleteFunc(d.chosen, func(c chosen) bool { return !d.seats(c.Node) })
	d.look()
	for len(d.chosen) < MaxOptional && d.may() && (d.add() || d.swap()) {
		d.look()
	}
	for d.may() && d.drop() {
		d.look()
	}
	d.weigh()
}

// refill gives back the moves that time has brought.
func (d *decision) refill() {
	d.tokens = min(movesAtOnce, d.tokens+movesPerMinute*d.now.Sub(d.filled).Minutes())
	d.filled = d.now
}

func (d *decision) may() bool { return d.hasty || d.tokens >= 1 }

// moved counts a move.
func (d *decision) moved() bool {
	d.tokens--
	d.moves++
	return true
}

// seats reports whether a node can hold the function.
func (d *decision) seats(id perigee.NodeID) bool {
	p := d.view.Observed.Nodes[id]
	if p == nil || d.view.Desired.Revoked[id] || !p.Routable() {
		return false
	}
	_, ok := Allowed(d.fn.Policy(), p.NodeClaims, d.planner.catalogue)
	return ok
}

// plan returns the holders that there would be with these optional ones.
func (d *decision) plan(list []perigee.Optional) *draft {
	return d.planner.draftWith(d.fn, d.at, list)
}

func sitesOf(dr *draft) []site {
	out := make([]site, len(dr.holders))
	for i, h := range dr.holders {
		out[i] = site{id: h.ID, region: h.Region, target: dr.target.way(h.Peer)}
	}
	return out
}

// look finds out how things are with the holders that are chosen.
func (d *decision) look() {
	dr := d.plan(d.list())
	d.sites = sitesOf(dr)
	d.waits = d.calls.waiting(d.sites, d.ways)
	d.fillers = d.fillers[:0]
	filler := map[*seat]bool{}
	for _, h := range dr.holders {
		if h.reason == ReasonSpread || h.reason == ReasonWanted || h.reason == ReasonNear || h.reason == ReasonSurvives {
			filler[h.seat] = true
			d.fillers = append(d.fillers, perigee.Optional{Node: h.ID})
		}
	}
	best := map[int32]*seat{}
	for i := range dr.seats {
		s := &dr.seats[i]
		if s.taken && !filler[s] {
			continue
		}
		if b := best[s.region]; b == nil || d.before(dr, s, b) {
			best[s.region] = s
		}
	}
	d.open = d.open[:0]
	for _, s := range best {
		d.open = append(d.open, site{id: s.ID, region: s.Region, target: dr.target.way(s.Peer)})
	}
	slices.SortFunc(d.open, func(a, b site) int { return cmp.Compare(a.region, b.region) })
}

// before is the order in which a region gives its nodes: one that has the revision already, then the zone that
// is less used, then the less busy, then by the hash.
func (d *decision) before(dr *draft, a, b *seat) bool {
	rev := d.fn.Live.ID
	c := cmp.Or(
		cmp.Compare(b.Revisions[rev], a.Revisions[rev]),
		cmp.Compare(dr.inZone[a.zone], dr.inZone[b.zone]),
		cmp.Compare(crowd(a.Peer), crowd(b.Peer)),
	)
	return c < 0 || c == 0 && a.precedes(b)
}

// crowd is how many requests run on a node at once, in powers of two.
func crowd(p *perigee.Peer) (n int) {
	sum := uint64(0)
	for _, t := range p.Traffic {
		sum += uint64(t.Busy)
	}
	for ; sum >= 100; sum /= 2 {
		n++
	}
	return n
}

// add takes the node that saves most, if that is enough. It comes in the place of holders that are there for
// the number only, or, where those save something, besides them: then they are chosen, too.
func (d *decision) add() bool {
	var best []perigee.Optional
	most, saves := 0.0, 0.0
	try := func(more ...perigee.Optional) {
		sites := sitesOf(d.plan(append(d.list(), more...)))
		gain, grows := d.waits-d.calls.waiting(sites, d.ways), len(sites)-len(d.sites)
		if least := max(enterGain*float64(grows), enterMove); gain >= least && gain-enterGain*float64(grows) > most {
			best, most, saves = more, gain-enterGain*float64(grows), gain
		}
	}
	for _, s := range d.open {
		one := perigee.Optional{Node: s.id}
		try(one)
		others := slices.DeleteFunc(slices.Clone(d.fillers), func(o perigee.Optional) bool { return o.Node == s.id })
		for _, o := range others {
			try(o, one)
		}
		if len(others) > 1 {
			try(append(others, one)...)
		}
	}
	if best == nil {
		return false
	}
	best[len(best)-1].Gain = millis(saves)
	for _, o := range best {
		d.chosen = append(d.chosen, chosen{Optional: o, since: d.now})
	}
	return d.moved()
}

// swap takes a node in the place of another that has been there for a while.
func (d *decision) swap() bool {
	at, best, most := -1, site{}, enterMove
	for i := range d.chosen {
		if !d.hasty && d.now.Sub(d.chosen[i].since) < dwell {
			continue
		}
		for _, s := range d.open {
			list := d.list()
			list[i] = perigee.Optional{Node: s.id}
			if gain := d.waits - d.calls.waiting(sitesOf(d.plan(list)), d.ways); gain >= most && (gain > most || at < 0) {
				at, best, most = i, s, gain
			}
		}
	}
	if at < 0 {
		return false
	}
	d.chosen[at] = chosen{Optional: perigee.Optional{Node: best.id, Gain: millis(most)}, since: d.now}
	return d.moved()
}

// drop gives up the holder that saves least, if it has saved too little for a while and those that would
// remain are warm.
func (d *decision) drop() bool {
	at, least := -1, leaveGain
	for i := range d.chosen {
		c := &d.chosen[i]
		saves, alone := d.without(i)
		limit := leaveGain
		if alone {
			limit = leaveMove
		}
		if saves >= limit {
			c.low = time.Time{}
			continue
		}
		if c.low.IsZero() {
			c.low = d.now
		}
		patient := d.now.Sub(c.low) >= lowFor && d.now.Sub(c.since) >= dwell && d.ready(i)
		if (d.hasty || patient) && saves < least {
			at, least = i, saves
		}
	}
	if at < 0 {
		return false
	}
	d.chosen = slices.Delete(d.chosen, at, at+1)
	return d.moved()
}

// without returns how much longer callers wait without the i-th, and whether another node would take its place
// for the number.
func (d *decision) without(i int) (longer float64, another bool) {
	sites := sitesOf(d.plan(slices.Delete(d.list(), i, i+1)))
	return d.calls.waiting(sites, d.ways) - d.waits, len(sites) == len(d.sites)
}

// ready reports whether the other holders have the function: one breaks only what another has made. A node
// that would become one by that is waited for by the node that is to give it up.
func (d *decision) ready(i int) bool {
	for _, s := range d.sites {
		if s.id != d.chosen[i].Node && d.view.Observed.Nodes[s.id].Revisions[d.fn.Live.ID] == perigee.Absent {
			return false
		}
	}
	return true
}

// weigh notes what each one saves. Small changes are not told.
func (d *decision) weigh() {
	for i := range d.chosen {
		longer, _ := d.without(i)
		c, gain := &d.chosen[i], millis(longer)
		if c.Gain == 0 || math.Abs(float64(gain)-float64(c.Gain)) > 0.25*float64(c.Gain) {
			c.Gain = gain
		}
	}
}

func millis(seconds float64) uint32 {
	return uint32(math.Round(1000 * max(0, min(seconds, 1e6))))
}
