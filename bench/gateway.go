package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
)

const (
	httpRounds  = 9
	httpSeconds = "2s"
)

// gateway prints how many requests a second a node answers with examples/hello over plain HTTP, of what a
// bare net/http server with a constant answer does. Both are processes of their own, asked in turns by wrk.
func gateway(ctx context.Context, out io.Writer) error {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return errors.New("http_vs_bare needs the load generator wrk (apt-get install wrk)")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var urls []string
	for _, role := range []string{"serve-perigee", "serve-bare"} {
		url, err := serveRole(ctx, role)
		if err != nil {
			return err
		}
		urls = append(urls, url)
	}
	var ratios, perigees []float64
	for range httpRounds {
		var rate [2]float64
		for i, url := range urls {
			if rate[i], err = ask1(ctx, wrk, url); err != nil {
				return err
			}
		}
		ratios, perigees = append(ratios, rate[0]/rate[1]), append(perigees, rate[0])
	}
	slices.Sort(ratios)
	slices.Sort(perigees)
	fmt.Fprintf(out, "http_requests_per_s %.0f\n", perigees[len(perigees)/2])
	fmt.Fprintf(out, "http_vs_bare %.3f\n", ratios[len(ratios)/2])
	return nil
}

// serveRole starts this program as a server, which prints its address, and ends with ctx.
func serveRole(ctx context.Context, role string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, role, cacheDir)
	cmd.Stderr = os.Stderr
	p, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(p).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s: %w", role, err)
	}
	return strings.TrimSpace(line), nil
}

func ask1(ctx context.Context, wrk, url string) (float64, error) {
	target, host, _ := strings.Cut(url, " ")
	b, err := exec.CommandContext(ctx, wrk, "-t1", "-c32", "-d"+httpSeconds, "-H", "Host: "+host, target).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk %s: %w\n%s", url, err, b)
	}
	if strings.Contains(string(b), "Non-2xx") {
		return 0, fmt.Errorf("wrk %s: %s", url, b)
	}
	for line := range strings.Lines(string(b)) {
		if rate, ok := strings.CutPrefix(strings.TrimSpace(line), "Requests/sec:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(rate), 64)
		}
	}
	return 0, fmt.Errorf("wrk %s says no rate: %s", url, b)
}

// serveBare answers with a constant until it is killed.
func serveBare() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/ bare\n", l.Addr())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello from nowhere") }))
}

// servePerigee runs a node with examples/hello until it is killed.
func servePerigee(ctx context.Context, cacheDir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "perigee-bench-")
	if err != nil {
		return err
	}
	const dir = "../examples/hello"
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "sh", "-c", m.Build)
	build.Dir, build.Stderr = dir, os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	archive, err := bundle.Pack(dir, m)
	if err != nil {
		return err
	}
	f, err := fleet.Start(ctx, fleet.Config{
		Dir: tmp, CodeDir: filepath.Join(cacheDir, "node"), Regions: []perigee.Region{"fra"}, Admit: []string{self, "admit"}, Near: true, Plain: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	body := archive.Open()
	defer body.Close()
	if _, err := f.Operator().Deploy(ctx, m, archive.Digest, perigee.Bytes(archive.Size), body, func(node.DeployEvent) {}); err != nil {
		return err
	}
	for {
		s, _, err := f.Operator().Function(ctx, m.Name)
		if err != nil {
			return err
		}
		if s.Ready() {
			break
		}
	}
	fmt.Printf("http://%s/ hello.localhost\n", f.Members()[0].Node().HTTPAddr())
	<-ctx.Done()
	return nil
}
