package gossip

import (
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// A record is outlived when those beside it make sure that it can never mean anything again, whatever comes. It
// is taken out of the set, and not taken in again. Whether it is follows from the set alone: there is no clock,
// no list of members and no agreement in it. The rule keeps three promises, for any sets A and B and what it
// leaves of them, C(A):
//
//	the fold of C(A) means what the fold of A does, but for revisions that are listed no more;
//	C(A) replaces all pointers that A does;
//	C(C(A) ∪ B) = C(A ∪ B), where B is what a node holds: who collected early and who collects late end up
//	with the same.
//
// So a node may be away for any time: what it brings back is refused by those who know better, by the names in
// the records they have, and what nobody replaced is taken, however old. All of it is for one state of the
// governing records (authority), which are never outlived; while one of those is on its way, nodes may
// collect by another judgement, and hold the same again once they have it.

// maxLines bounds the heads, the latest first, whose lines are looked at: who may deploy a function could make
// thousands, and each line costs a walk through all.
const maxLines = 16

// outlived returns the pointers of a function that have no meaning, and the revisions that only those named.
//
// What is replaced stays where it is
//   - the last pointer to one of the last revisions (keep of them) that a head replaced, back to a removal, of maxLines heads;
//   - the only one to name a pointer as replaced, so that this one is known if it comes again;
//   - where the function's routes changed, or two lines of pointers met: how old a claim to a route is follows
//     from these, the others of a line repeat what was asked before;
//   - a removal that no other removal replaced;
//   - what a pointer of a key that may only place replaced: that this one kept the code is judged by it.
//
// Before a removal only the names count. The result is the same for what it leaves (idempotence), since a
// pointer that goes takes no name with it.
func (h *history) outlived(keep int, revisions []*entry, known map[perigee.Digest]*entry) (gone []*entry) {
	c := collection{history: h, known: known, removed: map[perigee.Digest]bool{}, pinned: map[perigee.Digest]bool{}}
	list, floor := c.judged(), c.floor()
	if len(list) == len(h.heads) && floor.hlc == 0 {
		return nil // nothing is replaced or removed
	}
	last := map[perigee.Digest]bool{}
	for _, head := range h.heads[max(0, len(h.heads)-maxLines):] {
		served := c.served(head)
		for _, e := range served[:min(keep, len(served))] {
			last[e.id] = true
		}
		if len(served) >= keep && floor.before(served[keep-1]) {
			floor = stampOf(served[keep-1])
		}
	}
	named, wanted, basis := map[perigee.Digest]bool{}, map[perigee.Digest]bool{}, map[perigee.Digest]bool{}
	for _, e := range list {
		covered := true
		for _, id := range names(e) {
			covered = covered && named[id]
			named[id] = true
		}
		removed := c.removed[e.id]
		switch {
		case !h.replaced[e.id] || last[e.id] || basis[e.id]:
		case h.effective[e.id] && !removed && e.body.(*record.Pointer).Revision.IsZero():
		case covered && (removed || c.repeats(e)):
			gone = append(gone, e)
			continue
		}
		if h.places[e.id] {
			for _, id := range e.rec.Parents {
				basis[id] = true
			}
		}
		if !removed {
			wanted[e.body.(*record.Pointer).Revision] = true
		}
	}
	for _, e := range h.byID {
		if !h.replaced[e.id] {
			wanted[e.body.(*record.Pointer).Revision] = true
		}
	}
	for _, e := range revisions {
		if !wanted[e.id] && e.before(floor) { // else its pointer may be on its way
			gone = append(gone, e)
		}
	}
	return gone
}

// collection is a history while it is looked through.
type collection struct {
	*history
	known   map[perigee.Digest]*entry // revisions with effect
	removed map[perigee.Digest]bool   // pointers to which all lines from heads lead by way of a removal
	pinned  map[perigee.Digest]bool   // pointers on which the line of another one rests
}

// judged returns the heads and what they replaced, latest first, and notes what removed and pinned say.
func (c *collection) judged() (list []*entry) {
	for id, e := range c.byID {
		if !c.replaced[id] && !c.effective[id] {
			continue // it has no say
		}
		list = append(list, e)
		c.removed[id] = true
		c.pin(e)
	}
	for todo := slices.Clone(c.heads); len(todo) > 0; {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if c.removed[e.id] {
			delete(c.removed, e.id)
			if !c.effective[e.id] || !e.body.(*record.Pointer).Revision.IsZero() {
				todo = append(todo, c.next(e)...)
			}
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return compareEntries(b, a) })
	return list
}

// next returns the pointers before e, those without a revision here, too.
func (c *collection) next(e *entry) []*entry {
	list := c.before(e)
	for _, id := range e.rec.Parents {
		if c.hollow[id] {
			list = append(list, c.byID[id])
		}
	}
	return list
}

// pin notes which of the pointers before e must stay for the line that comes through e: all where lines meet, and
// one whose own parent e does not name.
func (c *collection) pin(e *entry) {
	if len(e.rec.Parents) > 1 {
		for _, id := range e.rec.Parents {
			c.pinned[id] = true
		}
		return
	}
	for _, p := range c.before(e) {
		for _, id := range p.rec.Parents {
			if !slices.Contains(e.body.(*record.Pointer).Past, id) {
				c.pinned[p.id] = true
			}
		}
	}
}

// served returns the last pointer to each revision that a head replaced, latest first and back to a removal.
func (c *collection) served(head *entry) (list []*entry) {
	seen := map[perigee.Digest]bool{head.body.(*record.Pointer).Revision: true}
	for _, e := range c.replacedBy(head) {
		if rev := e.body.(*record.Pointer).Revision; !c.removed[e.id] && !seen[rev] {
			seen[rev] = true
			list = append(list, e)
		}
	}
	return list
}

// floor returns the stamp of the last removal.
func (c *collection) floor() (floor stamp) {
	for id, e := range c.byID {
		if c.effective[id] && e.body.(*record.Pointer).Revision.IsZero() && floor.before(e) {
			floor = stampOf(e)
		}
	}
	return floor
}

// repeats reports whether a pointer, one of a single line, asks for what the one before it did.
func (c *collection) repeats(e *entry) bool {
	before := c.before(e)
	return len(e.rec.Parents) == 1 && !c.pinned[e.id] && len(before) == 1 &&
		slices.Equal(c.routes(e), c.routes(before[0])) && c.routes(e) != nil
}

// routes returns what a pointer asks for; nil = nothing, or it has no effect.
func (c *collection) routes(e *entry) []perigee.Route {
	rev := c.known[e.body.(*record.Pointer).Revision]
	if rev == nil || !c.effective[e.id] || c.removed[e.id] {
		return nil
	}
	return rev.revision.Manifest.FullRoutes("")
}

// outlivedSecrets returns the values that later ones stand in for.
func outlivedSecrets(list []*entry, auth *authority) []*entry {
	return superseded(list, auth, func(e *entry) string { return e.body.(*record.Secret).Name })
}

// outlivedShared returns what is outlived of the records that belong to no function, or to all: regions, certificates
// and accounts that were written again, and purges.
func outlivedShared(s *set, auth *authority) []*entry {
	gone := superseded(s.regions, auth, func(e *entry) perigee.Region { return e.body.(*record.Region).Info.Code })
	for _, list := range s.web {
		gone = append(gone, superseded(list, auth, func(*entry) struct{} { return struct{}{} })...)
	}
	for _, list := range s.purges {
		gone = append(gone, outlivedPurges(list, s.lately, auth)...)
	}
	return gone
}

// outlivedPurges returns those that were written again, and of the others all but the latest.
func outlivedPurges(list []*entry, lately int, auth *authority) []*entry {
	gone := superseded(list, auth, func(e *entry) perigee.PurgeMatch { return e.body.(*record.Purge).PurgeMatch })
	for _, e := range slices.Backward(without(list, gone)) {
		switch {
		case lately == 0:
			gone = append(gone, e)
		case auth.allows(e) == nil:
			lately--
		}
	}
	return gone
}

// superseded returns the entries of a sorted list that come before one with effect of the same key.
func superseded[K comparable](list []*entry, auth *authority, key func(*entry) K) (gone []*entry) {
	if len(list) < 2 {
		return nil
	}
	latest := map[K]bool{}
	for _, e := range slices.Backward(list) {
		switch k := key(e); {
		case latest[k]:
			gone = append(gone, e)
		case auth.allows(e) == nil:
			latest[k] = true
		}
	}
	return gone
}

// without returns a list without some entries.
func without(list, gone []*entry) []*entry {
	drop := make(map[*entry]bool, len(gone))
	for _, e := range gone {
		drop[e] = true
	}
	return dropFrom(list, drop)
}
