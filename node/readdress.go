package node

import (
	"context"
	"time"
)

const (
	addressEvery = 3 * time.Second // between two looks at this machine's addresses
	addressAgain = time.Minute     // between attempts to tell a new one
)

// watchAddress looks whether this machine lost the address where peers reach this node, as when it gets
// another lease. Then a new process of the same program takes over, which tells the new one: peers keep the
// name and the work. It does so for addresses that the node found by itself and no box translates.
func (n *Node) watchAddress(ctx context.Context) error {
	if !isOwn(n.advertised.Addr()) {
		return nil
	}
	last := n.advertised
	for pause(ctx, addressEvery); ctx.Err() == nil; pause(ctx, addressEvery) {
		if isOwn(n.advertised.Addr()) {
			last = n.advertised
			continue
		}
		now, err := n.advertise()
		if err != nil || !isOwn(now.Addr()) || now.Addr().IsLoopback() {
			continue // it has none for the moment
		}
		if now != last { // one that stays is not there for a moment only
			last = now
			continue
		}
		n.log.Warn("this machine has another address, which a new process tells the peers", "from", n.advertised.String(), "to", now.String())
		if err := n.Upgrade(ctx, ""); err != nil {
			n.log.Error("peers do not hear of the new address: restart the node", "err", err)
		}
		pause(ctx, addressAgain)
	}
	return nil
}
