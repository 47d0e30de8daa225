package placement

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// lingers is how long a node that is not responsible any more repeats what it decided, so that the one that is
// can take over.
const lingers = 30 * time.Second

// Scaler decides the optional holders of the functions that one node is responsible for: those that make
// callers wait less than they would without. It is greedy facility location: of all regions that have a node
// to give, the one goes next where a holder saves most, until none saves enough. It keeps what it did when,
// and is for one goroutine.
type Scaler struct {
	self      perigee.NodeID
	functions map[string]*scaled
	ways      *ways

	members  []perigee.NodeID // in service, when mine was made
	desired  *perigee.Desired // likewise
	mine     map[string]bool
	existing map[string]bool // that others claim, in service or not
}

// scaled is one function.
type scaled struct {
	chosen []chosen
	tokens float64 // moves that are allowed now
	filled time.Time
	lost   time.Time // since when another node is responsible; zero = this one is

	rests bool     // nothing was to be done when it was decided last
	by    *Planner // with this
	calls *Calls   // and these
}

// chosen is one optional holder.
type chosen struct {
	perigee.Optional
	since time.Time
	low   time.Time // since when it saves too little; zero = it does not
}

// NewScaler returns the Scaler of a node.
func NewScaler(self perigee.NodeID) *Scaler {
	return &Scaler{self: self, functions: map[string]*scaled{}}
}

// Step decides anew and returns what the node's row is to say. fleet are the plans of the View. It is meant
// to be called about once a second.
func (s *Scaler) Step(v *perigee.View, fleet *Fleet, now time.Time) map[string][]perigee.Optional {
	pl := fleet.planner
	s.update(v, pl)
	calls := CallsOf(v, func(name string) bool { return s.mine[name] })
	at := &room{rulings: map[string]*ruling{}}
	for name := range s.mine {
		f := s.functions[name]
		if f == nil && calls[name] == nil && !s.existing[name] {
			continue
		}
		if f == nil {
			f = &scaled{tokens: movesAtOnce, filled: now}
			f.adopt(pl.optional[name], now)
			s.functions[name] = f
		}
		f.lost = time.Time{}
		c := calls[name]
		if c == nil {
			c = &Calls{}
		}
		d := decision{scaled: f, planner: pl, fn: v.Desired.Functions[name], view: v, ways: s.ways, at: at, now: now}
		if !f.rests || f.by != pl || !f.calls.equal(c) {
			f.by, f.calls = pl, c
			d.decide()
			f.rests = d.moves == 0 && d.may() && !slices.ContainsFunc(f.chosen, func(c chosen) bool { return !c.low.IsZero() || now.Sub(c.since) < dwell })
		}
	}
	out := map[string][]perigee.Optional{}
	for name, f := range s.functions {
		switch {
		case v.Desired.Functions[name] == nil:
			delete(s.functions, name)
			continue
		case s.mine[name]:
			if len(f.chosen) == 0 && calls[name] == nil && !s.existing[name] {
				delete(s.functions, name)
				continue
			}
		case f.lost.IsZero():
			f.lost = now
		case now.Sub(f.lost) > lingers:
			delete(s.functions, name)
			continue
		}
		if list := f.list(); len(list) > 0 || s.existing[name] {
			out[name] = list
		}
	}
	return out
}

// update notes for what this node is responsible now.
func (s *Scaler) update(v *perigee.View, pl *Planner) {
	if s.ways == nil || !s.ways.catalogue.Equal(pl.catalogue) {
		s.ways = newWays(pl.catalogue)
	}
	var members []perigee.NodeID
	s.existing = map[string]bool{}
	for i := range pl.members {
		m := &pl.members[i]
		if m.routable && !m.revoked {
			members = append(members, m.ID)
		}
		if m.ID != s.self {
			for name := range m.Optional {
				s.existing[name] = true
			}
		}
	}
	if s.desired == v.Desired && slices.Equal(members, s.members) {
		return
	}
	s.desired, s.members, s.mine = v.Desired, members, map[string]bool{}
	for name := range v.Desired.Functions {
		if m := pl.responsible(hashName(name)); m != nil && m.ID == s.self {
			s.mine[name] = true
		}
	}
}

// adopt goes on from what another has decided.
func (f *scaled) adopt(list []perigee.Optional, now time.Time) {
	for _, o := range list {
		f.chosen = append(f.chosen, chosen{Optional: o, since: now})
	}
}

func (f *scaled) list() []perigee.Optional {
	out := make([]perigee.Optional, len(f.chosen))
	for i := range f.chosen {
		out[i] = f.chosen[i].Optional
	}
	return out
}
