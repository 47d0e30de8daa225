package gossip

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// writer is the only changer of this node's desired state: records go to the log, then into the
// set, then into the View, in this order. Callers that come together share one sync of the disk.
type writer struct {
	genesis *entry
	log     *log
	pending *pending
	clock   *clock
	metrics *Metrics
	max     int64         // of the set, in bytes
	publish func(*folded) // called in order, once per new fold

	queueMu sync.Mutex // guards queue
	queue   []*commit

	commitMu sync.Mutex // held by the one caller that commits for all; guards log and opaque
	opaque   [][]byte   // entries of the log that this release can't read; kept for one that can

	setMu  sync.RWMutex // guards set; written only while commitMu is held
	set    *set
	folded atomic.Pointer[folded]
}

// commit is a caller's entries on their way to the disk.
type commit struct {
	entries []*entry
	fresh   []*entry
	err     error
	done    bool
}

// commit stores entries that authority admitted, all or none, and returns those that were new.
func (w *writer) commit(entries []*entry) (fresh []*entry, err error) {
	c := &commit{entries: entries}
	w.queueMu.Lock()
	w.queue = append(w.queue, c)
	w.queueMu.Unlock()

	w.commitMu.Lock()
	defer w.commitMu.Unlock()
	if !c.done { // else the caller before committed for this one too
		w.queueMu.Lock()
		batch := w.queue
		w.queue = nil
		w.queueMu.Unlock()
		w.commitLocked(batch)
	}
	return c.fresh, c.err
}

func (w *writer) commitLocked(batch []*commit) {
	var fresh []*entry
	var raws [][]byte
	seen := map[perigee.Digest]bool{}
	size := w.set.bytes
	for _, c := range batch {
		c.done = true
		var mine []*entry
		more := int64(0)
		for _, e := range c.entries {
			if w.set.byID[e.id] == nil && !seen[e.id] {
				seen[e.id] = true
				mine = append(mine, e)
				more += int64(len(e.raw))
			}
		}
		if more > 0 && size+more > w.max {
			c.err = refuse(RuleStorage, "this cluster's state is full: %d bytes of at most %d: remove functions that are not used, or raise the limit on all nodes", size, w.max)
			for _, e := range mine {
				delete(seen, e.id)
			}
			continue
		}
		for _, e := range mine {
			raws = append(raws, e.raw)
		}
		size += more
		c.fresh = mine
		fresh = append(fresh, mine...)
	}
	if len(fresh) == 0 {
		return
	}
	start := time.Now()
	if err := w.log.append(raws); err != nil {
		w.metrics.AppendFails.Inc()
		for _, c := range batch {
			if c.err == nil && slices.ContainsFunc(c.entries, func(e *entry) bool { return w.set.byID[e.id] == nil }) {
				c.err = refuse(RuleStorage, "this node can't write its state, and stored nothing; it keeps serving: make room on its disk, or ask another node").because(err)
				c.fresh = nil
			}
		}
		return
	}
	w.metrics.Append.Observe(time.Since(start).Seconds())
	w.addLocked(fresh)
}

// addLocked puts stored entries into the set and publishes what they change.
func (w *writer) addLocked(fresh []*entry) {
	w.setMu.Lock()
	w.set.add(fresh...)
	w.setMu.Unlock()
	for _, e := range fresh {
		w.clock.observe(e.rec.HLC)
	}
	w.foldLocked(fresh)
}

// foldLocked folds the set anew, given what was added since the last time. Authority is replayed
// only when governing records came.
func (w *writer) foldLocked(fresh []*entry) {
	start := time.Now()
	old := w.folded.Load()
	var auth *authority
	if old != nil && !slices.ContainsFunc(fresh, (*entry).governs) {
		auth = old.auth
	} else {
		auth = newAuthority(w.genesis.body.(*record.Genesis), w.set.governing)
	}
	touched := map[string]bool{}
	for _, e := range fresh {
		touched[e.function()] = true
	}
	f := reduce(w.set, auth, old, touched)
	w.folded.Store(f)
	w.metrics.Fold.Observe(time.Since(start).Seconds())
	w.metrics.Held.Set(float64(len(w.set.byID)))
	w.metrics.State.Set(float64(w.set.bytes))
	w.publish(f)
}

// kept returns everything that belongs into the log; commitMu is held.
func (w *writer) kept() [][]byte {
	raws := make([][]byte, 0, len(w.set.byID))
	// Governing records first, so that a reader knows authors before their work.
	for _, e := range w.set.governing {
		raws = append(raws, e.raw)
	}
	for _, e := range slices.SortedFunc(maps.Values(w.set.byID), compareEntries) {
		if !e.governs() {
			raws = append(raws, e.raw)
		}
	}
	return append(append(raws, w.pending.stored()...), w.opaque...)
}

// holds reports whether the record is on this node's disk.
func (w *writer) holds(id perigee.Digest) bool {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	return w.set.byID[id] != nil
}
