package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	spreadWord   = 500 * time.Millisecond // time for peers to see that this node drains
	handoverTime = 10 * time.Second       // for others to take over what only this node has
	leaveTime    = 2 * time.Second        // for peers to hear goodbye
	leaveAlone   = 200 * time.Millisecond // the same, when all others are going too
	reportEvery  = time.Second
	trafficEvery = 10 * time.Second       // unless it changes much: it changes all the time, and nobody routes by it
	lastWord     = 300 * time.Millisecond // for a removed node to hear of it before its connections are cut
)

// part is one running component and the way to stop it.
type part struct {
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
}

// Run runs the node until ctx ends, then drains and stops. An error means that a part failed, or is
// ErrRemoved or ErrSuperseded. It is called once.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return errors.New("run node: it runs, or ran, already")
	}
	defer n.Close()
	failed, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	start := func(name string, run func(context.Context) error) part {
		ctx, cancel := context.WithCancel(context.Background())
		p := part{cancel, make(chan struct{})}
		go func() {
			defer close(p.done)
			if err := run(ctx); err != nil && ctx.Err() == nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		}()
		return p
	}
	// Started in the order in which each needs the one before.
	link := start("mesh", n.link.Run)
	gossip := start("gossip", n.gossip.Run)
	follow := start("follow", n.follow)
	renew := start("renew", n.renewer.run)
	replicate := start("replicate", n.rep.run)
	admin := start("admin", func(ctx context.Context) error { return serve(ctx, n.admin, n.adminHandler()) })
	keep := start("usage", n.keepUsage)
	scrub := start("scrub", n.scrubLoop)
	disk := start("disk", n.disk.run)
	near := start("near", n.measureNear)
	scale := start("scale", n.scale)
	places := start("geo", n.locator.Run)
	issue := start("issuer", n.issuer.run)
	// Stopped in the other order; monitoring hears until the end why the node is not ready.
	inner := []part{start("address", n.watchAddress), start("standing", n.standing.run), scale, near, disk, scrub, keep, issue, admin, replicate, renew, follow, gossip}
	var dns []part
	if n.dns != nil { // it goes last: others hear from it that this node drains
		dns = append(dns, start("dns", n.dns.Run))
	}
	if n.dns != nil || n.cfg.NearerGateway != "" && n.cfg.NearerGateway != "off" {
		dns = append(dns, start("distances", n.distances.run))
	}
	n.readiness.start(time.Now())
	n.awaitTurn(ctx, failed)
	outer := []part{start("edgeproxy", n.proxy.Run), places}
	if n.traces != nil {
		outer = append(outer, start("traces", n.traces.Run)) // stopped after the last request
	}
	var health []part
	if n.health != nil {
		health = append(health, start("health", func(ctx context.Context) error { return serve(ctx, n.health, n.healthHandler()) }))
	}
	n.log.Info("node running", "region", n.Claims().Region, "cluster", n.m.genesis.Cluster, "https", n.HTTPSAddr(), "mesh", n.cfg.Socket.LocalAddr().String())
	parts := slices.Concat(outer, inner, []part{link}, dns, n.tellPredecessor(start), health)

	for running := true; running; {
		select {
		case program := <-n.upgrades:
			if over := n.passOn(ctx, program, slices.Concat(inner, dns)); over {
				running = false
				n.finish(ctx, health)
			}
		case <-ctx.Done():
			running = false
			n.drain(failed)
		case <-failed.Done():
			running = false
			if cause := context.Cause(failed); errors.Is(cause, ErrRemoved) || errors.Is(cause, ErrSuperseded) {
				n.drain(context.Background()) // clients that are here get their answers
			}
		}
	}
	for _, p := range parts {
		p.stop()
		<-p.done
	}
	if failed.Err() != nil {
		return context.Cause(failed)
	}
	n.log.Info("node stopped")
	return nil
}

// drain ends service in the order that costs no request: first nobody sends new ones and others take
// over what only this node has, then the running ones end, then the cluster hears goodbye while the
// links still stand. It stops early when ctx ends.
func (n *Node) drain(ctx context.Context) {
	began := time.Now()
	n.setDraining() // gateways choose others, load balancers see /readyz
	n.log.Info("draining", "timeout", n.cfg.DrainTimeout)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainTimeout)
	defer cancel()
	pause(ctx, spreadWord)
	n.handOver(ctx)
	if err := n.proxy.Drain(ctx); err != nil {
		n.log.Warn("requests were cut off at the end of the drain", "err", err)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.goodbye())
	defer cancel()
	if err := n.gossip.Leave(last); err != nil {
		n.log.Debug("leave", "err", err)
	}
	n.log.Info("drained", "dur", time.Since(began))
}

// goodbye returns how long to wait for peers to hear it.
func (n *Node) goodbye() time.Duration {
	if n.View().Desired.Revoked[n.ID()] {
		return leaveAlone
	}
	for id, p := range n.View().Observed.Nodes {
		if id != n.ID() && p.Routable() {
			return leaveTime
		}
	}
	return leaveAlone
}

// handOver waits until each live revision that is here is also where it is planned now, if anywhere.
func (n *Node) handOver(ctx context.Context) {
	if n.View().Desired.Revoked[n.ID()] {
		return // nobody takes anything from this node any more
	}
	ctx, cancel := context.WithTimeout(ctx, min(handoverTime, n.cfg.DrainTimeout/2))
	defer cancel()
	changed := n.gossip.Watch(ctx)
	for n.rep.neededHere(n.View()) && ctx.Err() == nil {
		<-changed // closed when ctx ends
	}
}

func (n *Node) setDraining() {
	n.readiness.drain()
	n.gossip.SetRow(func(r *perigee.Row) { r.Draining = true })
}

// follow reacts to what the View says about this node and its peers, and reports its load.
func (n *Node) follow(ctx context.Context) error {
	changed := n.gossip.Watch(ctx)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	desired := n.View().Desired
	var meter trafficMeter
	var told time.Time
	cut := time.NewTimer(0) // a removal may have come before this began
	defer cut.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-cut.C:
			n.link.Recheck()
			continue
		case <-changed:
		case <-tick.C:
			load, now := n.load(), time.Now()
			traffic, sudden := meter.read(*n.rep.here.Load(), n.proxy.Asked(), n.slots, now)
			tell := sudden || now.Sub(told) >= trafficEvery
			if tell {
				told = now
			}
			n.gossip.SetRow(func(r *perigee.Row) {
				r.Load = load
				if tell {
					r.Traffic = traffic
				}
			})
		}
		before := desired
		if desired = n.View().Desired; desired == before {
			continue
		}
		n.webCerts.update(desired.Web)
		n.tickets.update(desired)
		n.secrets.leave(desired)
		n.proxy.ObeyPurges()
		if !maps.Equal(before.Revoked, desired.Revoked) {
			cut.Reset(lastWord) // new connections are refused from now on
		}
		if desired.Revoked[n.ID()] {
			return ErrRemoved
		}
		if err := n.checkName(); err != nil {
			return err
		}
	}
}

// checkName notices that another machine got this one's name: two that joined at the same moment,
// on two sides of a partition. The earlier has it, everywhere.
func (n *Node) checkName() error {
	for _, t := range n.gossip.Tokens() {
		if r := t.Redeemed; r != nil && !t.Former && r.Node == n.ID() && !n.m.key().Equal(r.Public) {
			return fmt.Errorf("another machine joined as %s at the same moment and has the name: delete this data directory and join again with a new token and another id", n.ID())
		}
	}
	return nil
}

// load sums what the runtime does.
func (n *Node) load() (sum perigee.Load) {
	for _, id := range n.runtime.Loaded() {
		if l, ok := n.runtime.Stats(id); ok {
			sum.InFlight += l.InFlight
			sum.Slots += l.Slots
		}
	}
	return sum
}

// slots returns how many requests of a revision this node runs at once.
func (n *Node) slots(id perigee.RevisionID) uint32 {
	l, _ := n.runtime.Stats(id)
	return uint32(max(0, l.Slots))
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
