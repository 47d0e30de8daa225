package gossip

import (
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// history is the pointers of one function as a graph of causes: a pointer's parents are the
// pointers that its author saw and replaced.
type history struct {
	byID      map[perigee.Digest]*entry
	effective map[perigee.Digest]bool
	heads     []*entry // effective and not replaced, best last
}

// newHistory merges the pointers of one function. Those without effect (their author had no right,
// or the revision is missing or broken) replace nothing themselves, but still link what is above
// them to what is below: who replaced one of them also saw what it replaced.
func newHistory(pointers []*entry, hasEffect func(*entry) bool) *history {
	h := &history{byID: make(map[perigee.Digest]*entry, len(pointers)), effective: make(map[perigee.Digest]bool, len(pointers))}
	for _, e := range pointers {
		h.byID[e.id] = e
		h.effective[e.id] = hasEffect(e)
	}
	replaced := map[perigee.Digest]bool{}
	for _, e := range pointers {
		if h.effective[e.id] && !replaced[e.id] {
			h.ancestors(e, replaced)
		}
	}
	for _, e := range pointers {
		if h.effective[e.id] && !replaced[e.id] {
			h.heads = append(h.heads, e)
		}
	}
	slices.SortFunc(h.heads, compareEntries)
	return h
}

// ancestors marks everything that e replaces, directly or through others. What is marked already
// has had its own ancestors marked, so that all calls together visit each pointer once.
func (h *history) ancestors(e *entry, marked map[perigee.Digest]bool) {
	todo := slices.Clone(e.rec.Parents)
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if p := h.byID[id]; p != nil && !marked[id] {
			marked[id] = true
			todo = append(todo, p.rec.Parents...)
		}
	}
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

// winner is the head that serves: the one with the latest clock, then the greatest identity; nil
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
		for _, id := range e.rec.Parents {
			p := h.byID[id]
			if p != nil && !seen[id] && h.effective[id] && asks(p.body.(*record.Pointer).Revision) {
				seen[id] = true
				todo = append(todo, p)
			}
		}
	}
	return stampOf(oldest)
}
