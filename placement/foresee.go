package placement

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

// Offer is what one more holder in a region would save.
type Offer struct {
	Region perigee.Region `json:"region"`
	Node   perigee.NodeID `json:"node"` // the one that would be taken
	Gain   uint32         `json:"gain"` // what callers would wait less in each second, all together, in milliseconds
}

// EnterGain is the gain, in milliseconds, from which on demand adds a holder.
const EnterGain = uint32(1000 * enterGain)

// Foresee plans a function as it would be held in the end, if the calls stayed as they are: what Scalers
// decide step by step, at once.
func Foresee(v *perigee.View, fn *perigee.Function) Plan {
	pl := NewPlanner(v)
	d := pl.foresee(v, fn, CallsOf(v, func(name string) bool { return name == fn.Name })[fn.Name], newWays(pl.catalogue), &room{})
	dr := pl.draftWith(fn, &room{}, d.list())
	p := dr.plan()
	p.Verdicts = dr.verdicts()
	return p
}

// Demand returns what is asked of a function, and what one more holder would save, the most first; nil = nobody
// calls it.
func (f *Fleet) Demand(v *perigee.View, fn *perigee.Function) (*Calls, []Offer) {
	calls := CallsOf(v, func(name string) bool { return name == fn.Name })[fn.Name]
	if calls == nil {
		return nil, nil
	}
	d := f.planner.decision(v, fn, calls, newWays(f.planner.catalogue), &room{})
	d.look()
	return calls, d.offers()
}

// decision begins one from what nodes say now.
func (pl *Planner) decision(v *perigee.View, fn *perigee.Function, calls *Calls, w *ways, at *room) *decision {
	if calls == nil {
		calls = &Calls{}
	}
	d := &decision{scaled: &scaled{calls: calls}, planner: pl, fn: fn, view: v, ways: w, at: at, now: time.Time{}, hasty: true}
	d.adopt(pl.optional[fn.Name], d.now)
	return d
}

// foresee makes decisions until nothing changes. Each lowers what callers wait and holders cost together, so
// that there is an end.
func (pl *Planner) foresee(v *perigee.View, fn *perigee.Function, calls *Calls, w *ways, at *room) *decision {
	d := pl.decision(v, fn, calls, w, at)
	for before := -1; d.moves != before; {
		before = d.moves
		d.decide()
	}
	return d
}

// foreseeAll replaces what nodes say about optional holders by where things end.
func (pl *Planner) foreseeAll(v *perigee.View) {
	calls, w, at := CallsOf(v, nil), newWays(pl.catalogue), &room{}
	ends := map[string][]perigee.Optional{}
	for name, fn := range v.Desired.Functions {
		if calls[name] == nil && pl.optional[name] == nil {
			continue
		}
		if list := pl.foresee(v, fn, calls[name], w, at).list(); len(list) > 0 {
			ends[name] = list
		}
	}
	pl.optional = ends
}

// offers lists what each region could still give, if that saves anything, the most first.
func (d *decision) offers() (out []Offer) {
	for _, s := range d.open {
		list := append(append(d.list(), d.fillers...), perigee.Optional{Node: s.id})
		if gain := millis(d.waits - d.calls.waiting(sitesOf(d.plan(list)), d.ways)); gain > 0 {
			out = append(out, Offer{s.region, s.id, gain})
		}
	}
	slices.SortFunc(out, func(a, b Offer) int { return cmp.Or(cmp.Compare(b.Gain, a.Gain), cmp.Compare(a.Region, b.Region)) })
	return out
}
