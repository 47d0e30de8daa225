package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/measured"
)

// distances is what this node's connections and those of other gateways say of the way to clients. A
// node that answers DNS asks the others; nobody is told unasked, and nothing is kept on disk.
//
//	GET /distances    round trips to clients' networks, in microseconds: {"198.51.100.0/24": 21000}
type distances struct {
	own   *measured.Table
	self  perigee.NodeID
	view  func() *perigee.View
	fetch func(ctx context.Context, from perigee.NodeID, path string) ([]byte, error)
	log   *slog.Logger

	table atomic.Pointer[map[netip.Prefix]map[perigee.Region]time.Duration]
}

const (
	distancesEvery = 15 * time.Second
	distancesTime  = 5 * time.Second // for one node
	distancesMost  = 16              // nodes that are asked at once
)

func newDistances(n *Node) *distances {
	return &distances{own: measured.New(), self: n.ID(), view: n.View, fetch: n.fetchControl, log: n.log}
}

func (d *distances) observe(client netip.Addr, rtt time.Duration) {
	d.own.Observe(client, rtt, time.Now())
}

func (d *distances) serve(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, d.own.Figures(time.Now()))
}

// regions returns the shortest measured way between a client's network and each region. It is asked for each
// answer of DNS, and for clients that may be told of a nearer gateway.
func (d *distances) regions(client netip.Addr) map[perigee.Region]time.Duration {
	t := d.table.Load()
	network, ok := measured.Network(client)
	if t == nil || !ok {
		return nil
	}
	return (*t)[network]
}

// run asks the gateways until ctx ends.
func (d *distances) run(ctx context.Context) error {
	tick := time.NewTicker(distancesEvery)
	defer tick.Stop()
	for {
		d.gather(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// gather makes the table anew, so that a gateway that is gone no longer counts.
func (d *distances) gather(ctx context.Context) {
	table := map[netip.Prefix]map[perigee.Region]time.Duration{}
	var mu sync.Mutex // guards table
	var wg sync.WaitGroup
	slots := make(chan struct{}, distancesMost)
	for id, p := range d.view().Observed.Nodes {
		if p.HTTPS == "" || !p.Routable() {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			figures := d.of(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			for network, us := range figures {
				if table[network] == nil {
					table[network] = map[perigee.Region]time.Duration{}
				}
				rtt := time.Duration(us) * time.Microsecond
				if old, ok := table[network][p.Region]; !ok || rtt < old {
					table[network][p.Region] = rtt
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() == nil {
		d.table.Store(&table)
	}
}

// of returns the figures of one gateway; none if it does not answer.
func (d *distances) of(ctx context.Context, id perigee.NodeID) (figures map[netip.Prefix]uint32) {
	if id == d.self {
		return d.own.Figures(time.Now())
	}
	ctx, cancel := context.WithTimeout(ctx, distancesTime)
	defer cancel()
	b, err := d.fetch(ctx, id, "/distances")
	if err == nil {
		err = json.Unmarshal(b, &figures)
	}
	if err != nil {
		d.log.Debug("ask a gateway for its distances", "peer", id, "err", err)
		return nil
	}
	return figures
}
