package gossip

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	pushDelay   = 5 * time.Millisecond // gathers what is written together
	pushTimeout = 5 * time.Second      // one message, a new connection included
	fanoutNear  = 4
	fanoutAll   = 5 // with at most this many peers, everyone is told at once
	farChance   = 0.25
	maxOutbox   = 4096 // records that wait for one peer
)

// target is a peer that can be called.
type target struct {
	id      perigee.NodeID
	region  perigee.Region // "" = not known yet
	addr    netip.AddrPort // for those without a row, whose address only membership knows
	suspect bool
}

// fanout chooses whom to tell: everyone in a small cluster, else four of the same region and,
// one time in four, one of another. Where a region is small, others take the free places. all says
// that nobody was left out.
func fanout(peers []target, region perigee.Region, rng *rand.Rand) (chosen []target, all bool) {
	if len(peers) <= fanoutAll {
		return peers, true
	}
	mixed := slices.Clone(peers)
	slices.SortFunc(mixed, func(a, b target) int { return cmp.Compare(a.id, b.id) })
	rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	slices.SortStableFunc(mixed, func(a, b target) int {
		return cmp.Compare(btoi(a.region != region), btoi(b.region != region))
	})
	chosen = mixed[:fanoutNear]
	if rest := mixed[fanoutNear:]; rng.Float64() < farChance {
		if i := slices.IndexFunc(rest, func(t target) bool { return t.region != region }); i >= 0 {
			chosen = append(slices.Clone(chosen), rest[i])
		}
	}
	return chosen, false
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// pushed is the answer of one peer to a push.
type pushed struct {
	node perigee.NodeID
	held map[perigee.Digest]bool // what is on its disk
	err  error
}

// pusher sends records and rows to peers: one message at a time to each, and what comes meanwhile
// goes into the next. What does not fit is dropped; comparing states repairs that.
type pusher struct {
	send    func(context.Context, target, *pushAsk) (*pushTell, error)
	metrics *Metrics

	mu       sync.Mutex // guards the fields below
	spawn    func(func(context.Context))
	outboxes map[perigee.NodeID]*outbox
}

// outbox is what waits for one peer. It exists while a goroutine empties it.
type outbox struct {
	records map[perigee.Digest][]byte
	order   []perigee.Digest
	rows    map[perigee.NodeID][]byte
	spread  bool
	waiting []chan<- pushed // each has room for its one answer
}

// start lets the pusher run goroutines; stop takes this back. Without, pushes go nowhere.
func (p *pusher) start(spawn func(func(context.Context))) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spawn = spawn
}

func (p *pusher) stop() { p.start(nil) }

// push queues records and rows for one peer. Where answer is not nil, it gets one pushed.
func (p *pusher) push(to target, records []*entry, rows map[perigee.NodeID][]byte, spread bool, answer chan<- pushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spawn == nil {
		if answer != nil {
			answer <- pushed{node: to.id, err: errors.New("gossip does not run")}
		}
		return
	}
	box := p.outboxes[to.id]
	if box == nil {
		box = &outbox{records: map[perigee.Digest][]byte{}, rows: map[perigee.NodeID][]byte{}}
		p.outboxes[to.id] = box
		p.spawn(func(ctx context.Context) { p.drain(ctx, to, box) })
	}
	for _, e := range records {
		if box.records[e.id] != nil {
			continue
		}
		if len(box.order) >= maxOutbox && answer == nil {
			p.metrics.Pushes.WithLabelValues("dropped").Inc()
			break
		}
		box.records[e.id] = e.raw
		box.order = append(box.order, e.id)
	}
	for id, raw := range rows {
		box.rows[id] = raw
	}
	box.spread = box.spread || spread
	if answer != nil {
		box.waiting = append(box.waiting, answer)
	}
}

// drain sends what is in the box until it is empty, and removes it.
func (p *pusher) drain(ctx context.Context, to target, box *outbox) {
	held := map[perigee.Digest]bool{}
	for {
		wait(ctx, pushDelay)
		ask, waiting := p.next(to, box)
		if ask == nil {
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, pushTimeout)
		tell, err := p.send(callCtx, to, ask)
		cancel()
		if err == nil {
			ids, _ := unpackDigests(tell.Held)
			for _, id := range ids {
				held[id] = true
			}
			p.metrics.Pushes.WithLabelValues("ok").Inc()
			if len(waiting) > 0 {
				reply(waiting, pushed{node: to.id, held: held})
				held = map[perigee.Digest]bool{}
			}
			continue
		}
		p.metrics.Pushes.WithLabelValues("failed").Inc()
		reply(waiting, pushed{node: to.id, err: err})
		p.abandon(to, box, err)
		return
	}
}

func reply(waiting []chan<- pushed, answer pushed) {
	for _, ch := range waiting {
		ch <- answer
	}
}

// next takes one message out of the box. Who waits for an answer gets it with the last of the
// records that were in the box.
func (p *pusher) next(to target, box *outbox) (ask *pushAsk, waiting []chan<- pushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(box.order) == 0 && len(box.rows) == 0 && len(box.waiting) == 0 {
		delete(p.outboxes, to.id)
		return nil, nil
	}
	ask = &pushAsk{Version: wireVersion, Spread: box.spread}
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
	for id, raw := range box.rows {
		if size += len(raw); size > maxBatch || len(ask.Rows) >= maxItems {
			break
		}
		ask.Rows = append(ask.Rows, raw)
		delete(box.rows, id)
	}
	if len(box.order) == 0 {
		waiting, box.waiting = box.waiting, nil
	}
	return ask, waiting
}

// abandon empties the box of a peer that can't be reached.
func (p *pusher) abandon(to target, box *outbox, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.outboxes, to.id)
	reply(box.waiting, pushed{node: to.id, err: err})
	box.waiting = nil
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
