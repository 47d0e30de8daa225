package gossip

import (
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// source says where records came from and how far they are passed on.
type source struct {
	from   perigee.NodeID // "" = this node
	person bool           // submitted here
	logged bool           // they are in this node's log already
	reach  Reach
}

// batch is a number of records on their way to the disk.
type batch struct {
	entries []*entry
	bytes   int64
	source  source
	waiters []*waiter
}

// waiter is somebody who goes on when all of some batches are stored.
type waiter struct {
	left int
	err  error
	then func(now time.Time, err error)
}

func (w *waiter) join(b *batch) {
	if !slices.Contains(b.waiters, w) {
		b.waiters = append(b.waiters, w)
		w.left++
	}
}

// freeingShare is what part of the limit is kept for records that make room or end rights.
const freeingShare = 16

// frees reports whether an entry is to be stored though the state is full: a removal, after which a function's
// records are collected, and a revocation.
func (e *entry) frees() bool {
	p, ok := e.body.(*record.Pointer)
	return ok && p.Revision.IsZero() || e.rec.Kind == record.KindRevoke
}

// take sorts out records that came from elsewhere and stores those that may be stored now. Then is
// called when that is done; an error means that the disk refused. Records that wait or are refused
// are counted and left out.
func (c *Core) take(now time.Time, raws [][]byte, src source, then func(time.Time, error)) {
	var entries []*entry
	var unknown [][]byte
	for _, raw := range raws {
		id := record.ID(raw)
		if b := c.storing[id]; b != nil {
			entries = append(entries, b.entry(id))
		} else if !c.Holds(id) && !c.settled(id) {
			unknown = append(unknown, raw)
		}
	}
	c.store(now, append(entries, c.worth(c.sift(now, c.parseAll(now, unknown), false))...), src, then)
}

func (b *batch) entry(id perigee.Digest) *entry {
	return b.entries[slices.IndexFunc(b.entries, func(e *entry) bool { return e.id == id })]
}

// store asks for admitted entries to be put on disk, all or none of those that are new. Then is
// called when all are there.
func (c *Core) store(now time.Time, entries []*entry, src source, then func(time.Time, error)) {
	b := &batch{source: src}
	w := &waiter{then: then}
	for _, e := range entries {
		other := c.storing[e.id]
		switch {
		case c.Holds(e.id) || slices.Contains(b.entries, e):
		case other != nil:
			w.join(other)
		default:
			b.entries = append(b.entries, e)
			b.bytes += int64(len(e.raw))
			c.storing[e.id] = b
		}
	}
	used := c.set.bytes
	for _, other := range c.batches {
		used += other.bytes
	}
	limit := c.max
	if !slices.ContainsFunc(b.entries, func(e *entry) bool { return !e.frees() }) {
		limit += c.max / freeingShare
	}
	if b.bytes > 0 && used+b.bytes > limit {
		for _, e := range b.entries {
			delete(c.storing, e.id)
		}
		w.then = func(time.Time, error) {} // of the batches that it joined
		then(now, refuse(RuleStorage, "this cluster's state is full: %d bytes of at most %d: remove functions that are not used (perigee rm), which frees their records at once", used, c.max))
		return
	}
	if len(b.entries) > 0 {
		c.number++
		c.batches[c.number] = b
		w.join(b)
		raws := make([][]byte, len(b.entries))
		for i, e := range b.entries {
			raws[i] = e.raw
		}
		c.out.Store = append(c.out.Store, Batch{c.number, raws})
	}
	if w.left == 0 {
		then(now, nil)
	}
}

func (e Stored) apply(c *Core, now time.Time) {
	b := c.batches[e.Number]
	if b == nil {
		return
	}
	delete(c.batches, e.Number)
	for _, e := range b.entries {
		delete(c.storing, e.id)
	}
	var err error
	if e.Err != nil {
		err = refuse(RuleStorage, "this node can't write its state, and stored nothing; it keeps serving: make room on its disk, or ask another node").because(e.Err)
	} else {
		c.merge(now, b)
	}
	for _, w := range b.waiters {
		if w.left--; err != nil {
			w.err = err
		}
		if w.left == 0 {
			w.then(now, w.err)
		}
	}
}

// merge puts stored entries into the set, folds it, passes the entries on, and looks at those that
// waited for them.
func (c *Core) merge(now time.Time, b *batch) {
	good := c.add(b.entries)
	if b.source.person {
		c.out.Counts.FromPeople += len(good)
	} else {
		c.out.Counts.FromPeers += len(good)
		c.spread(now, slices.DeleteFunc(slices.Clone(good), func(e *entry) bool { return !c.Holds(e.id) }), nil, b.source)
	}
	if slices.ContainsFunc(good, (*entry).governs) {
		clear(c.outlived) // who may write what decides what is replaced
		c.retry(now, c.pending.takeOrphans())
	}
}

// refold folds the set anew, given what was added since the last time. Authority is replayed only
// when governing records came.
func (c *Core) refold(fresh []*entry) {
	old := c.fold
	var auth *authority
	if old != nil && !slices.ContainsFunc(fresh, (*entry).governs) {
		auth = old.auth
	} else {
		auth = newAuthority(c.parser.present().Genesis, c.set.governing)
	}
	touched := map[string]bool{}
	for _, e := range fresh {
		touched[e.function()] = true
	}
	f := reduce(c.set, auth, old, touched)
	if c.try != nil {
		if old == nil {
			touched = map[string]bool{}
			for name := range f.desired.Functions {
				touched[name] = true
			}
		}
		c.try(f.desired, slices.Sorted(maps.Keys(touched)))
	}
	c.collect(f)
	c.fold = f
	c.out.Desired = true
}

// retry looks again at records that waited.
func (c *Core) retry(now time.Time, list []*waiting) {
	var mine, others []*entry
	for _, w := range list {
		if w.stored {
			mine = append(mine, w.entry)
		} else {
			others = append(others, w.entry)
		}
	}
	nothing := func(time.Time, error) {}
	c.store(now, c.sift(now, mine, true), source{logged: true}, nothing)
	others = c.worth(c.sift(now, others, false))
	c.store(now, others, source{reach: reachOf(len(others))}, nothing)
}

// reachOf bounds what one node passes on at once: a node that fetches everything tells nobody.
func reachOf(records int) Reach {
	if records > maxSpread {
		return ReachOne
	}
	return ReachAll
}

// sift returns the entries that may be stored now, and puts those aside whose author or time has
// not come. stored says that they come from this node's log, where they were admitted before.
func (c *Core) sift(now time.Time, entries []*entry, stored bool) (admitted []*entry) {
	auth := c.fold.auth
	verdicts := make([]*RefusedError, len(entries))
	parallel(len(entries), func(i int) { verdicts[i] = admits(auth, entries[i]) })
	for i, e := range entries {
		switch err := verdicts[i]; {
		case err == nil && (stored || ahead(e.rec.HLC, now) <= maxAhead):
			admitted = append(admitted, e)
		case err == nil:
			c.pending.add(&waiting{entry: e, since: now, stored: stored})
		case err.Rule == RuleAuthor:
			c.pending.add(&waiting{entry: e, since: now, stored: stored, author: true})
		default:
			c.refused(err.Rule)
			c.pending.refuse(e.id, now)
		}
	}
	return admitted
}

// parseAll decodes records, without those that are none.
func (c *Core) parseAll(now time.Time, raws [][]byte) (entries []*entry) {
	parsed := make([]*entry, len(raws))
	errs := make([]error, len(raws))
	parallel(len(raws), func(i int) { parsed[i], errs[i] = c.parser.parse(raws[i]) })
	for i, e := range parsed {
		if errs[i] != nil {
			c.refused(RuleOf(errs[i]))
			c.pending.refuse(record.ID(raws[i]), now)
			continue
		}
		entries = append(entries, e)
	}
	return entries
}

func (c *Core) refused(rule Rule) {
	if c.out.Counts.Refused == nil {
		c.out.Counts.Refused = map[Rule]int{}
	}
	c.out.Counts.Refused[rule]++
}
