package node

import (
	"context"
	"time"
)

const (
	scrubFirst = 10 * time.Minute // after a start
	scrubEvery = 24 * time.Hour
	scrubRate  = 8 << 20 // bytes of bundles a second
)

// scrubLoop reads now and then what rests on the disk. State that rotted is written anew from memory; a
// bundle that rotted is out of the store, and the replicator fetches it from a peer in its next round.
func (n *Node) scrubLoop(ctx context.Context) error {
	for wait := scrubFirst; ; wait = scrubEvery {
		pause(ctx, wait)
		if ctx.Err() != nil {
			return nil
		}
		n.scrub(ctx)
	}
}

func (n *Node) scrub(ctx context.Context) {
	began := time.Now()
	damaged, err := n.gossip.Scrub()
	if err != nil {
		n.log.Warn("state not scrubbed", "err", err)
	}
	if damaged {
		n.rotten.Add(1)
		n.log.Warn("state had rotted on the disk, and was written anew")
	}
	rotten, err := n.rep.store.Scrub(ctx, scrubRate)
	if err != nil && ctx.Err() == nil {
		n.log.Warn("bundles not scrubbed", "err", err)
	}
	for _, d := range rotten {
		n.rotten.Add(1)
		n.log.Warn("bundle had rotted on the disk, and is fetched again where it is needed", "digest", d)
	}
	n.log.Info("disk scrubbed", "rotten", len(rotten), "dur", time.Since(began))
}
