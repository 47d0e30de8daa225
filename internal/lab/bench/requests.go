//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// rtt measures requests to a warm function in another region, over the distance to it: the worst of the pairs.
func rtt(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, six...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	all := c.Members()
	holder := all[0]
	if err := b.deployWarm(ctx, c, "near", wasmtest.Answer("near"), fmt.Sprintf("placement.pin = [%q]", holder.Region)); err != nil {
		return err
	}
	var worst time.Duration
	for _, from := range all[1:] {
		client := from.Gateway()
		var took []time.Duration
		for i := range 60 {
			r := get(ctx, client, "near")
			if r.err != nil {
				return r.err
			}
			if i >= 10 { // connections are there
				took = append(took, r.took)
			}
		}
		client.CloseIdleConnections()
		over := quantile(took, 0.5) - c.Lab.RTT(from.Node, holder.Node)
		note("rtt: %s to %s: %v over the round trip", from.Region, holder.Region, over.Round(10*time.Microsecond))
		worst = max(worst, over)
	}
	figure("lab_p50_over_rtt_ms", ms(worst))
	return nil
}

func (b *bench) deployWarm(ctx context.Context, c *cluster.Cluster, name string, wasm []byte, manifest string) error {
	f, err := b.function(name, wasm, manifest, nil)
	if err != nil {
		return err
	}
	p, err := c.Operator(ctx, c.Members()[0])
	if err != nil {
		return err
	}
	d, err := f.Deploy(ctx, p)
	if err != nil {
		return err
	}
	return cluster.Warm(ctx, time.Minute, name, d.Revision, c.Members()...)
}

// response is how a request went, and when it began.
type response struct {
	began   time.Time
	took    time.Duration
	receipt string
	err     error
}

// over reports whether the request had ended at a moment.
func (r response) over(at time.Time) bool { return !r.began.Add(r.took).After(at) }

func get(ctx context.Context, client *http.Client, name string) (r response) {
	r.began = time.Now()
	defer func() { r.took = time.Since(r.began) }()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+".lab/", nil)
	if err != nil {
		r.err = err
		return r
	}
	resp, err := client.Do(req)
	if err != nil {
		r.err = err
		return r
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	r.receipt = resp.Header.Get("Perigee-Receipt")
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	r.err = err
	return r
}

// load sends requests at a steady rate through some nodes in turn, and returns when all have ended.
func load(ctx context.Context, name string, through []*cluster.Member, rate int, span time.Duration) []response {
	var clients []*http.Client
	for _, m := range through {
		client := m.Gateway()
		client.Transport.(*http.Transport).MaxIdleConnsPerHost = 200
		client.Timeout = 10 * time.Second
		defer client.CloseIdleConnections()
		clients = append(clients, client)
	}
	responses := make([]response, int(span.Seconds()*float64(rate)))
	var wg sync.WaitGroup
	began := time.Now()
	for i := range responses {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		wg.Go(func() { responses[i] = get(ctx, clients[i%len(clients)], name) })
	}
	wg.Wait()
	return responses
}

const (
	killRate   = 500 // requests a second
	killBefore = 10 * time.Second
	killAfter  = 15 * time.Second
	killSteady = 5 * time.Second // before it: connections are there
)

// kill sends 500 requests a second through five nodes while a holder, the sixth, is killed, and counts those
// that failed and the time until the slowest percent of a quarter second is as fast again as it was.
func kill(ctx context.Context, b *bench) error {
	c, err := b.start(ctx, lab.Config{}, six...)
	if err != nil {
		return err
	}
	defer c.Lab.Close()
	all := c.Members()
	victim := all[1]
	if err := b.deployWarm(ctx, c, "steady", wasmtest.Answer("steady"), fmt.Sprintf("[placement]\npin = [%q, %q]\nwarm = { %s = 1, %s = 1 }", victim.Region, all[5].Region, victim.Region, all[5].Region)); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(all), func(m *cluster.Member) bool { return m == victim })
	var killed time.Time
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		time.Sleep(killBefore)
		killed = time.Now()
		victim.Kill()
	}()
	responses := load(ctx, "steady", others, killRate, killBefore+killAfter)
	<-dead
	total := len(responses)
	failed, onVictim := 0, 0
	for _, r := range responses { // the first failures are told
		if r.err != nil {
			if failed++; failed > 5 {
				continue
			}
			note("kill: a request that began %v after the kill failed after %v: %v", r.began.Sub(killed).Round(time.Millisecond), r.took.Round(time.Millisecond), r.err)
		}
		if strings.Contains(r.receipt, "region="+string(victim.Region)) {
			onVictim++
		}
	}
	note("kill: %d of %d requests were answered by %s before", onVictim, total, victim.ID)
	for i, m := range others {
		var before, after []time.Duration
		for j := i; j < total; j += len(others) {
			if r := responses[j]; r.over(killed) {
				before = append(before, r.took)
			} else {
				after = append(after, r.took)
			}
		}
		note("kill: through %s: %v and %v from the holders: before p50 %v p99 %v, after p50 %v p99 %v", m.ID, c.Lab.RTT(m.Node, victim.Node), c.Lab.RTT(m.Node, all[5].Node), quantile(before, 0.5).Round(time.Millisecond), quantile(before, 0.99).Round(time.Millisecond),
			quantile(after, 0.5).Round(time.Millisecond), quantile(after, 0.99).Round(time.Millisecond))
	}
	count("lab_kill_failed", failed, total)
	figure("lab_kill_p99_back_ms", ms(back(responses, killed)))
	return ctx.Err()
}

// back returns how long after the kill requests began that took longer than before: the end of the last quarter
// second whose p99 is above twice the p99 of those that were over before the kill. Requests that were under way
// then count for the first quarter.
func back(responses []response, killed time.Time) time.Duration {
	const slot = 250 * time.Millisecond
	var before []time.Duration
	after := map[int][]time.Duration{}
	for _, r := range responses {
		switch since := max(0, r.began.Sub(killed)); {
		case r.began.Before(killed.Add(-killSteady)): // warming up
		case r.over(killed):
			before = append(before, r.took)
		default:
			after[int(since/slot)] = append(after[int(since/slot)], r.took)
		}
	}
	limit := 2 * quantile(before, 0.99)
	last := time.Duration(0)
	for i, took := range after {
		if p99 := quantile(took, 0.99); p99 > limit {
			last = max(last, time.Duration(i+1)*slot)
		}
	}
	note("kill: p99 before %v, worst after %v", quantile(before, 0.99).Round(time.Millisecond), worstOf(responses, killed).Round(time.Millisecond))
	return last
}

func worstOf(responses []response, after time.Time) (worst time.Duration) {
	for _, r := range responses {
		if !r.over(after) {
			worst = max(worst, r.took)
		}
	}
	return worst
}
