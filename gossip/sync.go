package gossip

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	syncInterval = time.Second
	callTimeout  = 10 * time.Second // one message of a comparison
	lostTimeout  = 2 * time.Second  // one to an address where perhaps nobody is
	syncTimeout  = time.Minute      // a whole comparison; a fresh node fetches everything in it, or in several
	nearChance   = 0.8              // of comparing with a peer of the same region
)

// caller sends one message to a peer and reads the answer.
type caller func(ctx context.Context, path string, ask, tell message) error

// compare makes this node and one peer hold the same: it asks what the peer has, fetches what is
// missing here and sends what is missing there. It returns whether anything differed.
func (g *Gossip) compare(ctx context.Context, call caller) (differed bool, peer perigee.NodeID, err error) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	var tell syncTell
	sent := time.Now()
	if err := call(ctx, pathSync, &syncAsk{Version: wireVersion, Root: g.root(), Marks: g.rows.marks()}, &tell); err != nil {
		return false, "", err
	}
	g.clock.compare(tell.Node, time.UnixMilli(tell.Now), sent, time.Now())
	if len(g.rows.take(tell.Rows)) > 0 {
		g.wakeObserver()
	}
	if rows := g.rows.raws(tell.Want); len(rows) > 0 {
		if err := call(ctx, pathPush, &pushAsk{Version: wireVersion, Rows: rows}, &pushTell{}); err != nil {
			return true, tell.Node, err
		}
	}
	if len(tell.Sums) == 0 || tell.Root == g.root() {
		return false, tell.Node, nil
	}
	return true, tell.Node, g.repair(ctx, call, tell)
}

// repair exchanges the records of the buckets that differ, those of bucket 0 first.
func (g *Gossip) repair(ctx context.Context, call caller, tell syncTell) error {
	theirs, _ := unpackDigests(tell.Sums)
	todo := g.differing(theirs)
	for len(todo) > 0 {
		var ids idsTell
		if err := call(ctx, pathIDs, &idsAsk{Version: wireVersion, Buckets: todo}, &ids); err != nil {
			return err
		}
		if len(ids.IDs) == 0 || len(ids.IDs) > len(todo) {
			return fmt.Errorf("compare with %s: asked for %d buckets, got %d", tell.Node, len(todo), len(ids.IDs))
		}
		var missing, extra []perigee.Digest // over all of these buckets, so that messages are full
		for i, packed := range ids.IDs {
			list, _ := unpackDigests(packed)
			lack, more := g.diff(int(todo[i]), list)
			missing, extra = append(missing, lack...), append(extra, more...)
		}
		if err := g.fetchAll(ctx, call, missing, tell.Node); err != nil {
			return err
		}
		if err := g.give(ctx, call, extra); err != nil {
			return err
		}
		todo = todo[len(ids.IDs):]
	}
	return nil
}

// fetchAll gets records, those asked for first first.
func (g *Gossip) fetchAll(ctx context.Context, call caller, missing []perigee.Digest, peer perigee.NodeID) error {
	for len(missing) > 0 {
		chunk := missing[:min(len(missing), maxItems)]
		got, err := g.fetch(ctx, call, chunk, peer)
		if err != nil {
			return err
		}
		if len(got) == 0 {
			return fmt.Errorf("compare with %s: it gives none of %d records that it names", peer, len(chunk))
		}
		missing = slices.DeleteFunc(missing, func(id perigee.Digest) bool { return got[id] })
	}
	return nil
}

// fetch asks for records and takes those that were asked for; it returns which came.
func (g *Gossip) fetch(ctx context.Context, call caller, ids []perigee.Digest, peer perigee.NodeID) (map[perigee.Digest]bool, error) {
	var tell getTell
	if err := call(ctx, pathGet, &getAsk{Version: wireVersion, IDs: packDigests(ids)}, &tell); err != nil {
		return nil, err
	}
	asked := make(map[perigee.Digest]bool, len(ids))
	for _, id := range ids {
		asked[id] = true
	}
	got := map[perigee.Digest]bool{}
	var raws [][]byte
	for _, raw := range tell.Records {
		if id := record.ID(raw); asked[id] && !got[id] {
			got[id] = true
			raws = append(raws, raw)
		}
	}
	_, fresh, err := g.take(raws)
	g.noteFresh(fresh, peer, len(fresh) <= maxSpread)
	return got, err
}

// give sends records that the peer lacks.
func (g *Gossip) give(ctx context.Context, call caller, ids []perigee.Digest) error {
	for len(ids) > 0 {
		raws := g.encoded(ids[:min(len(ids), maxItems)])
		if len(raws) == 0 {
			return nil
		}
		if err := call(ctx, pathPush, &pushAsk{Version: wireVersion, Records: raws}, &pushTell{}); err != nil {
			return err
		}
		ids = ids[len(raws):]
	}
	return nil
}

func (w *writer) root() perigee.Digest {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	return w.set.tree.root
}

// sums returns the root and the bucket digests.
func (w *writer) sums() (perigee.Digest, []byte) {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	return w.set.tree.root, w.set.tree.packSums()
}

// differing returns the numbers of the buckets whose digests are not these.
func (w *writer) differing(theirs []perigee.Digest) (list []byte) {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	for b, sum := range w.set.tree.sums {
		if b < len(theirs) && sum != theirs[b] {
			list = append(list, byte(b))
		}
	}
	return list
}

// diff returns what is missing here of a peer's bucket, and what the peer lacks.
func (a *admitter) diff(bucket int, theirs []perigee.Digest) (missing, extra []perigee.Digest) {
	their := make(map[perigee.Digest]bool, len(theirs))
	for _, id := range theirs {
		their[id] = true
		if !a.holds(id) && !a.pending.has(id) {
			missing = append(missing, id)
		}
	}
	a.setMu.RLock()
	defer a.setMu.RUnlock()
	for _, id := range a.set.tree.ids[bucket] {
		if !their[id] {
			extra = append(extra, id)
		}
	}
	return missing, extra
}

// bucketIDs returns the packed identities of buckets, as many of these as fit into a message.
func (w *writer) bucketIDs(numbers []byte) (lists [][]byte) {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	total := 0
	for _, b := range numbers {
		ids := w.set.tree.ids[b]
		if total += len(ids); total > maxIDs && len(lists) > 0 {
			break
		}
		lists = append(lists, packDigests(ids[:min(len(ids), maxIDs)]))
	}
	return lists
}

// encoded returns records by identity, in the same order, as many as fit into a message; those not
// held are left out.
func (w *writer) encoded(ids []perigee.Digest) (raws [][]byte) {
	w.setMu.RLock()
	defer w.setMu.RUnlock()
	size := 0
	for _, id := range ids {
		e := w.set.byID[id]
		if e == nil {
			continue
		}
		if size += len(e.raw); size > maxBatch && len(raws) > 0 || len(raws) >= maxItems {
			break
		}
		raws = append(raws, e.raw)
	}
	return raws
}
