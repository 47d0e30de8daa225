package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/perigee-edge/perigee"
)

const (
	joinFirst    = 250 * time.Millisecond // between tries while alone, doubled up to
	joinMost     = 5 * time.Second
	joinAgain    = 2 * time.Second // between tries to reach somebody lost, while not alone
	joinAtOnce   = 8               // addresses tried at once while alone
	peersEvery   = 10 * time.Second
	pendingEvery = 200 * time.Millisecond
	storageRetry = 10 * time.Second
	maxSpread    = 64 // records passed on at once; a node that fetches everything tells nobody
	leaveTime    = 2 * time.Second
)

// Run joins the cluster and keeps this node's state like that of the others until ctx ends. It owns
// all goroutines and returns nil when they have ended. It may be called once.
func (g *Gossip) Run(ctx context.Context) error {
	if !g.running.CompareAndSwap(false, true) {
		return errors.New("run gossip: it runs, or ran, already")
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	t := newTransport(ctx, g.conf.Mesh, g.conf.Advertise, g.logger)
	d := &memberDelegate{
		revoked: func(id perigee.NodeID) bool { return g.View().Desired.Revoked[id] },
		count:   func() int { return len(g.members.alive()) }, logger: g.logger,
	}
	list, err := memberlist.Create(memberConfig(g.self, g.conf.GossipKey, t, &g.members, d, g.logger))
	if err != nil {
		return errors.Join(fmt.Errorf("run gossip: start membership: %w", err), t.Shutdown())
	}
	g.setList(list)
	spawn := func(f func(context.Context)) { wg.Go(func() { f(ctx) }) }
	for _, loop := range []func(context.Context){
		g.observeLoop, g.rowLoop, g.syncLoop, g.pendingLoop, g.peersLoop, func(ctx context.Context) { g.joinLoop(ctx, list) },
	} {
		spawn(loop)
	}
	g.pusher.start(spawn)
	<-ctx.Done()
	g.pusher.stop()
	g.setList(nil)
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("run gossip: stop membership: %w", err)
	}
	return nil
}

func (g *Gossip) setList(list *memberlist.Memberlist) {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	g.list = list
}

// Leave tells the others that this node goes, so that they stop sending to it at once. It waits
// for some of them to hear it, two seconds at most. Run goes on until its context ends.
func (g *Gossip) Leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	g.own.leave()
	raw, row, err := g.own.sign(time.Now())
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	g.rows.putOwn(raw, row, g.conf.Identity, time.Now())
	first, rest, all := g.pushOrder()
	answers := make(chan pushed, len(first)+len(rest))
	for _, to := range append(slices.Clone(first), rest...) {
		g.pusher.push(to, nil, map[perigee.NodeID][]byte{g.self: raw}, !all, answers)
	}
	g.wakeObserver()
	err = g.leaveList(ctx)
	for range len(first) + len(rest) {
		select {
		case <-answers:
		case <-ctx.Done():
			return err
		}
	}
	return err
}

func (g *Gossip) leaveList(ctx context.Context) error {
	g.listMu.Lock()
	defer g.listMu.Unlock()
	if g.list == nil {
		return nil
	}
	deadline, _ := ctx.Deadline()
	if err := g.list.Leave(max(time.Until(deadline), time.Millisecond)); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

// targets returns the peers that can be called: those alive first, then those suspected, by name.
func (g *Gossip) targets() []target {
	var alive, suspect []target
	nodes := g.observed().Nodes
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		t := target{id: id, region: nodes[id].Region}
		switch nodes[id].State {
		case perigee.NodeAlive:
			alive = append(alive, t)
		case perigee.NodeSuspect:
			t.suspect = true
			suspect = append(suspect, t)
		}
	}
	alive = slices.DeleteFunc(alive, func(t target) bool { return t.id == g.self })
	members := g.members.alive()
	for _, id := range slices.Sorted(maps.Keys(members)) {
		if nodes[id] == nil && id != g.self {
			suspect = append(suspect, target{id: id, addr: members[id], suspect: true})
		}
	}
	return append(alive, suspect...)
}

// pushOrder returns whom to tell at once, and whom to try after them. In a larger cluster nobody
// counts on a suspect.
func (g *Gossip) pushOrder() (first, rest []target, all bool) {
	peers := g.targets()
	sure := slices.DeleteFunc(slices.Clone(peers), func(t target) bool { return t.suspect })
	if len(peers) <= fanoutAll || len(sure) <= fanoutAll {
		sure = peers
	}
	first, all = fanout(sure, g.conf.Identity.Claims().Region, newRand())
	for _, t := range peers {
		if len(first)+len(rest) < replicateMost && !slices.Contains(first, t) {
			rest = append(rest, t)
		}
	}
	return first, rest, all
}

// noteFresh passes records on that came from a peer, once.
func (g *Gossip) noteFresh(fresh []*entry, from perigee.NodeID, spread bool) {
	g.metrics.Records.WithLabelValues("peer").Add(float64(len(fresh)))
	if len(fresh) == 0 || !spread {
		return
	}
	first, _, all := g.pushOrder()
	for _, to := range first {
		if to.id != from {
			g.pusher.push(to, fresh, nil, !all, nil)
		}
	}
}

// spreadRows passes rows on, this node's own and those of others, once.
func (g *Gossip) spreadRows(rows map[perigee.NodeID][]byte, from perigee.NodeID) {
	if len(rows) == 0 {
		return
	}
	g.wakeObserver()
	first, _, all := g.pushOrder()
	for _, to := range first {
		if to.id != from {
			g.pusher.push(to, nil, rows, !all, nil)
		}
	}
}

func (g *Gossip) sendPush(ctx context.Context, to target, ask *pushAsk) (*pushTell, error) {
	var tell pushTell
	return &tell, g.caller(to)(ctx, pathPush, ask, &tell)
}

// caller returns the function that calls one peer and notes whether it answered.
func (g *Gossip) caller(to target) caller {
	return func(ctx context.Context, path string, ask, tell message) error {
		body, err := encode(ask)
		if err != nil {
			return err
		}
		limit := callTimeout
		if to.id == "" {
			limit = lostTimeout
		}
		callCtx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var reply []byte
		if to.addr.IsValid() {
			reply, err = g.conf.Mesh.CallAddr(callCtx, to.addr, path, body)
		} else {
			reply, err = g.conf.Mesh.Call(callCtx, to.id, path, body)
		}
		switch {
		case err != nil && ctx.Err() == nil && to.id != "":
			g.members.silent(to.id)
		case err == nil && !to.addr.IsValid():
			g.members.heard(to.id, time.Now())
		}
		if err != nil {
			return fmt.Errorf("call %s of %s: %w", path, to.name(), err)
		}
		return decode(reply, tell)
	}
}

func (t target) name() string {
	if t.id != "" {
		return string(t.id)
	}
	return t.addr.String()
}

// syncLoop compares the state with one peer a second, and at once when somebody joined.
func (g *Gossip) syncLoop(ctx context.Context) {
	rng := newRand()
	for {
		timer := time.NewTimer(syncInterval*4/5 + rand.N(syncInterval*2/5))
		select {
		case <-timer.C:
		case <-g.syncPoke:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		if to, ok := g.syncTarget(rng); ok && RuleOf(g.compareWith(ctx, to)) == RuleStorage {
			wait(ctx, storageRetry) // fetching what can't be stored helps nobody
		}
	}
}

func (g *Gossip) compareWith(ctx context.Context, to target) error {
	differed, peer, err := g.compare(ctx, g.caller(to))
	switch {
	case RuleOf(err) == RuleStorage:
		g.metrics.Syncs.WithLabelValues("failed").Inc()
		g.logger.Warn("state of peers not stored", "peer", to.name(), "err", err)
	case err != nil:
		g.metrics.Syncs.WithLabelValues("failed").Inc()
		if ctx.Err() == nil {
			g.logger.Debug("state not compared", "peer", to.name(), "err", err)
		}
	case differed:
		g.metrics.Syncs.WithLabelValues("repaired").Inc()
		g.logger.Debug("state differed", "peer", peer)
	default:
		g.metrics.Syncs.WithLabelValues("equal").Inc()
	}
	return err
}

// syncTarget chooses a peer, more often in this region; without any, an address where one was.
func (g *Gossip) syncTarget(rng *rand.Rand) (target, bool) {
	peers := g.targets()
	if len(peers) == 0 {
		lost := g.lostAddrs()
		if len(lost) == 0 {
			return target{}, false
		}
		return target{addr: lost[rng.IntN(len(lost))]}, true
	}
	region := g.conf.Identity.Claims().Region
	near := slices.DeleteFunc(slices.Clone(peers), func(t target) bool { return t.region != region })
	if len(near) > 0 && len(near) < len(peers) && rng.Float64() < nearChance {
		peers = near
	}
	return peers[rng.IntN(len(peers))], true
}

// lostAddrs returns where nodes were or should be that membership does not list as alive.
func (g *Gossip) lostAddrs() []netip.AddrPort {
	lost := map[netip.AddrPort]bool{}
	for _, addr := range g.conf.Seeds() {
		lost[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())] = true
	}
	for _, addr := range g.known {
		lost[addr] = true
	}
	for _, r := range g.rows.addrs() {
		if r.left {
			delete(lost, r.addr)
		} else {
			lost[r.addr] = true
		}
	}
	delete(lost, g.conf.Advertise)
	for _, addr := range g.members.alive() {
		delete(lost, addr)
	}
	list := slices.Collect(maps.Keys(lost))
	slices.SortFunc(list, netip.AddrPort.Compare)
	return list
}

// joinLoop keeps this node from being alone, and looks for members that were lost: a partition that
// lasts longer than membership remembers the dead is healed here.
func (g *Gossip) joinLoop(ctx context.Context, list *memberlist.Memberlist) {
	delay := joinFirst
	for ctx.Err() == nil {
		alone := len(g.members.alive()) <= 1
		if g.join(ctx, list, alone) || !alone {
			delay = joinFirst
			wait(ctx, joinAgain)
			continue
		}
		wait(ctx, delay)
		delay = min(2*delay, joinMost)
	}
}

// join tries lost addresses, all at once, and returns whether one answered.
func (g *Gossip) join(ctx context.Context, list *memberlist.Memberlist, alone bool) bool {
	if g.own.hasLeft() {
		return false
	}
	lost := g.lostAddrs()
	newRand().Shuffle(len(lost), func(i, j int) { lost[i], lost[j] = lost[j], lost[i] })
	most := 1
	if alone {
		most = joinAtOnce
	}
	var wg sync.WaitGroup
	var joined atomic.Bool
	for _, addr := range lost[:min(len(lost), most)] {
		wg.Go(func() {
			if _, err := list.Join([]string{addr.String()}); err == nil {
				joined.Store(true)
			} else if ctx.Err() == nil {
				g.logger.Debug("node not joined", "addr", addr, "err", err)
			}
		})
	}
	wg.Wait()
	return joined.Load()
}

// pendingLoop stores records whose time has come.
func (g *Gossip) pendingLoop(ctx context.Context) {
	for ctx.Err() == nil {
		wait(ctx, pendingEvery)
		fresh, err := g.storeDue(time.Now())
		if err != nil {
			g.logger.Warn("waiting records not stored", "err", err)
		}
		g.noteFresh(fresh, "", len(fresh) <= maxSpread)
	}
}

// peersLoop writes the file of last known peers when they changed.
func (g *Gossip) peersLoop(ctx context.Context) {
	saved := g.known
	for ctx.Err() == nil {
		wait(ctx, peersEvery)
		now := g.members.alive()
		delete(now, g.self)
		if len(now) == 0 || maps.Equal(now, saved) {
			continue // a node that lost everyone still knows where they were
		}
		if err := savePeers(g.conf.FS, g.conf.Dir, now); err != nil {
			g.logger.Warn("last known peers not written", "err", err)
			continue
		}
		saved = now
	}
}

// newRand returns a source of chance for one goroutine.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }
