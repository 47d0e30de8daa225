package node

import (
	"context"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/vfs"
)

const (
	scrubFirst = 10 * time.Minute // after a start
	scrubEvery = 24 * time.Hour
	scrubRate  = 8 << 20 // bytes of bundles a second

	// A disk with less room than this counts as full: deploys and records may be refused at any moment.
	diskFull = 64 * perigee.MiB
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

// diskTrouble says what an operator should know of the disk; "" = nothing.
func (n *Node) diskTrouble() string {
	free, err := vfs.OS{}.Free(string(n.cfg.Dir))
	switch {
	case err != nil:
		return err.Error()
	case perigee.Bytes(free) < diskFull:
		return "full: " + perigee.Bytes(free).String() + " free where data_dir is; the node goes on serving, and refuses what it can't write: make room"
	}
	return ""
}
