package placement

import (
	"slices"

	"github.com/perigee-edge/perigee"
)

// claims returns the optional holders of each function, as the node that decides them says in its row. If
// several say so, the responsible one counts: of those in service, the first in the order of the function's
// hash. What a node that died said holds until another takes over.
func claims(members []member) map[string][]perigee.Optional {
	type claim struct {
		by   *member
		list []perigee.Optional
	}
	best := map[string]claim{}
	for i := range members {
		m := &members[i]
		if m.revoked {
			continue
		}
		for name, list := range m.Optional {
			if c, ok := best[name]; !ok || m.outranks(c.by, hashName(name)) {
				best[name] = claim{m, list}
			}
		}
	}
	out := make(map[string][]perigee.Optional, len(best))
	for name, c := range best {
		if len(c.list) > 0 {
			out[name] = c.list
		}
	}
	return out
}

// outranks reports whether a node comes before another in the order of those that are responsible for a
// function.
func (m *member) outranks(other *member, function uint64) bool {
	if m.routable != other.routable {
		return m.routable
	}
	a, b := score(function, m.hash), score(function, other.hash)
	return a > b || a == b && m.ID < other.ID
}

// responsible returns the node that decides the optional holders of a function; nil = none is in service.
func (pl *Planner) responsible(function uint64) (best *member) {
	for i := range pl.members {
		if m := &pl.members[i]; m.routable && !m.revoked && (best == nil || m.outranks(best, function)) {
			best = m
		}
	}
	return best
}

// moved returns the functions whose optional holders are others now, and whether anything at all is
// otherwise, be it a gain.
func (pl *Planner) moved(next *Planner) (others map[string]bool, differ bool) {
	others = map[string]bool{}
	compare := func(name string, a, b []perigee.Optional) {
		differ = differ || !slices.Equal(a, b)
		if !slices.EqualFunc(a, b, func(a, b perigee.Optional) bool { return a.Node == b.Node }) {
			others[name] = true
		}
	}
	for name, list := range pl.optional {
		compare(name, list, next.optional[name])
	}
	for name, list := range next.optional {
		compare(name, pl.optional[name], list)
	}
	return others, differ
}
