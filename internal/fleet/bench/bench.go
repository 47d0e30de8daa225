// Bench measures a whole cluster in one process and prints "name value" lines; docs/bench.md says
// what each means. It needs bin/perigee for the admission child and a Go toolchain for the example.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
)

const (
	trials   = 5   // deploys and joins
	requests = 300 // of each kind of request
)

func main() {
	hop := flag.Bool("hop", false, "measure only what a hop adds")
	flag.Parse()
	if err := run(context.Background(), *hop); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, hop bool) error {
	admit, err := filepath.Abs("bin/perigee")
	if err != nil {
		return err
	}
	archive, m, err := hello(ctx)
	if err != nil {
		return err
	}
	m.Placement.Pin = []string{"fra", "wdc"} // demand would make a holder of the node that must hop
	tmp, err := os.MkdirTemp("", "perigee-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))

	// No distances: what the program itself costs.
	near, err := fleet.Start(ctx, fleet.Config{
		Dir: filepath.Join(tmp, "near"), Regions: []perigee.Region{"fra", "wdc", "syd"}, Admit: []string{admit, "admit"}, Near: true, Plain: true, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer near.Close()
	if err := deploys(ctx, near, m, archive); err != nil {
		return err
	}
	if err := hopVsLocal(ctx, near, m); err != nil || hop {
		return err
	}
	if err := local(ctx, near, m); err != nil {
		return err
	}
	return joins(ctx, near)
}

// hopVsLocal measures what a hop adds: requests in turns to a node that holds the function and to one that
// does not, over connections that stay.
func hopVsLocal(ctx context.Context, f *fleet.Fleet, m *perigee.Manifest) error {
	s, _, err := f.Operator().Function(ctx, m.Name)
	if err != nil {
		return err
	}
	var holder, other *fleet.Member
	for _, member := range f.Members() {
		if slices.Contains(s.Plan.Holders, member.ID()) {
			holder = member
		} else {
			other = member
		}
	}
	if holder == nil || other == nil {
		return fmt.Errorf("holders of %s are %v: there must be one, and a node that is none", m.Name, s.Plan.Holders)
	}
	const warmUp, turns = 500, 4000
	clients := []*http.Client{f.Client(holder), f.Client(other)}
	var took [2][]time.Duration
	for i := range warmUp + turns {
		for n, client := range clients {
			d, err := get(ctx, client, s.URLs[0])
			if err != nil {
				return err
			}
			if i >= warmUp {
				took[n] = append(took[n], d)
			}
		}
	}
	for _, client := range clients {
		client.CloseIdleConnections()
	}
	local, hop := median(took[0]), median(took[1])
	fmt.Printf("# p50 on the spot %v, with a hop %v\nhop_vs_local_us %.0f\n", local, hop, float64(hop-local)/float64(time.Microsecond))
	return nil
}

// hello builds and packs examples/hello.
func hello(ctx context.Context) (*bundle.Archive, *perigee.Manifest, error) {
	const dir = "examples/hello"
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		return nil, nil, err
	}
	c := exec.CommandContext(ctx, "sh", "-c", m.Build)
	c.Dir, c.Stdout, c.Stderr = dir, os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return nil, nil, err
	}
	archive, err := bundle.Pack(dir, m)
	return archive, m, err
}

// deploys measures from the start of a deploy until every planned holder is warm: first with an
// empty code cache, then with new revisions of the same module.
func deploys(ctx context.Context, f *fleet.Fleet, m *perigee.Manifest, archive *bundle.Archive) error {
	var warm, acked []time.Duration
	for i := range trials + 1 {
		m.Env = map[string]string{"GREETING": fmt.Sprintf("hello %d", i)}
		start := time.Now()
		d, err := deploy(ctx, f.Operator(), m, archive)
		if err != nil {
			return err
		}
		ack := time.Since(start)
		if err := waitWarm(ctx, f.Operator(), m.Name, d.Revision); err != nil {
			return err
		}
		if i == 0 {
			figure("deploy_first_to_warm_ms", time.Since(start))
			continue
		}
		acked, warm = append(acked, ack), append(warm, time.Since(start))
	}
	figure("deploy_again_acked_p50_ms", median(acked))
	figure("deploy_again_to_warm_p50_ms", median(warm))
	return f.Settle(ctx)
}

func deploy(ctx context.Context, p *node.Person, m *perigee.Manifest, archive *bundle.Archive) (node.Deployed, error) {
	body := archive.Open()
	defer body.Close()
	return p.Deploy(ctx, m, archive.Digest, perigee.Bytes(archive.Size), body, func(node.DeployEvent) {})
}

func waitWarm(ctx context.Context, p *node.Person, name string, rev perigee.RevisionID) error {
	for {
		s, _, err := p.Function(ctx, name)
		if err != nil {
			return err
		}
		if s.Live.ID == rev && s.Ready() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// local measures requests to a node that holds the function and to one that must hop.
func local(ctx context.Context, f *fleet.Fleet, m *perigee.Manifest) error {
	s, _, err := f.Operator().Function(ctx, m.Name)
	if err != nil {
		return err
	}
	for _, member := range f.Members() {
		holds := slices.Contains(s.Plan.Holders, member.ID())
		name := "request_hop"
		if holds {
			if name = "request_local"; member.ID() != s.Plan.Holders[0] {
				continue
			}
		}
		client := f.Client(member)
		first, err := get(ctx, client, s.URLs[0])
		if err != nil {
			return err
		}
		figure(name+"_first_ms", first)
		var all []time.Duration
		for range requests {
			d, err := get(ctx, client, s.URLs[0])
			if err != nil {
				return err
			}
			all = append(all, d)
		}
		figure(name+"_p50_ms", median(all))
		figure(name+"_p99_ms", quantile(all, 0.99))
		client.CloseIdleConnections()
	}
	return nil
}

func get(ctx context.Context, client *http.Client, url string) (time.Duration, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, b)
	}
	return time.Since(start), err
}

// joins measures from a token to a node that is ready.
func joins(ctx context.Context, f *fleet.Fleet) error {
	var all []time.Duration
	for range trials {
		start := time.Now()
		if _, err := f.Join(ctx, "fra"); err != nil {
			return err
		}
		if err := f.Settle(ctx); err != nil {
			return err
		}
		all = append(all, time.Since(start))
	}
	figure("join_p50_ms", median(all))
	return nil
}

func figure(name string, d time.Duration) {
	fmt.Printf("%s %.3f\n", name, float64(d)/float64(time.Millisecond))
}

func median(all []time.Duration) time.Duration { return quantile(all, 0.5) }

func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
