package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// tour shows placement at work on a running fleet and checks that each row is as promised: without
// rules the nearest holder answers, pinned only the pinned region does, and when that is gone the
// refusal names the rule.
func tour(ctx context.Context, f *fleet.Fleet, dir string, stdout, stderr io.Writer) error {
	m, archive, err := prepare(ctx, dir, stderr)
	if err != nil {
		return err
	}
	t := &guide{f: f, fn: m.Name, out: stdout, clients: map[perigee.NodeID]*http.Client{}}
	defer t.close()
	show := newProgress(stderr)
	m.Placement = perigee.Policy{}
	if err := t.deploy(ctx, m, archive, show); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%s without placement rules: two holders, each request goes to the nearest\n\n", m.Name)
	t.table(ctx, "")

	pinned := f.Members()[0]
	m.Placement.Pin = []string{string(pinned.Region())}
	if err := t.deploy(ctx, m, archive, show); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n%s with placement.pin = [%q]: runs only there, whoever asks\n\n", m.Name, pinned.Region())
	t.table(ctx, pinned.Region())

	fmt.Fprintf(stdout, "\n%s (%s) is stopped\n\n", pinned.ID(), pinned.Region())
	if err := pinned.Stop(); err != nil {
		return err
	}
	t.refusal(ctx, f.Members()[len(f.Members())-1], pinned.Region())

	fmt.Fprintf(stdout, "\n%s is started again\n\n", pinned.ID())
	if err := f.Restart(ctx, pinned); err != nil {
		return err
	}
	if err := f.Settle(ctx); err != nil {
		return err
	}
	t.back(ctx, f.Members()[len(f.Members())-1], pinned.Region())
	if len(t.broken) > 0 {
		return fmt.Errorf("not as promised:\n  %s", strings.Join(t.broken, "\n  "))
	}
	return nil
}

// guide runs the tour's requests.
type guide struct {
	f       *fleet.Fleet
	fn      string
	out     io.Writer
	clients map[perigee.NodeID]*http.Client // one in each region, with connections that stay open
	broken  []string                        // promises that were not kept
}

func (t *guide) close() {
	for _, c := range t.clients {
		c.CloseIdleConnections()
	}
}

// answer is the outcome of one request.
type answer struct {
	status  int
	body    string
	receipt edgeproxy.Receipt
	took    time.Duration
}

func (t *guide) deploy(ctx context.Context, m *perigee.Manifest, archive *bundle.Archive, show *progress) error {
	if _, s, err := deployAndWait(ctx, t.f.Operator(), node.DeployOptions{Rollout: placement.RolloutAll}, m, archive, deployWait{limit: time.Minute}, show); err != nil {
		return err
	} else if !s.Ready() {
		return fmt.Errorf("%s is not warm on its holders after a minute: %s", m.Name, warmth(s))
	}
	// The other gateways hear of it a moment later.
	return t.f.Settle(ctx)
}

// table invokes the function over HTTPS from each region and prints a row for each. want is the
// only region it may run in; "" means the nearest holder.
func (t *guide) table(ctx context.Context, want perigee.Region) {
	out := newTable("ENTRY", "RAN ON", "START", "TIME", "WHY")
	for _, m := range t.f.Members() {
		promise := want
		if promise == "" {
			promise = t.nearest(m)
		}
		t.get(ctx, m) // opens connections and makes certificates
		a, err := t.best(ctx, m, 5)
		if err != nil {
			t.miss("from %s: %v", m.Region(), err)
			out.row(string(m.Region()), "-", "-", "-", err.Error())
			continue
		}
		if a.status != http.StatusOK || a.receipt.Region != promise {
			t.miss("from %s: want 200 from %s, got %d from %s", m.Region(), promise, a.status, a.receipt.Region)
		}
		out.row(string(m.Region()), string(a.receipt.Node), a.receipt.Start, millis(a.took), a.receipt.Reason)
	}
	if err := out.write(t.out); err != nil {
		t.miss("print: %v", err)
	}
}

// nearest is the region of the warm holder with the shortest distance to m's gateway.
func (t *guide) nearest(m *fleet.Member) perigee.Region {
	v := m.View()
	var best perigee.Region
	shortest := time.Hour
	for _, p := range v.Observed.Nodes {
		if p.Revisions[v.Desired.Functions[t.fn].Live.ID] != perigee.Warm {
			continue
		}
		if d := t.f.Distance(m.Region(), p.Region); d < shortest {
			best, shortest = p.Region, d
		}
	}
	return best
}

func (t *guide) refusal(ctx context.Context, from *fleet.Member, pinned perigee.Region) {
	rule := fmt.Sprintf("pin = [%q]", pinned)
	a, err := t.get(ctx, from)
	switch {
	case err != nil:
		t.miss("from %s: %v", from.Region(), err)
		return
	case a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, rule):
		t.miss("from %s: want 503 that names %s, got %d: %s", from.Region(), rule, a.status, a.body)
	}
	status := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	text := strings.TrimSpace(strings.TrimPrefix(a.body, status))
	fmt.Fprintf(t.out, "from %s: %s\n  %s\n", from.Region(), status, strings.ReplaceAll(text, "\n", "\n  "))
}

// back waits until the function answers again.
func (t *guide) back(ctx context.Context, from *fleet.Member, pinned perigee.Region) {
	for deadline := time.Now().Add(30 * time.Second); ; {
		a, err := t.get(ctx, from)
		if err == nil && a.status == http.StatusOK && a.receipt.Region == pinned {
			fmt.Fprintf(t.out, "from %s: %d, ran on %s\n", from.Region(), a.status, a.receipt.Node)
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			t.miss("from %s: %s does not answer again: %v", from.Region(), pinned, errors.Join(err, ctx.Err()))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// best is the quickest of n requests: what the distance costs, without the noise of the machine.
func (t *guide) best(ctx context.Context, m *fleet.Member, n int) (best answer, err error) {
	for i := range n {
		a, err := t.get(ctx, m)
		if err != nil {
			return a, err
		}
		if i == 0 || a.took < best.took {
			best = a
		}
	}
	return best, nil
}

func (t *guide) get(ctx context.Context, m *fleet.Member) (a answer, err error) {
	fn := m.View().Desired.Functions[t.fn]
	if fn == nil {
		return a, fmt.Errorf("function %s is not known on %s", t.fn, m.ID())
	}
	route := fn.Routes(m.View().Desired.Domain)[0]
	client := t.clients[m.ID()]
	if client == nil {
		client = t.f.Client(m)
		t.clients[m.ID()] = client
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+route.Host+route.Path, nil)
	if err != nil {
		return a, err
	}
	start := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	a = answer{status: resp.StatusCode, body: string(b), took: time.Since(start)}
	a.receipt, err = edgeproxy.ParseReceipt(resp.Header.Get(edgeproxy.ReceiptHeader))
	return a, err
}

func (t *guide) miss(format string, args ...any) {
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}
