package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// This file is the holder's side of a deploy.

// eligible verifies a revision that another node brings and requires that this one may hold it,
// and has room for it.
func (d *deployer) eligible(ctx context.Context, revision, pointer []byte) (*perigee.Function, error) {
	fn, err := d.candidate(ctx, revision, pointer)
	if err != nil {
		return nil, err
	}
	self := d.rep.self()
	if rule, ok := placement.Allowed(fn.Policy(), self, d.gossip.View().Desired.Regions); !ok {
		return nil, fmt.Errorf("%s in %s may not hold %s: %s", self.ID, self.Region, fn.Name, rule)
	}
	if p := d.gossip.View().Observed.Nodes[self.ID]; p != nil && !p.Routable() {
		return nil, fmt.Errorf("%s is stopping", self.ID)
	}
	if err := d.rep.room(fn.Live); err != nil {
		return nil, err
	}
	return fn, nil
}

// take stores, admits and loads a bundle that arrives, unless it is here already. The revision is
// expected from then on, so that a second holder can fetch it before the records are written.
//
// One that is live already moves here. It is not loaded before its new rules are recorded: until then
// nobody hands its secrets to a node that the old ones exclude.
func (d *deployer) take(ctx context.Context, fn *perigee.Function, archive io.Reader) error {
	return d.arrive(fn, func() error {
		if !d.store.Has(fn.Live.Bundle) {
			size := int64(fn.Live.Size)
			if err := d.store.Put(ctx, fn.Live.Bundle, size, io.LimitReader(archive, size)); err != nil {
				return fmt.Errorf("on %s: %w", d.self, stalled(err))
			}
		}
		to := perigee.Warm
		if live := d.gossip.View().Desired.Functions[fn.Name]; live != nil && live.Live.ID == fn.Live.ID {
			to = perigee.Held
		}
		return d.rep.ensure(ctx, fn.Live, to, "")
	})
}

// copyFrom fetches and admits a revision that another node has. It is not loaded: first it must pass
// on that node.
func (d *deployer) copyFrom(ctx context.Context, fn *perigee.Function, from perigee.NodeID) error {
	return d.arrive(fn, func() error { return d.rep.ensure(ctx, fn.Live, perigee.Held, from) })
}

// arrive announces a revision while bring brings it, and afterwards until its records come.
func (d *deployer) arrive(fn *perigee.Function, bring func() error) error {
	defer d.rep.use(fn.Live.Bundle)()
	if err := d.rep.expect(fn); err != nil {
		return err
	}
	if err := bring(); err != nil {
		d.rep.abandon(fn.Live.ID)
		return err
	}
	return d.rep.expect(fn) // its time counts from here
}

// stalled says in plain words that a sender sent nothing for too long.
func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the sender stopped sending: %w", err)
	}
	return err
}
