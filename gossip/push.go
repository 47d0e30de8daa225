package gossip

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
)

const (
	pushDelay   = 5 * time.Millisecond // gathers what is written together
	pushTimeout = 5 * time.Second      // one message, a new connection included
	fanoutNear  = 4
	fanoutAll   = 5 // with at most this many peers, everyone is told at once
	farChance   = 0.25
	maxOutbox   = 4096 // records that wait for one peer
	maxSpread   = 64   // records passed on at once

	// What one peer may have this node verify: a fresh node that everyone tells everything stays
	// below it, and what is above comes later, when states are compared.
	verifyRate  = 2000 // records and rows a second
	verifyBurst = 8192
)

// fanout chooses whom to tell: everyone in a small cluster, else four of the same region and,
// one time in four and where everybody shall hear it, one of another. The first of the four is who
// comes after this node by name, so that whom chance leaves out is told by who comes before. Where a
// region is small, others take the free places. all says that nobody was left out.
func fanout(self perigee.NodeID, peers []Peer, region perigee.Region, reach Reach, chance *rand.Rand) (chosen []Peer, all bool) {
	if len(peers) <= fanoutAll {
		return peers, true
	}
	mixed := slices.Clone(peers)
	slices.SortFunc(mixed, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	next := successor(self, mixed, region)
	chance.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	slices.SortStableFunc(mixed, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(btoi(a.Region != region), btoi(b.Region != region)), cmp.Compare(btoi(a.ID != next), btoi(b.ID != next)))
	})
	far := slices.IndexFunc(mixed, func(p Peer) bool { return p.Region != region })
	if reach == ReachNear {
		if far < 0 {
			far = len(mixed)
		}
		return mixed[:min(far, fanoutNear)], false
	}
	chosen = mixed[:fanoutNear]
	if far >= 0 && chance.Float64() < farChance {
		if far = max(far, fanoutNear); far < len(mixed) {
			chosen = mixed[:fanoutNear:fanoutNear]
			chosen = append(chosen, mixed[far])
		}
	}
	return chosen, false
}

// successor returns the peer of the region that comes after a node in a list sorted by name, or the first.
func successor(self perigee.NodeID, sorted []Peer, region perigee.Region) (next perigee.NodeID) {
	for _, p := range sorted {
		if p.Region == region && (next == "" || next < self && p.ID > self) {
			next = p.ID
		}
	}
	return next
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// everywhere adds one peer of each region that has none among the chosen: what begins here should not
// wait for chance to carry it over.
func everywhere(chosen, peers []Peer, region perigee.Region, chance *rand.Rand) []Peer {
	has := map[perigee.Region]bool{region: true}
	for _, p := range chosen {
		has[p.Region] = true
	}
	chosen = slices.Clone(chosen)
	for _, i := range chance.Perm(len(peers)) {
		if p := peers[i]; !has[p.Region] {
			has[p.Region] = true
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// pushOrder returns whom to tell at once, and whom to try after them. In a larger cluster nobody
// counts on a suspect. begins says that this node is the first to tell.
func (c *Core) pushOrder(reach Reach, begins bool) (first, rest []Peer, all bool) {
	peers := slices.DeleteFunc(slices.Clone(c.peers), func(p Peer) bool { return p.ID == "" })
	sure := slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return p.Suspect })
	if len(peers) <= fanoutAll || len(sure) <= fanoutAll {
		sure = peers
	}
	first, all = fanout(c.self, sure, c.region, reach, c.chance)
	if begins && reach == ReachAll && !all {
		first = everywhere(first, sure, c.region, c.chance)
	}
	for _, p := range peers {
		if len(first)+len(rest) < replicateMost && !slices.Contains(first, p) {
			rest = append(rest, p)
		}
	}
	return first, rest, all
}

// spread passes on what is new here.
func (c *Core) spread(now time.Time, entries []*entry, rows map[perigee.NodeID][]byte, src source) {
	if src.reach == ReachOne || len(entries)+len(rows) == 0 {
		return
	}
	first, _, all := c.pushOrder(src.reach, src.from == "")
	for _, to := range first {
		if to.ID != src.from {
			c.push(now, to, entries, rows, further(src.reach, all), nil)
		}
	}
}

// further returns how far receivers pass on what goes to some, or to all.
func further(reach Reach, all bool) Reach {
	if all {
		return ReachOne
	}
	return reach
}

// tellRow spreads this node's own row. Where somebody waits for it, as many as possible are told.
func (c *Core) tellRow(now time.Time, e Own) {
	first, rest, all := c.pushOrder(e.Reach, true)
	rows := map[perigee.NodeID][]byte{c.self: e.Row.raw}
	if e.Number == 0 {
		c.spread(now, nil, rows, source{reach: e.Reach})
		return
	}
	left := len(first) + len(rest)
	answered := func(time.Time, pushed) {
		if left--; left == 0 {
			c.out.Outcomes = append(c.out.Outcomes, Outcome{Number: e.Number})
		}
	}
	if left == 0 {
		left = 1
		answered(now, pushed{})
		return
	}
	for _, to := range slices.Concat(first, rest) {
		c.push(now, to, nil, rows, further(e.Reach, all), answered)
	}
}

// pushed is the answer of one peer to a push.
type pushed struct {
	node perigee.NodeID
	held map[perigee.Digest]bool // what is on its disk
	err  error
}

// outbox is what waits for one peer: one message at a time is under way, and what comes meanwhile
// goes into the next. It exists while there is something. What does not fit is dropped; comparing
// states repairs that.
type outbox struct {
	to      Peer
	due     time.Time
	busy    bool // a message is under way
	records map[perigee.Digest][]byte
	order   []perigee.Digest
	rows    map[perigee.NodeID][]byte
	reach   Reach
	waiting []func(time.Time, pushed)
	held    map[perigee.Digest]bool
}

// push queues records and rows for one peer. Where answer is not nil, it is called once.
func (c *Core) push(now time.Time, to Peer, records []*entry, rows map[perigee.NodeID][]byte, reach Reach, answer func(time.Time, pushed)) {
	if !c.started {
		if answer != nil {
			answer(now, pushed{node: to.ID, err: errors.New("gossip does not run")})
		}
		return
	}
	box := c.boxes[to.ID]
	if box == nil {
		box = &outbox{
			to: to, due: now.Add(pushDelay), records: map[perigee.Digest][]byte{}, rows: map[perigee.NodeID][]byte{}, held: map[perigee.Digest]bool{},
		}
		c.boxes[to.ID] = box
	}
	for _, e := range records {
		if box.records[e.id] != nil {
			continue
		}
		if len(box.order) >= maxOutbox && answer == nil {
			c.out.Counts.Dropped++
			break
		}
		box.records[e.id] = e.raw
		box.order = append(box.order, e.id)
	}
	maps.Copy(box.rows, rows)
	box.reach = max(box.reach, reach)
	if answer != nil {
		box.waiting = append(box.waiting, answer)
	}
}

// sendBoxes sends one message from each box whose time has come, and drops empty ones.
func (c *Core) sendBoxes(now time.Time) {
	for _, id := range slices.Sorted(maps.Keys(c.boxes)) {
		box := c.boxes[id]
		if box.busy || now.Before(box.due) {
			continue
		}
		ask, waiting := box.next()
		if ask == nil {
			delete(c.boxes, id)
			continue
		}
		box.busy = true
		c.call(box.to, ask, pushTimeout, func(now time.Time, m Message, err error) { c.boxAnswered(now, box, waiting, m, err) })
	}
}

func (c *Core) boxAnswered(now time.Time, box *outbox, waiting []func(time.Time, pushed), m Message, err error) {
	box.busy, box.due = false, now.Add(pushDelay)
	if err != nil {
		c.out.Counts.PushesFailed++
		if c.boxes[box.to.ID] == box {
			delete(c.boxes, box.to.ID)
		}
		box.fail(now, waiting, err)
		return
	}
	c.out.Counts.PushesOK++
	ids, _ := unpackDigests(m.(*pushTell).Held)
	for _, id := range ids {
		box.held[id] = true
	}
	if len(waiting) > 0 {
		held := box.held
		box.held = map[perigee.Digest]bool{}
		for _, answer := range waiting {
			answer(now, pushed{node: box.to.ID, held: held})
		}
	}
}

// fail answers everybody who waits for a peer that can't be reached.
func (box *outbox) fail(now time.Time, waiting []func(time.Time, pushed), err error) {
	waiting = append(waiting, box.waiting...)
	box.waiting = nil
	for _, answer := range waiting {
		answer(now, pushed{node: box.to.ID, err: err})
	}
}

func (c *Core) dropBoxes(now time.Time) {
	boxes := c.boxes
	c.boxes = map[perigee.NodeID]*outbox{}
	for _, id := range slices.Sorted(maps.Keys(boxes)) {
		boxes[id].fail(now, nil, errors.New("gossip does not run"))
	}
}

// next takes one message out of the box. Who waits for an answer gets it with the last of the
// records that were in the box.
func (box *outbox) next() (ask *pushAsk, waiting []func(time.Time, pushed)) {
	if len(box.order) == 0 && len(box.rows) == 0 && len(box.waiting) == 0 {
		return nil, nil
	}
	ask = &pushAsk{Version: wireVersion, Reach: box.reach}
	size := 0
	for len(box.order) > 0 && len(ask.Records) < maxItems {
		raw := box.records[box.order[0]]
		if size += len(raw); size > maxBatch && len(ask.Records) > 0 {
			break
		}
		ask.Records = append(ask.Records, raw)
		delete(box.records, box.order[0])
		box.order = box.order[1:]
	}
	for _, id := range slices.Sorted(maps.Keys(box.rows)) {
		if size += len(box.rows[id]); size > maxBatch || len(ask.Rows) >= maxItems {
			break
		}
		ask.Rows = append(ask.Rows, box.rows[id])
		delete(box.rows, id)
	}
	if len(box.order) == 0 {
		waiting, box.waiting = box.waiting, nil
	}
	return ask, waiting
}

// pushed answers a peer's push: what is new is stored and passed on. What is above the peer's rate
// is left out of the answer, so that the peer knows that it is not stored.
func (c *Core) pushed(now time.Time, e Asked, ask *pushAsk) {
	if !c.limiter(e.From).AllowN(now, len(ask.Records)+len(ask.Rows)) {
		c.reply(e.Number, &pushTell{}, nil)
		return
	}
	c.spread(now, nil, c.takeRows(now, ask.Rows), source{from: e.From, reach: ask.Reach})
	c.take(now, ask.Records, source{from: e.From, reach: ask.Reach}, func(_ time.Time, err error) {
		c.reply(e.Number, &pushTell{Held: packDigests(c.heldOf(ask.Records))}, err)
	})
}

// takeRows verifies rows and keeps those that are newer; it returns them.
func (c *Core) takeRows(now time.Time, raws [][]byte) map[perigee.NodeID][]byte {
	fresh := map[perigee.NodeID][]byte{}
	for _, raw := range raws {
		id, kept, err := c.rows.takeOne(raw, now, &c.out.Outrun)
		switch {
		case err != nil:
			c.out.Counts.RowsRefused++
			c.out.Refused = append(c.out.Refused, err)
		case kept:
			c.out.Counts.RowsNew++
			c.out.Observed = true
			fresh[id] = raw
		}
	}
	return fresh
}

// limiter returns the peer's own; peers are nodes with certificates, and few.
func (c *Core) limiter(peer perigee.NodeID) *rate.Limiter {
	l := c.limits[peer]
	if l == nil {
		if len(c.limits) >= maxNodes {
			clear(c.limits)
		}
		l = rate.NewLimiter(verifyRate, verifyBurst)
		c.limits[peer] = l
	}
	return l
}
