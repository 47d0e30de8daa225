//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// A function waits for something outside, and each node runs a few of its requests at once: capacity is made
// of places, not of processors, which all nodes here share. Five times the load is more than two holders have.
const (
	elasticTime   = 100 * time.Millisecond // of a request
	elasticPlaces = 8                      // requests at once on a node, so 80 a second

	calmRate  = 40 // requests a second
	surgeRate = 5 * calmRate
	calmTime  = 40 * time.Second
	surgeTime = 30 * time.Second

	slot   = 500 * time.Millisecond // of which the p99 counts
	stable = 5 * time.Second        // it must stay within the limit
)

// scaleout has five times as many requests come to one region from one moment on, and measures from then until
// the p99 is within twice what it was, and stays so for five seconds. A request that fails counts as one that is never answered.
func scaleout(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, "fra", "fra", "fra", "fra", "wdc", "syd")
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	if err := b.deployWarm(ctx, c, "elastic", wasmtest.Waiting(elasticTime, "done").Bytes(), fmt.Sprintf("[limits]\nconcurrency = %d", elasticPlaces)); err != nil {
		return err
	}
	callers := slices.DeleteFunc(c.Members(), func(m *cluster.Member) bool { return m.Region != "fra" })

	began := time.Now()
	surge := began.Add(calmTime)
	watching, enough := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { follow(watching, callers[0], "elastic", surge) })
	calm := load(ctx, "elastic", callers, calmRate, calmTime)
	surged := load(ctx, "elastic", callers, surgeRate, surgeTime)
	enough()
	watch.Wait()

	steady := slices.DeleteFunc(calm, func(r response) bool { return r.began.Before(surge.Add(-10 * time.Second)) })
	before := quantile(durations(steady), 0.99)
	failed := slices.DeleteFunc(slices.Clone(surged), func(r response) bool { return r.err == nil })
	for _, r := range failed[:min(len(failed), 3)] {
		note("scaleout: a request that began after %v failed after %v: %v", r.began.Sub(surge).Round(time.Millisecond), r.took.Round(time.Millisecond), r.err)
	}
	note("scaleout: p50 %v and p99 %v before, p99 %v in the last 10 s", quantile(durations(steady), 0.5).Round(time.Millisecond), before.Round(time.Millisecond),
		quantile(durations(slices.DeleteFunc(slices.Clone(surged), func(r response) bool { return r.began.Before(surge.Add(surgeTime - 10*time.Second)) })), 0.99).Round(time.Millisecond))
	figure("scaleout_s", backAfter(surged, surge, 2*before).Seconds())
	count("scaleout_failed", len(failed), len(surged))
	return ctx.Err()
}

// durations returns how long each took: those that failed, for ever.
func durations(all []response) []time.Duration {
	took := make([]time.Duration, len(all))
	for i, r := range all {
		if took[i] = r.took; r.err != nil {
			took[i] = time.Hour
		}
	}
	return took
}

// backAfter returns when, after a moment, the p99 of each slot is within a limit again and stays so for a while.
// If it never does, that is the end of the last slot.
func backAfter(all []response, since time.Time, limit time.Duration) time.Duration {
	slots := make([][]response, 0, surgeTime/slot)
	for _, r := range all {
		i := int(r.began.Sub(since) / slot)
		for len(slots) <= i {
			slots = append(slots, nil)
		}
		slots[i] = append(slots[i], r)
	}
	good := 0
	for i, in := range slots {
		if good++; len(in) > 0 && quantile(durations(in), 0.99) > limit {
			good = 0
		}
		if good == int(stable/slot) {
			return time.Duration(i+1-good) * slot
		}
	}
	return time.Duration(len(slots)) * slot
}

// follow notes what a node sees of a function's holders whenever that changes.
func follow(ctx context.Context, m *cluster.Member, name string, zero time.Time) {
	before := ""
	for ctx.Err() == nil {
		s, _, err := m.Client.Function(ctx, name)
		if err == nil {
			var warm, planned []string
			for _, h := range s.Holders {
				if h.Warmth == perigee.Warm {
					warm = append(warm, string(h.Node))
				}
			}
			for _, id := range s.Plan.Holders {
				planned = append(planned, string(id))
			}
			slices.Sort(warm)
			slices.Sort(planned)
			if now := fmt.Sprintf("planned %s, warm %s", strings.Join(planned, " "), strings.Join(warm, " ")); now != before {
				note("scaleout: %+.1f s: %s; %+v", time.Since(zero).Seconds(), now, s.Calls)
				before = now
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}
