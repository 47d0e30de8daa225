//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

const (
	line   = 100_000_000 // bit/s of a node
	bundle = 10 << 20
)

// bundleRatio measures from a deploy's acknowledgement until a bundle of 10 MiB is on disk and verified in
// five other regions, as the nodes' logs say, over the time that a transfer to the farthest takes at best: one
// way and the bytes. The second figure goes on until it is admitted and warm everywhere.
func bundleRatio(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, six...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	all := c.Members()
	var far time.Duration
	for _, m := range all {
		m.SetBandwidth(line)
		far = max(far, c.Lab.RTT(all[0].Node, m.Node)/2)
	}
	best := far + time.Duration(float64(bundle*8)/line*float64(time.Second))
	var fetched, warm []time.Duration
	for i := range 3 {
		blob := make([]byte, bundle)
		if _, err := rand.Read(blob); err != nil {
			return err
		}
		manifest := "files = \"public/\"\n[placement.warm]\n"
		for _, r := range six {
			manifest += fmt.Sprintf("%s = 1\n", r)
		}
		f, err := b.function(fmt.Sprintf("big%d", i), wasmtest.Answer("hi"), manifest, map[string][]byte{"blob": blob})
		if err != nil {
			return err
		}
		p, err := c.Operator(ctx, all[0])
		if err != nil {
			return err
		}
		began := time.Now()
		d, err := f.Deploy(ctx, p)
		if err != nil {
			return err
		}
		acked := time.Now()
		if err := warmEverywhere(ctx, f.Manifest.Name, d.Revision, all); err != nil {
			return err
		}
		warm = append(warm, time.Since(acked))
		last, err := lastFetched(all[1:], f.Manifest.Name)
		if err != nil {
			return err
		}
		fetched = append(fetched, last.Sub(acked))
		note("bundle: acknowledged after %v, then everywhere after %v, and warm after %v; best would be %v", acked.Sub(began).Round(time.Millisecond), fetched[i].Round(time.Millisecond), warm[i].Round(time.Millisecond), best.Round(time.Millisecond))
	}
	figure("lab_bundle_ratio", float64(quantile(fetched, 0.5))/float64(best))
	figure("lab_bundle_warm_ratio", float64(quantile(warm, 0.5))/float64(best))
	return nil
}

// lastFetched returns when the last of some nodes had all of a function's bundle verified and on disk.
func lastFetched(nodes []*cluster.Member, function string) (last time.Time, err error) {
	for _, m := range nodes {
		log, err := os.ReadFile(m.LogPath())
		if err != nil {
			return last, err
		}
		line := regexp.MustCompile(`time=(\S+) .*msg="bundle fetched" .*function=` + function + ` `).FindSubmatch(log)
		if line == nil {
			return last, fmt.Errorf("the log of %s does not say that it fetched the bundle of %s", m.ID, function)
		}
		at, err := time.Parse(time.RFC3339Nano, string(line[1]))
		if err != nil {
			return last, err
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}

// warmEverywhere waits until each node has a revision warm, as it says itself.
func warmEverywhere(ctx context.Context, name string, rev perigee.RevisionID, all []*cluster.Member) error {
	return cluster.Until(ctx, 2*time.Minute, "the bundle is everywhere", func() error {
		for _, m := range all {
			s, _, err := m.Client.Function(ctx, name)
			if err != nil {
				return err
			}
			has := false
			for _, h := range s.Holders {
				has = has || h.Node == m.ID && h.Warmth == perigee.Warm
			}
			if !has {
				return fmt.Errorf("%s has %v", m.ID, s.Holders)
			}
		}
		return nil
	})
}
