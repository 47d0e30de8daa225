//go:build linux

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

const (
	deploys   = 60
	lookEvery = 5 * time.Millisecond // how often a node is asked what it sees
)

// converge measures from a deploy's acknowledgement until every node shows the new revision.
func converge(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, six...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	f, err := b.function("converge", wasmtest.Answer("hi"), "", nil)
	if err != nil {
		return err
	}
	var all []time.Duration
	for i := range deploys {
		f.Manifest.Env = map[string]string{"N": fmt.Sprint(i)}
		via := c.Members()[i%len(six)]
		p, err := c.Operator(ctx, via)
		if err != nil {
			return err
		}
		d, err := f.Deploy(ctx, p)
		if err != nil {
			return err
		}
		acked := time.Now()
		all = append(all, seen(ctx, c.Members(), f.Manifest.Name, d.Revision).Sub(acked))
	}
	figure("lab_converge_p50_ms", ms(quantile(all, 0.5)))
	figure("lab_converge_p99_ms", ms(quantile(all, 0.99)))
	return nil
}

// seen returns when the last node showed a revision live.
func seen(ctx context.Context, members []*cluster.Member, name string, rev perigee.RevisionID) time.Time {
	var wg sync.WaitGroup
	for _, m := range members {
		wg.Go(func() {
			for ctx.Err() == nil {
				s, _, err := m.Client.Function(ctx, name)
				if err == nil && s.Live.ID == rev {
					return
				}
				time.Sleep(lookEvery)
			}
		})
	}
	wg.Wait()
	return time.Now()
}

// heal measures from the end of a partition, with deploys on both sides, until all digests are equal; the
// figure is the worst of the three kinds.
func heal(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, six...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	all := c.Members()
	west := []*cluster.Member{all[0], all[1], all[5]}
	east := all[2:5]
	var worst time.Duration
	for _, kind := range []struct {
		name  string
		split func(a, b []*lab.Node)
	}{
		{"two_way", c.Lab.Partition},
		{"one_way", c.Lab.Cut},
		{"flapping", func(a, b []*lab.Node) { c.Lab.Flap(a, b, 3*time.Second) }},
	} {
		kind.split(machines(west), machines(east))
		until := time.Now().Add(b.heal)
		deployed := 0
		for i := 0; time.Now().Before(until); i++ {
			for side, members := range [][]*cluster.Member{west, east} {
				via := members[i%len(members)]
				if err := b.deployOn(ctx, c, via, fmt.Sprintf("side%d", side), i); err != nil {
					note("heal: %s: deploy through %s: %v", kind.name, via.ID, err)
					continue
				}
				deployed++
			}
			time.Sleep(2 * time.Second)
		}
		c.Lab.Heal()
		began := time.Now()
		if err := cluster.Agree(ctx, time.Minute, all...); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		took := time.Since(began)
		note("heal: %s: equal %v after it, %d deploys during it", kind.name, took.Round(time.Millisecond), deployed)
		figure("lab_heal_"+kind.name+"_ms", ms(took))
		worst = max(worst, took)
		if err := cluster.Settle(ctx, time.Minute, all...); err != nil {
			return err
		}
		note("heal: %s: all see each other %v after it", kind.name, time.Since(began).Round(time.Millisecond))
	}
	figure("lab_heal_ms", ms(worst))
	return nil
}

func (b *bench) deployOn(ctx context.Context, c *cluster.Cluster, via *cluster.Member, name string, i int) error {
	f, err := b.function(name, wasmtest.Answer(fmt.Sprintf("%s %d", via.ID, i)), "", nil)
	if err != nil {
		return err
	}
	p, err := c.Operator(ctx, via)
	if err != nil {
		return err
	}
	_, err = f.Deploy(ctx, p)
	return err
}

func machines(members []*cluster.Member) (all []*lab.Node) {
	for _, m := range members {
		all = append(all, m.Node)
	}
	return all
}
