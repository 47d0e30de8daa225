package node

import (
	"context"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	scaleEvery = time.Second

	// scaleSettle is how long after its start a node decides nothing: what members have to do with a function
	// is still coming in.
	scaleSettle = 5 * time.Second
)

// scale decides the optional holders of the functions that this node is responsible for and tells the
// cluster, until ctx ends.
func (n *Node) scale(ctx context.Context) error {
	pause(ctx, scaleSettle)
	tick := time.NewTicker(scaleEvery)
	defer tick.Stop()
	scaler := placement.NewScaler(n.ID())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v := n.View()
		optional := scaler.Step(v, n.plans.at(v), time.Now())
		n.gossip.SetRow(func(r *perigee.Row) { r.Optional = optional })
	}
}
