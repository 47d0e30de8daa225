package gossip

import (
	"cmp"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	maxWaiting      = 4096
	maxWaitingBytes = 16 << 20
	maxWaitingTime  = 10 * time.Minute
	maxRemembered   = 4096 // refused records whose identity is remembered
)

// pending holds records that can't be stored yet: their author is not known, or they are stamped
// ahead of this node's clock. It is bounded; a record that is pushed out comes again when this node
// compares its state with a peer's. Records that this node had stored before are never pushed out:
// they wait because the log lost the record of their author.
type pending struct {
	waiting map[perigee.Digest]*waiting
	bytes   int
	refused map[perigee.Digest]time.Time // recently refused for good
}

type waiting struct {
	entry  *entry
	since  time.Time
	stored bool // it is in this node's log
	author bool // it waits for its author; else for its time
}

func newPending() *pending {
	return &pending{waiting: map[perigee.Digest]*waiting{}, refused: map[perigee.Digest]time.Time{}}
}

// add keeps an entry. When there is no room, the one that waits longest makes room.
func (p *pending) add(w *waiting) {
	if p.waiting[w.entry.id] != nil {
		return
	}
	for !w.stored && (len(p.waiting) >= maxWaiting || p.bytes+len(w.entry.raw) > maxWaitingBytes) {
		if !p.evict() {
			return
		}
	}
	p.waiting[w.entry.id] = w
	p.bytes += len(w.entry.raw)
}

func (p *pending) evict() bool {
	var oldest *waiting
	for _, w := range p.waiting {
		if !w.stored && (oldest == nil || cmp.Or(w.since.Compare(oldest.since), compareDigests(w.entry.id, oldest.entry.id)) < 0) {
			oldest = w
		}
	}
	if oldest != nil {
		p.drop(oldest)
	}
	return oldest != nil
}

func (p *pending) drop(w *waiting) {
	delete(p.waiting, w.entry.id)
	p.bytes -= len(w.entry.raw)
}

// has reports whether the record waits, or was refused lately, so that it need not be fetched.
func (p *pending) has(id perigee.Digest) bool {
	if p.waiting[id] != nil {
		return true
	}
	_, ok := p.refused[id]
	return ok
}

// takeDue removes and returns the entries whose time has come, and forgets what is too old.
func (p *pending) takeDue(now time.Time) (due []*waiting) {
	for id, at := range p.refused {
		if now.Sub(at) > maxWaitingTime {
			delete(p.refused, id)
		}
	}
	for _, w := range p.waiting {
		switch {
		case !w.author && ahead(w.entry.rec.HLC, now) <= maxAhead:
			p.drop(w)
			due = append(due, w)
		case w.author && !w.stored && now.Sub(w.since) > maxWaitingTime:
			p.drop(w)
		}
	}
	return sortWaiting(due)
}

// takeOrphans removes and returns the entries that wait for their author, since there is news of
// authors, and forgets refusals for the same reason.
func (p *pending) takeOrphans() (orphans []*waiting) {
	clear(p.refused)
	for _, w := range p.waiting {
		if w.author {
			p.drop(w)
			orphans = append(orphans, w)
		}
	}
	return sortWaiting(orphans)
}

// sortWaiting keeps what follows from a map the same each time.
func sortWaiting(list []*waiting) []*waiting {
	slices.SortFunc(list, func(a, b *waiting) int { return compareEntries(a.entry, b.entry) })
	return list
}

// refuse remembers a record that broke a rule.
func (p *pending) refuse(id perigee.Digest, now time.Time) {
	if len(p.refused) < maxRemembered {
		p.refused[id] = now
	}
}

// stored returns the encodings of those that are in this node's log.
func (p *pending) stored() (raws [][]byte) {
	for _, w := range p.waiting {
		if w.stored {
			raws = append(raws, w.entry.raw)
		}
	}
	return raws
}

func (p *pending) len() int { return len(p.waiting) }
