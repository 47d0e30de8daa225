package node

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	nearEvery   = 15 * time.Second // between two measurements of all hosts
	nearTimeout = 3 * time.Second
	nearTries   = 3  // connections a measurement; the fastest counts
	maxNear     = 64 // hosts that one node measures
)

// measureNear measures the way to the hosts that policies name in near and tells the cluster, until ctx
// ends. Only nodes that may run such a function measure. A host that can't be reached is left out.
func (n *Node) measureNear(ctx context.Context) error {
	tick := time.NewTicker(nearEvery)
	defer tick.Stop()
	desired := n.View().Desired
	changed := n.gossip.Watch(ctx)
	for {
		n.measureAll(ctx)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				waiting = false
			case <-changed:
				before := desired
				desired = n.View().Desired
				waiting = before == desired
			}
		}
	}
}

func (n *Node) measureAll(ctx context.Context) {
	old := n.View().Observed.Nodes[n.ID()].Near
	found := map[string]uint32{}
	for _, host := range n.nearHosts() {
		if us, ok := n.measure(ctx, host); ok {
			found[host] = steady(old[host], us)
		}
	}
	if ctx.Err() == nil && !maps.Equal(old, found) {
		n.gossip.SetRow(func(r *perigee.Row) { r.Near = found })
	}
}

// nearHosts lists the hosts that functions which may run here want to be near to.
func (n *Node) nearHosts() (hosts []string) {
	v := n.View()
	for _, fn := range v.Desired.Functions {
		p := fn.Policy()
		if !strings.HasPrefix(p.Near, "host:") {
			continue
		}
		t, err := perigee.ParseNear(p.Near)
		if _, may := placement.Allowed(p, n.Claims(), v.Desired.Regions); err == nil && may {
			hosts = append(hosts, t.Host)
		}
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	return hosts[:min(len(hosts), maxNear)]
}

// measure returns the shortest of some round trips, in microseconds.
func (n *Node) measure(ctx context.Context, host string) (us uint32, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, nearTimeout)
	defer cancel()
	best := nearTimeout
	for range nearTries {
		d, err := n.egress.Distance(ctx, host)
		if err != nil {
			n.log.Debug("measure the way to a host", "host", host, "err", err)
			continue
		}
		best, ok = min(best, d), true
	}
	return uint32(max(1, best.Microseconds())), ok
}

// steady keeps the old figure unless the new one differs by a quarter and a millisecond: what trembles
// moves nothing and is not worth telling.
func steady(old, now uint32) uint32 {
	d := max(old, now) - min(old, now)
	if old > 0 && (d < 1000 || d < old/4) {
		return old
	}
	return now
}
