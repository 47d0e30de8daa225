package gossip

import (
	"context"
	"fmt"

	"github.com/perigee-edge/perigee"
)

// Ack says where submitted records are on disk: this node first, then those that confirmed it in time.
type Ack struct {
	Stored []perigee.NodeID `json:"stored"`
}

// Submit takes encoded records from people and from this node. It verifies all of them, together
// with what is known here, and stores all or none; the error is then a *RefusedError that names the
// rule. It returns when they are on this node's disk and, where another node can be reached within
// two seconds, on that one's too; an Ack that lists this node alone means that no other confirmed in
// time. Submitting a record again is fine. It is safe for concurrent use, and works before Run and
// while the disk of this node has room.
func (g *Gossip) Submit(ctx context.Context, records ...[]byte) (Ack, error) {
	out, err := ask(ctx, g, g.results, func(number uint64) Event { return Submit{number, records} })
	if err != nil {
		return Ack{}, fmt.Errorf("submit %d records: %w: they may have been stored", len(records), err)
	}
	if out.Err != nil {
		if rule := RuleOf(out.Err); rule != "" {
			g.metrics.Refused.WithLabelValues(string(rule)).Inc()
		}
		return Ack{}, out.Err
	}
	ack := Ack{Stored: []perigee.NodeID{g.self}}
	if out.Node != "" {
		ack.Stored = append(ack.Stored, out.Node)
	}
	return ack, nil
}
