package gossip

import (
	"cmp"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// history is the pointers of one function as a graph of causes: a pointer's parents are the
// pointers that its author saw and replaced, and its past are those that they had replaced.
type history struct {
	byID      map[perigee.Digest]*entry
	effective map[perigee.Digest]bool
	replaced  map[perigee.Digest]bool // those that are not here any more, or not yet, among them
	hollow    map[perigee.Digest]bool // whose revision is not here any more, or not yet
	heads     []*entry                // effective and not replaced, best last
	places    map[perigee.Digest]bool // effective, of an author who may only place
	since     map[perigee.Digest]stamp
}

// newHistory merges the pointers of one function. Those without effect (their author had no right,
// or the revision is missing or broken) replace nothing themselves, but still link what is above
// them to what is below: who replaced one of them also saw what it replaced. They must be sorted; hasEffect
// may ask the history for those before.
//
// A pointer whose author may only place (placesOnly) counts as old as what it replaces when heads are
// compared. Else such a key could bring old code back, by a change of its placement that is stamped now.
func newHistory(pointers, revisions []*entry, hasEffect func(*history, *entry) bool, placesOnly func(*entry) bool) *history {
	h := &history{
		byID: make(map[perigee.Digest]*entry, len(pointers)), effective: make(map[perigee.Digest]bool, len(pointers)), replaced: map[perigee.Digest]bool{},
		hollow: map[perigee.Digest]bool{},
		places: map[perigee.Digest]bool{}, since: make(map[perigee.Digest]stamp, len(pointers)),
	}
	here := map[perigee.Digest]bool{{}: true} // a removal needs none
	for _, e := range revisions {
		here[e.id] = true
	}
	for _, e := range pointers {
		h.byID[e.id] = e
		if !here[e.body.(*record.Pointer).Revision] {
			h.hollow[e.id] = true
		}
		h.effective[e.id] = hasEffect(h, e)
		h.since[e.id] = stampOf(e)
		if h.effective[e.id] && placesOnly(e) {
			h.places[e.id] = true
			h.since[e.id] = h.sinceParents(e)
		}
	}
	for _, e := range pointers {
		if h.effective[e.id] && !h.replaced[e.id] {
			h.ancestors(e, h.replaced)
		}
	}
	for _, e := range pointers {
		if h.effective[e.id] && !h.replaced[e.id] {
			h.heads = append(h.heads, e)
		}
	}
	slices.SortFunc(h.heads, func(a, b *entry) int {
		return cmp.Or(h.since[a.id].compare(h.since[b.id]), compareEntries(a, b))
	})
	return h
}

// sinceParents returns when the latest of those that e replaces counts as written.
func (h *history) sinceParents(e *entry) (latest stamp) {
	for _, id := range e.rec.Parents {
		if at, ok := h.since[id]; ok && latest.compare(at) < 0 {
			latest = at
		}
	}
	return latest
}

// pointer returns a pointer of the history that has an effect, or nil.
func (h *history) pointer(id perigee.Digest) *entry {
	if !h.effective[id] {
		return nil
	}
	return h.byID[id]
}

// ancestors marks everything that e replaces, directly or through others. What is marked already
// has had its own ancestors marked, so that all calls together visit each pointer once.
func (h *history) ancestors(e *entry, marked map[perigee.Digest]bool) {
	todo := names(e)
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if marked[id] {
			continue
		}
		marked[id] = true
		if p := h.byID[id]; p != nil {
			todo = append(todo, names(p)...)
		}
	}
}

// names returns the pointers that a pointer names as replaced, nearest first.
func names(e *entry) []perigee.Digest {
	return slices.Concat(e.rec.Parents, e.body.(*record.Pointer).Past)
}

// before returns the pointers that e replaced itself, as far as they are here. In the place of one that was
// collected, which asked for what the one before it did, stands the nearest that is still here. One whose
// revision is not here says no more than that.
func (h *history) before(e *entry) (list []*entry) {
	for _, id := range e.rec.Parents {
		if p := h.byID[id]; p != nil && !h.hollow[id] {
			list = append(list, p)
		}
	}
	if len(list) > 0 || len(e.rec.Parents) != 1 {
		return list
	}
	for _, id := range e.body.(*record.Pointer).Past {
		if p := h.byID[id]; p != nil && !h.hollow[id] {
			return []*entry{p}
		}
	}
	return nil
}

// past returns what a pointer that replaces the heads should name beyond them: what they name, unless
// that is too much. Then they stay for the sake of the names, and naming begins anew.
func (h *history) past() (ids []perigee.Digest) {
	for _, e := range slices.Backward(h.heads) {
		for _, id := range names(e) {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
			if len(ids) > record.MaxPast {
				return nil
			}
		}
	}
	return ids
}

// replacedBy returns the pointers with effect that e replaces, directly or through others, latest first.
func (h *history) replacedBy(e *entry) []*entry {
	marked := map[perigee.Digest]bool{}
	h.ancestors(e, marked)
	var out []*entry
	for id := range marked {
		if h.effective[id] {
			out = append(out, h.byID[id])
		}
	}
	slices.SortFunc(out, func(a, b *entry) int { return compareEntries(b, a) })
	return out
}

// winner is the head that serves: the one that counts as the latest, then the greatest identity; nil
// when no pointer has an effect.
func (h *history) winner() *entry {
	if len(h.heads) == 0 {
		return nil
	}
	return h.heads[len(h.heads)-1]
}

// claimed returns since when the function has asked for something without a break: the oldest
// pointer from which an unbroken line of pointers that all ask leads to the winner. A function that
// gives up a route, or is removed, and asks again later has a new claim.
func (h *history) claimed(asks func(revision perigee.Digest) bool) stamp {
	oldest := h.winner()
	seen := map[perigee.Digest]bool{oldest.id: true}
	todo := []*entry{oldest}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if compareEntries(e, oldest) < 0 {
			oldest = e
		}
		for _, p := range h.before(e) {
			if !seen[p.id] && h.effective[p.id] && asks(p.body.(*record.Pointer).Revision) {
				seen[p.id] = true
				todo = append(todo, p)
			}
		}
	}
	return stampOf(oldest)
}
