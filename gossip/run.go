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
	joinFirst  = 250 * time.Millisecond // between tries while alone, doubled up to
	joinMost   = 5 * time.Second
	joinAgain  = 2 * time.Second // between tries to reach somebody lost, while not alone
	joinAtOnce = 8               // addresses tried at once while alone
	peersEvery = 10 * time.Second
	leaveTime  = 2 * time.Second
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
		self: g.self,
		peer: func(id perigee.NodeID) (*perigee.Peer, bool) {
			v := g.View()
			return v.Observed.Nodes[id], v.Desired.Revoked[id]
		},
		count: func() int { return len(g.members.alive()) }, logger: g.logger,
	}
	list, err := memberlist.Create(memberConfig(g.self, g.conf.GossipKey, t, &g.members, d, g.logger))
	if err != nil {
		return errors.Join(fmt.Errorf("run gossip: start membership: %w", err), t.Shutdown())
	}
	g.setList(list)
	spawn := func(f func(context.Context)) { wg.Go(func() { f(ctx) }) }
	for _, loop := range []func(context.Context){
		g.observeLoop, g.rowLoop, g.tickLoop, g.peersLoop, func(ctx context.Context) { g.joinLoop(ctx, list) },
	} {
		spawn(loop)
	}
	g.run(spawn)
	g.step(Start{})
	<-ctx.Done()
	g.run(nil)
	g.step(Stop{})
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
	now := time.Now()
	raw, row, reach, err := g.own.sign(now)
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	g.wakeObserver()
	left := make(chan error, 1)
	go func() { left <- g.leaveList(ctx) }()
	_, _ = ask(ctx, g, g.results, func(number uint64) Event {
		return Own{Number: number, Row: ownRowState(raw, row, g.conf.Identity, now), Reach: reach}
	})
	return <-left
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
// Without any, it returns the addresses where one was.
func (g *Gossip) targets(nodes map[perigee.NodeID]*perigee.Peer) []Peer {
	var alive, suspect []Peer
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		p := Peer{ID: id, Region: nodes[id].Region}
		switch {
		case id == g.self:
		case nodes[id].State == perigee.NodeAlive:
			alive = append(alive, p)
		case nodes[id].State == perigee.NodeSuspect:
			p.Suspect = true
			suspect = append(suspect, p)
		}
	}
	members := g.members.alive()
	for _, id := range slices.Sorted(maps.Keys(members)) {
		if nodes[id] == nil && id != g.self {
			suspect = append(suspect, Peer{ID: id, Addr: members[id], Suspect: true})
		}
	}
	peers := append(alive, suspect...)
	if len(peers) == 0 {
		for _, addr := range g.lostAddrs() {
			peers = append(peers, Peer{Addr: addr, Suspect: true})
		}
	}
	return peers
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
	g.mu.Lock()
	rows := g.core.rows.addrs()
	g.mu.Unlock()
	for _, r := range rows {
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
		wait(ctx, delay/2+rand.N(delay)) // a hundred nodes that start together do not knock together
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

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
