package gossip

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	syncInterval = time.Second
	callTimeout  = 10 * time.Second // one message of a comparison
	askTimeout   = 2 * time.Second  // the first, to a peer who perhaps is not there
	syncTimeout  = time.Minute      // a whole comparison; a fresh node fetches everything in it, or in several
	storageRetry = 10 * time.Second
	forgetEvery  = 10 * time.Second // what was outlived may come again then: two nodes may have judged by different halves of it
	pendingEvery = 200 * time.Millisecond

	nearChance    = 0.8  // of comparing with a peer of the same region
	suspectChance = 0.25 // of comparing with a suspect too, where there is one
	// A node compares with a few peers only, so that their connections live on; a new one costs more
	// than all messages of a minute. Who they are changes once an hour.
	partnersNear = 4
	partnersFar  = 2
	partnersTurn = time.Hour
)

// planSync sets the time of the next comparison.
func (c *Core) planSync(now time.Time) {
	c.nextSync = now.Add(syncInterval*4/5 + time.Duration(c.chance.Int64N(int64(syncInterval*2/5))))
}

// sync begins to compare the state with one peer.
func (c *Core) sync(now time.Time) {
	if !now.Before(c.forget) {
		clear(c.outlived)
		c.forget = now.Add(forgetEvery)
	}
	// A suspect may be well: a call is what finds out. Nobody waits for it.
	suspects := slices.DeleteFunc(slices.Clone(c.peers), func(p Peer) bool { return !p.Suspect })
	if len(suspects) > 0 && c.chance.Float64() < suspectChance {
		c.compare(now, suspects[c.chance.IntN(len(suspects))], c.compared)
	}
	to, ok := c.partner(now)
	if !ok {
		c.planSync(now)
		return
	}
	c.syncing = true
	c.compare(now, to, func(now time.Time, peer perigee.NodeID, differed bool, err error) {
		c.syncing = false
		c.planSync(now)
		if RuleOf(err) == RuleStorage { // fetching what can't be stored helps nobody
			c.nextSync = now.Add(storageRetry)
		}
		c.compared(now, peer, differed, err)
	})
}

// compared counts a comparison.
func (c *Core) compared(_ time.Time, _ perigee.NodeID, differed bool, err error) {
	switch {
	case err != nil:
		c.out.Counts.SyncFailed++
		c.out.Refused = append(c.out.Refused, err)
	case differed:
		c.out.Counts.Repaired++
	default:
		c.out.Counts.Equal++
	}
}

// partner chooses whom to compare with.
func (c *Core) partner(now time.Time) (Peer, bool) {
	var near, far []Peer
	for _, p := range c.peers {
		if p.Region == c.region && p.ID != "" {
			near = append(near, p)
		} else {
			far = append(far, p)
		}
	}
	list := far
	if len(far) == 0 || len(near) > 0 && c.chance.Float64() < nearChance {
		list = c.partners(near, partnersNear, now)
	} else {
		list = c.partners(far, partnersFar, now)
	}
	if len(list) == 0 {
		return Peer{}, false
	}
	return list[c.chance.IntN(len(list))], true
}

// partners returns the n of a list that this hour brings together with this node, sure ones first.
func (c *Core) partners(list []Peer, n int, now time.Time) []Peer {
	if len(list) <= n {
		return list
	}
	weight := func(p Peer) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, c.self, "/", p.ID, p.Addr, "/", now.Unix()/int64(partnersTurn/time.Second))
		return h.Sum64()
	}
	weights := make(map[Peer]uint64, len(list))
	for _, p := range list {
		weights[p] = weight(p)
	}
	slices.SortFunc(list, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(btoi(a.Suspect), btoi(b.Suspect)), cmp.Compare(weights[a], weights[b]), cmp.Compare(a.ID, b.ID))
	})
	return list[:n]
}

// comparison makes this node and one peer hold the same: it asks what the peer has, fetches what is
// missing here and sends what is missing there.
type comparison struct {
	*Core
	to             Peer
	began          time.Time
	node           perigee.NodeID // who answered
	todo           []byte         // buckets that differ
	missing, extra []perigee.Digest
	then           func(now time.Time, peer perigee.NodeID, differed bool, err error)
}

func (c *Core) compare(now time.Time, to Peer, then func(time.Time, perigee.NodeID, bool, error)) {
	s := &comparison{Core: c, to: to, began: now, then: then}
	c.call(to, &syncAsk{Version: wireVersion, Root: c.Root(), Rows: c.rows.sum()}, askTimeout, s.told)
}

func (s *comparison) end(now time.Time, differed bool, err error) { s.then(now, s.node, differed, err) }

// told has the answer to the first message. Rows come first: they say who may be trusted with what.
func (s *comparison) told(now time.Time, m Message, err error) {
	if err != nil {
		s.end(now, false, err)
		return
	}
	tell := m.(*syncTell)
	s.node = tell.Node
	s.clock.compare(tell.Node, time.UnixMilli(tell.Now), s.began, now)
	if len(tell.Sums) > 0 && tell.Root != s.Root() {
		theirs, _ := unpackDigests(tell.Sums)
		s.todo = s.differing(theirs)
	}
	rows := &rowsAsk{Version: wireVersion}
	if tell.Marks != nil {
		rows.Nodes, rows.Rows = s.rows.lacks(tell.Marks, now), s.rows.gives(tell.Marks, s.to.Region, now)
	}
	if len(rows.Nodes)+len(rows.Rows) == 0 {
		s.buckets(now)
		return
	}
	s.call(s.to, rows, callTimeout, func(now time.Time, m Message, err error) {
		if err != nil {
			s.end(now, true, err)
			return
		}
		s.takeRows(now, m.(*rowsTell).Rows)
		s.buckets(now)
	})
}

// buckets asks for the identities of the buckets that differ, those of bucket 0 first.
func (s *comparison) buckets(now time.Time) {
	if len(s.todo) == 0 || now.Sub(s.began) > syncTimeout {
		s.end(now, s.todo != nil, nil)
		return
	}
	s.call(s.to, &idsAsk{Version: wireVersion, Buckets: s.todo}, callTimeout, func(now time.Time, m Message, err error) {
		if err != nil {
			s.end(now, true, err)
			return
		}
		lists := m.(*idsTell).IDs
		if len(lists) == 0 || len(lists) > len(s.todo) {
			s.end(now, true, fmt.Errorf("compare with %s: asked for %d buckets, got %d", s.node, len(s.todo), len(lists)))
			return
		}
		s.missing, s.extra = nil, nil // over all of these buckets, so that messages are full
		for i, packed := range lists {
			ids, _ := unpackDigests(packed)
			lack, more := s.diff(int(s.todo[i]), ids)
			s.missing, s.extra = append(s.missing, lack...), append(s.extra, more...)
		}
		s.todo = s.todo[len(lists):]
		s.fetch(now)
	})
}

// fetch gets what is missing here, those asked for first first.
func (s *comparison) fetch(now time.Time) {
	if len(s.missing) == 0 {
		s.give(now)
		return
	}
	chunk := s.missing[:min(len(s.missing), maxItems)]
	s.call(s.to, &getAsk{Version: wireVersion, IDs: packDigests(chunk)}, callTimeout, func(now time.Time, m Message, err error) {
		if err != nil {
			s.end(now, true, err)
			return
		}
		asked := make(map[perigee.Digest]bool, len(chunk))
		for _, id := range chunk {
			asked[id] = true
		}
		var raws [][]byte
		for _, raw := range m.(*getTell).Records {
			if id := record.ID(raw); asked[id] {
				delete(asked, id)
				raws = append(raws, raw)
			}
		}
		if len(raws) == 0 {
			s.end(now, true, fmt.Errorf("compare with %s: it gives none of %d records that it names", s.node, len(chunk)))
			return
		}
		s.missing = append(left(chunk, asked), s.missing[len(chunk):]...)
		s.take(now, raws, source{from: s.node, reach: reachOf(len(raws))}, func(now time.Time, err error) {
			if err != nil {
				s.end(now, true, err)
				return
			}
			s.fetch(now)
		})
	})
}

func left(ids []perigee.Digest, some map[perigee.Digest]bool) []perigee.Digest {
	return slices.DeleteFunc(slices.Clone(ids), func(id perigee.Digest) bool { return !some[id] })
}

// give sends what the peer lacks.
func (s *comparison) give(now time.Time) {
	raws := s.encoded(s.extra[:min(len(s.extra), maxItems)])
	if len(raws) == 0 {
		s.buckets(now)
		return
	}
	s.extra = s.extra[len(raws):]
	s.call(s.to, &pushAsk{Version: wireVersion, Records: raws}, callTimeout, func(now time.Time, _ Message, err error) {
		if err != nil {
			s.end(now, true, err)
			return
		}
		s.give(now)
	})
}

// apply answers one message of a peer.
func (e Asked) apply(c *Core, now time.Time) {
	switch ask := e.Message.(type) {
	case *syncAsk:
		tell := &syncTell{Version: wireVersion, Node: c.self, Now: now.UnixMilli(), Root: c.Root()}
		if tell.Root != ask.Root {
			tell.Sums = c.set.tree.packSums()
		}
		if c.rows.sum() != ask.Rows {
			tell.Marks = c.rows.marks()
		}
		c.reply(e.Number, tell, nil)
	case *rowsAsk:
		if c.limiter(e.From).AllowN(now, len(ask.Rows)) {
			c.takeRows(now, ask.Rows)
		}
		c.reply(e.Number, &rowsTell{Rows: c.rows.raws(ask.Nodes)}, nil)
	case *idsAsk:
		c.reply(e.Number, &idsTell{IDs: c.bucketIDs(ask.Buckets)}, nil)
	case *getAsk:
		ids, _ := unpackDigests(ask.IDs)
		c.reply(e.Number, &getTell{Records: c.encoded(ids)}, nil)
	case *pushAsk:
		c.pushed(now, e, ask)
	}
}

func (c *Core) reply(number uint64, m Message, err error) {
	if err != nil {
		m = nil
	}
	c.out.Replies = append(c.out.Replies, Reply{number, m, err})
}

// differing returns the numbers of the buckets whose digests are not these.
func (c *Core) differing(theirs []perigee.Digest) (list []byte) {
	for b, sum := range c.set.tree.sums {
		if b < len(theirs) && sum != theirs[b] {
			list = append(list, byte(b))
		}
	}
	return list
}

// diff returns what is missing here of a peer's bucket, and what the peer lacks.
func (c *Core) diff(bucket int, theirs []perigee.Digest) (missing, extra []perigee.Digest) {
	their := make(map[perigee.Digest]bool, len(theirs))
	for _, id := range theirs {
		their[id] = true
		if !c.Holds(id) && !c.settled(id) {
			missing = append(missing, id)
		}
	}
	for _, id := range c.set.tree.ids[bucket] {
		if !their[id] {
			extra = append(extra, id)
		}
	}
	return missing, extra
}

// bucketIDs returns the packed identities of buckets, as many of these as fit into a message.
func (c *Core) bucketIDs(numbers []byte) (lists [][]byte) {
	total := 0
	for _, b := range numbers {
		ids := c.set.tree.ids[b]
		if total += len(ids); total > maxIDs && len(lists) > 0 {
			break
		}
		lists = append(lists, packDigests(ids[:min(len(ids), maxIDs)]))
	}
	return lists
}

// encoded returns records by identity, in the same order, as many as fit into a message; those not
// held are left out.
func (c *Core) encoded(ids []perigee.Digest) (raws [][]byte) {
	size := 0
	for _, id := range ids {
		e := c.set.byID[id]
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

// heldOf returns the identities of those of the records that are on this node's disk, or need not be, since
// what outlives them is.
func (c *Core) heldOf(raws [][]byte) (held []perigee.Digest) {
	for _, raw := range raws {
		if id := record.ID(raw); c.Holds(id) || c.outlived[id] {
			held = append(held, id)
		}
	}
	return held
}
