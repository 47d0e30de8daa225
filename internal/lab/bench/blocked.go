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
	blockedRTT  = 40 * time.Millisecond
	blockedLoss = 0.01
	blockedRate = 100 // requests a second to each
	blockedSpan = 15 * time.Second
)

// blocked measures requests to two equally far nodes at once, one of which UDP does not reach: first on a good line,
// then on one that loses a packet in a hundred.
func blocked(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{Seed: 1}, "fra", "wdc")
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	if _, err := c.Join(ctx, "mad-1", "mad", lab.NodeConfig{NoUDP: true}); err != nil {
		return err
	}
	all := c.Members()
	if err := cluster.Settle(ctx, time.Minute, all...); err != nil {
		return err
	}
	ways := map[string]*cluster.Member{"udp": all[1], "tcp": all[2]}
	for way, m := range ways {
		if err := b.deployWarm(ctx, c, way, wasmtest.Answer(way), fmt.Sprintf("placement.pin = [%q]", m.Region)); err != nil {
			return err
		}
	}
	for _, loss := range []float64{0, blockedLoss} {
		for _, m := range ways {
			c.Lab.Link(all[0].Node, m.Node, lab.LinkConfig{RTT: blockedRTT, Loss: loss})
		}
		took := map[string][]time.Duration{}
		var mu sync.Mutex // guards took and failed
		var failed error
		var both sync.WaitGroup
		for way := range ways {
			both.Go(func() {
				for i, r := range load(ctx, way, all[:1], blockedRate, blockedSpan) {
					mu.Lock()
					if r.err != nil {
						failed = fmt.Errorf("over %s: %w", way, r.err)
					} else if i >= blockedRate { // connections are there
						took[way] = append(took[way], r.took)
					}
					mu.Unlock()
				}
			})
		}
		both.Wait()
		if failed != nil {
			return failed
		}
		if err := overTCP(ctx, all[0], all[2].ID); err != nil {
			return err
		}
		line := "good"
		if loss > 0 {
			line = "lossy"
		}
		for _, way := range []string{"udp", "tcp"} {
			figure(fmt.Sprintf("lab_%s_%s_p50_ms", line, way), ms(quantile(took[way], 0.5)))
			figure(fmt.Sprintf("lab_%s_%s_p99_ms", line, way), ms(quantile(took[way], 0.99)))
		}
	}
	return ctx.Err()
}

// overTCP makes sure that what was measured is what it is called.
func overTCP(ctx context.Context, from *cluster.Member, to perigee.NodeID) error {
	nodes, err := from.Client.Nodes(ctx)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.ID == to && n.Over != "tcp" {
			return fmt.Errorf("%s was reached over %q", to, n.Over)
		}
	}
	return nil
}
