//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
)

// join measures from the start of `node run --join` until the node is ready, without distance.
func join(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, "fra", "fra")
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	var all []time.Duration
	for i := range 5 {
		token, err := c.Token(ctx, "fra")
		if err != nil {
			return err
		}
		began := time.Now()
		m, err := c.JoinBy(ctx, token, perigee.NodeID(fmt.Sprintf("fra-%d", i+3)), "fra", lab.NodeConfig{})
		if err != nil {
			return err
		}
		if err := ready(ctx, m); err != nil {
			return err
		}
		all = append(all, time.Since(began))
	}
	figure("join_ms", ms(quantile(all, 0.5)))
	return nil
}

func ready(ctx context.Context, m *cluster.Member) error {
	return cluster.Until(ctx, time.Minute, fmt.Sprintf("%s is ready", m.ID), func() error {
		s, err := m.Client.Status(ctx)
		if err == nil && !s.Ready {
			err = fmt.Errorf("it is not: %s", s.Why)
		}
		return err
	})
}

const (
	crowd  = 100
	atOnce = 12 // joins: all share this machine's processors with the seed, which gives each 5 s to answer
)

// hundred joins 99 nodes in ten regions through one seed, a dozen at a time, and waits until every view is full;
// then it looks at what idle nodes send and compute.
func hundred(ctx context.Context, b *bench) error {
	regions := []perigee.Region{"fra", "wdc", "syd", "tok", "sao", "mad", "lon", "osa", "tor", "dal"}
	c, err := b.start(ctx, lab.Config{Env: []string{"GOMAXPROCS=2"}}, regions[0])
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	tokens := make([]string, crowd)
	for i := 1; i < crowd; i++ {
		signer := "no" // auto looks at how many there are when the token is made, which is one
		if i < 3 {
			signer = "yes"
		}
		if tokens[i], err = c.Token(ctx, regions[i%len(regions)], "--signer", signer); err != nil {
			return err
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	failed := make(chan error, crowd)
	places := make(chan struct{}, atOnce)
	for i := 1; i < crowd; i++ {
		r := regions[i%len(regions)]
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			_, err := c.JoinBy(ctx, tokens[i], perigee.NodeID(fmt.Sprintf("%s-%d", r, i/len(regions)+2)), r, lab.NodeConfig{})
			failed <- err
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	note("hundred: all have joined after %v", time.Since(began).Round(time.Millisecond))
	if err := cluster.Until(ctx, 5*time.Minute, "every view is full", func() error {
		for _, m := range c.Members() {
			s, err := m.Client.Status(ctx)
			if err != nil {
				return err
			}
			if s.Alive != crowd {
				return fmt.Errorf("%s sees %d", m.ID, s.Alive)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	figure("join100_s", time.Since(began).Seconds())
	return idle(ctx, c)
}

const (
	calm = 60 * time.Second // after the joins
	look = 60 * time.Second
)

// idle measures traffic and processor time of all nodes but the first, and prints the middle one's.
func idle(ctx context.Context, c *cluster.Cluster) error {
	time.Sleep(calm)
	members := c.Members()[1:]
	bytes, cpu := make([]int64, len(members)), make([]time.Duration, len(members))
	began := time.Now()
	sample := func(sign int64) error {
		for i, m := range members {
			t := m.Traffic()
			bytes[i] += sign * (t.SentBytes + t.ReceivedBytes)
			used, err := processorTime(m.PID())
			if err != nil {
				return err
			}
			cpu[i] += time.Duration(sign) * used
		}
		return nil
	}
	if err := sample(-1); err != nil {
		return err
	}
	time.Sleep(look)
	if err := sample(1); err != nil {
		return err
	}
	span := time.Since(began)
	var rates []time.Duration
	for _, n := range bytes {
		rates = append(rates, time.Duration(n))
	}
	figure("idle_node_kbps", float64(quantile(rates, 0.5))*8/1000/span.Seconds())
	figure("idle_node_cpu_pct", 100*quantile(cpu, 0.5).Seconds()/span.Seconds())
	note("idle: the busiest: %.1f kbit/s, %.2f %% of a processor", float64(quantile(rates, 1))*8/1000/span.Seconds(), 100*quantile(cpu, 1).Seconds()/span.Seconds())
	return ctx.Err()
}

// processorTime returns what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is odd: %s", pid, b)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

const fifty = 50

// detect kills one of fifty nodes and measures until no view has it in service.
func detect(ctx context.Context, b *bench) error {
	regions := []perigee.Region{"fra", "wdc", "syd", "tok", "sao"}
	var all []perigee.Region
	for i := range fifty {
		all = append(all, regions[i%len(regions)])
	}
	c, err := b.start(ctx, lab.Config{Env: []string{"GOMAXPROCS=2"}}, all...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	members := c.Members()
	var took []time.Duration
	for _, victim := range []*cluster.Member{members[fifty-1], members[fifty-2], members[fifty-3]} {
		left := members[:len(members)-1]
		members = left
		victim.Kill()
		began := time.Now()
		if err := cluster.Until(ctx, time.Minute, fmt.Sprintf("%s is out of every view", victim.ID), func() error {
			for _, m := range left {
				s, err := m.Client.Status(ctx)
				if err != nil {
					return err
				}
				if s.Alive > len(left) {
					return fmt.Errorf("%s sees %d alive", m.ID, s.Alive)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		took = append(took, time.Since(began))
		note("detect: %s is out of every view after %v", victim.ID, time.Since(began).Round(time.Millisecond))
		if err := cluster.Settle(ctx, time.Minute, left...); err != nil {
			return err
		}
	}
	figure("detect_ms", ms(quantile(took, 1)))
	return nil
}
