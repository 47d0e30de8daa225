package gossip

import (
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// worth returns the entries that would not be outlived at once beside what is here.
func (c *Core) worth(entries []*entry) (list []*entry) {
	if len(entries) == 0 {
		return nil
	}
	some := &set{history: c.set.history, lately: c.set.lately, purges: map[string][]*entry{}, revisions: map[string][]*entry{}, pointers: map[string][]*entry{}, secrets: map[string][]*entry{}, web: map[perigee.WebName][]*entry{}}
	for _, e := range entries {
		some.with(c.set, e)
	}
	gone := outlivedShared(some, c.fold.auth)
	for name := range some.pointers {
		gone = append(gone, newLineage(name, some, c.fold.auth).outlived...)
	}
	list = without(entries, gone)
	c.note(without(entries, list))
	return list
}

// with puts an entry into a part of a set, together with what it has to do with.
func (part *set) with(s *set, e *entry) {
	switch body := e.body.(type) {
	case *record.Region:
		if part.regions == nil {
			part.regions = slices.Clone(s.regions)
		}
	case *record.Purge:
		if part.purges[body.Function] == nil {
			part.purges[body.Function] = slices.Clone(s.purges[body.Function])
		}
	case *record.Web:
		name := perigee.WebName{Item: body.Item, Name: body.Name}
		if part.web[name] == nil {
			part.web[name] = slices.Clone(s.web[name])
		}
	}
	name := e.function()
	if _, there := part.pointers[name]; !there && name != "" {
		part.revisions[name], part.pointers[name], part.secrets[name] = slices.Clone(s.revisions[name]), slices.Clone(s.pointers[name]), slices.Clone(s.secrets[name])
	}
	part.insert(e)
}

// collect takes what a fold of the set found to be outlived out of it.
func (c *Core) collect(f *folded) {
	c.set.remove(f.outlived)
	c.note(f.outlived)
	f.desired.Digest = c.set.tree.root
	c.out.Counts.add(f.outlived)
	c.collected.add(f.outlived)
	f.outlived = nil
}

// note remembers records that are outlived, so that they are not fetched again and again. It is a help, not
// a promise: what is forgotten is found to be outlived once more.
func (c *Core) note(gone []*entry) {
	if len(c.outlived)+len(gone) > maxRemembered {
		clear(c.outlived)
	}
	for _, e := range gone[:min(len(gone), maxRemembered)] {
		c.outlived[e.id] = true
	}
}

// welcome forgets what was outlived if there are new pointers, or revisions that give pointers their effect: they
// may be in conflict with what outlived it, and name it.
func (c *Core) welcome(entries []*entry) {
	if slices.ContainsFunc(entries, func(e *entry) bool { return e.rec.Kind == record.KindPointer || e.rec.Kind == record.KindRevision }) {
		clear(c.outlived)
	}
}
