//go:build linux

// Bench measures clusters of the real program in the lab and prints "name value" lines; docs/bench.md says
// what each means. It needs bin/perigee and the rights that package lab names; -only chooses rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
)

// rows are the groups of figures, in the order in which they are measured.
var rows = []struct {
	name string
	run  func(ctx context.Context, b *bench) error
}{
	{"converge", converge},
	{"heal", heal},
	{"bundle", bundleRatio},
	{"join", join},
	{"hundred", hundred},
	{"detect", detect},
	{"rtt", rtt},
	{"kill", kill},
	{"scaleout", scaleout},
	{"blocked", blocked},
}

// bench is what all rows use.
type bench struct {
	binary, dir string
	heal        time.Duration // a partition lasts
}

// regions of the six nodes.
var six = []perigee.Region{"fra", "wdc", "syd", "tok", "sao", "mad"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	only := flag.String("only", strings.Join(names, ","), "`rows` to measure")
	binary := flag.String("binary", "bin/perigee", "the `program`")
	split := flag.Duration("partition", time.Minute, "how long partitions last")
	flag.Parse()
	if err := lab.Supported(); err != nil {
		return err
	}
	b := &bench{binary: *binary, heal: *split}
	if b.dir, err = os.MkdirTemp("", "perigee-lab-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	asked := strings.Split(*only, ",")
	for _, name := range asked {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only: there is no row %q: choose of %s", name, strings.Join(names, ", "))
		}
	}
	var failed error
	for _, r := range rows {
		if slices.Contains(asked, r.name) {
			if err := r.run(ctx, b); err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %w", r.name, err))
			}
		}
	}
	return failed
}

// start makes a lab with a cluster of nodes in regions, which agree.
func (b *bench) start(ctx context.Context, cfg lab.Config, regions ...perigee.Region) (*cluster.Cluster, error) {
	cfg.Binary = b.binary
	l, err := lab.New(cfg)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Found(ctx, l, name(0, regions), regions[0])
	for i := 1; err == nil && i < len(regions); i++ {
		_, err = c.Join(ctx, name(i, regions), regions[i], lab.NodeConfig{})
	}
	if err == nil {
		err = cluster.Settle(ctx, time.Minute, c.Members()...)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return c, nil
}

// name numbers the nodes of each region.
func name(i int, regions []perigee.Region) perigee.NodeID {
	n := 0
	for _, r := range regions[:i+1] {
		if r == regions[i] {
			n++
		}
	}
	return perigee.NodeID(fmt.Sprintf("%s-%d", regions[i], n))
}

// function packs a function.
func (b *bench) function(name string, wasm []byte, manifest string, files map[string][]byte) (*cluster.Function, error) {
	return cluster.NewFunction(filepath.Join(b.dir, name), name, wasm, manifest, files)
}

func figure(name string, value float64) { fmt.Printf("%s %.3f\n", name, value) }

func count(name string, n, trials int) { fmt.Printf("%s %d\n%s_trials %d\n", name, n, name, trials) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// note says on standard error what is under way, and details that are no figures.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// quantile is the smallest value that at least this share of the values does not exceed.
func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}
