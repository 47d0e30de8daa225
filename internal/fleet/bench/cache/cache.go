// Command cache measures the cache of a gateway: it runs the tests for HTTP caches of http-cache-tests, whose origin
// stands behind a function with next, and compares requests that are answered from the store with those that run the
// function and ask the origin. Figures go to standard output, one "name value" a line; what failed, and why the suite says so, stands in comments.
//
// The package is expected in bench/node_modules, as `make bench-cache` installs it.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

//go:embed score.mjs
var score string

// passes is an http-wasm handler whose handle_request is `i64.const 1`: go on to what it stands before.
const passes = "\x00asm\x01\x00\x00\x00" +
	"\x01\x0a\x02\x60\x00\x01\x7e\x60\x02\x7f\x7f\x00" + // types: func() i64; func(i32, i32)
	"\x03\x03\x02\x00\x01" + // two functions
	"\x05\x03\x01\x00\x01" + // a page of memory
	"\x07\x2d\x03\x06memory\x02\x00\x0ehandle_request\x00\x00\x0fhandle_response\x00\x01" +
	"\x0a\x09\x02\x04\x00\x42\x01\x0b\x02\x00\x0b"

// host is the one that the clients of the suite ask for, so that no DNS is needed.
const host = "localhost"

func run(ctx context.Context) error {
	suite, err := filepath.Abs("bench/node_modules/http-cache-tests")
	if err != nil {
		return err
	}
	if _, err := os.Stat(suite); err != nil {
		return fmt.Errorf("%w: run `make bench-cache`, which installs it", err)
	}
	tmp, err := os.MkdirTemp("", "perigee-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	origin, end, err := serveSuite(ctx, suite, tmp)
	if err != nil {
		return err
	}
	defer end()
	content := serveContent()
	defer content.Close()

	admit, err := filepath.Abs("bin/perigee")
	if err != nil {
		return err
	}
	f, err := fleet.Start(ctx, fleet.Config{
		Dir: filepath.Join(tmp, "fleet"), Regions: []perigee.Region{"fra"}, Admit: []string{admit, "admit"}, Near: true, Plain: true, Receipt: "region",
		OutboundAllow: []string{origin, content.addr}, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	defer f.Close()
	for name, next := range map[string]string{"suite": origin, "content": content.addr} {
		if err := deploy(ctx, f, tmp, name, next); err != nil {
			return fmt.Errorf("deploy %s: %w", name, err)
		}
	}
	gateway := f.Members()[0].Node().HTTPAddr()
	if err := conformance(ctx, suite, "http://"+host+gateway[strings.LastIndexByte(gateway, ':'):]); err != nil {
		return err
	}
	return throughput(gateway)
}

// serveSuite starts the origin of the suite and returns its address.
func serveSuite(ctx context.Context, suite, tmp string) (addr string, end func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	c := exec.CommandContext(ctx, "node", "server/server.mjs")
	c.Dir = suite
	c.Env = append(os.Environ(), "npm_config_protocol=http", "npm_config_port="+port, "npm_config_pidfile="+filepath.Join(tmp, "origin.pid"))
	if err := c.Start(); err != nil {
		return "", nil, fmt.Errorf("start the origin of the suite: %w", err)
	}
	end = func() { _ = c.Process.Kill(); _ = c.Wait() }
	for range 200 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return addr, end, conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	end()
	return "", nil, errors.New("the origin of the suite does not listen after 10 s")
}

// origin answers with a page of a kilobyte, which may be stored unless its path says no.
type origin struct {
	net.Listener
	addr string
}

func serveContent() *origin {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // no loopback
	}
	o := &origin{Listener: l, addr: l.Addr().String()}
	page := bytes.Repeat([]byte("perigee "), 128)
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:errcheck // it ends with the listener
		w.Header()["Cache-Control"] = []string{"max-age=3600"}
		if r.URL.Path == "/no" {
			w.Header()["Cache-Control"] = []string{"no-store"}
		}
		_, _ = w.Write(page) // a client that is gone
	}))
	return o
}

func deploy(ctx context.Context, f *fleet.Fleet, tmp, name, next string) error {
	dir := filepath.Join(tmp, name)
	manifest := fmt.Sprintf("name = %q\nwasm = \"f.wasm\"\nnext = \"http://%s\"\n[cache]\nenabled = true\nheaders = [\"*\"]\ncookies = \"pass\"\nheuristics = true\n", name, next)
	if name == "suite" {
		manifest += fmt.Sprintf("[[route]]\nhost = %q\n", host)
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "f.wasm"), []byte(passes), 0o600), os.WriteFile(filepath.Join(dir, bundle.ManifestName), []byte(manifest), 0o600)); err != nil {
		return err
	}
	m, err := bundle.LoadManifest(dir)
	if err != nil {
		return err
	}
	archive, err := bundle.Pack(dir, m)
	if err != nil {
		return err
	}
	body := archive.Open()
	defer body.Close()
	d, err := f.Operator().Deploy(ctx, m, archive.Digest, perigee.Bytes(archive.Size), body, func(node.DeployEvent) {})
	if err != nil {
		return err
	}
	for {
		s, _, err := f.Operator().Function(ctx, name)
		if err != nil {
			return err
		}
		if s.Live.ID == d.Revision && s.Ready() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// result is a line of score.mjs.
type result struct {
	Suite  string `json:"suite"`
	ID     string `json:"id"`
	Kind   string `json:"kind"`
	Passed bool   `json:"passed"`
	Sign   string `json:"sign"` // as the suite's own page shows it
	Detail string `json:"detail"`
}

// What the suite says of a test that tells nothing of a cache.
const (
	notSetUp  = "🔹"  // something else went wrong before
	dependent = "⚪️" // it needs what another test found not to be there
)

// tests runs tests of the suite, all without ids.
func tests(ctx context.Context, suite, base string, ids ...string) (list []result, err error) {
	c := exec.CommandContext(ctx, "node", "--no-warnings", "--input-type=module", "-e", score)
	c.Dir, c.Env, c.Stderr = suite, append(os.Environ(), "BASE="+base, "IDS="+strings.Join(ids, ",")), os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("run the suite: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var r result
		if json.Unmarshal(lines.Bytes(), &r) == nil { // else it is of the suite's own
			list = append(list, r)
		}
	}
	return list, nil
}

// conformance runs the suite against a gateway. What could not be set up runs once more by itself: some answers of the
// origin are malformed on purpose, and spoil its connections for others.
func conformance(ctx context.Context, suite, base string) error {
	list, err := tests(ctx, suite, base)
	if err != nil {
		return err
	}
	var again []string
	for _, r := range list {
		if r.Sign == notSetUp {
			again = append(again, r.ID)
		}
	}
	if len(again) > 0 {
		second, err := tests(ctx, suite, base, again...)
		if err != nil {
			return err
		}
		for _, r := range second {
			list[slices.IndexFunc(list, func(l result) bool { return l.ID == r.ID })] = r
		}
	}
	passed, all, failed, untold := map[string]int{}, map[string]int{}, 0, 0
	for _, r := range list {
		all[r.Kind]++
		if r.Passed {
			passed[r.Kind]++
			continue
		}
		fmt.Printf("# %s %s/%s %s %s\n", r.Kind, r.Suite, r.ID, r.Sign, r.Detail)
		switch {
		case r.Kind != "required":
		case r.Sign == notSetUp, r.Sign == dependent:
			untold++
		default:
			failed++
		}
	}
	if all["required"] == 0 || all["optimal"] == 0 {
		return errors.New("the suite printed no results")
	}
	fmt.Printf("cache_tests_required_failed %d\ncache_tests_required_failed_trials %d\ncache_tests_required_untold %d\n", failed, all["required"], untold)
	fmt.Printf("cache_tests_optimal_passed_pct %.1f\ncache_tests_optimal_trials %d\n", 100*float64(passed["optimal"])/float64(all["optimal"]), all["optimal"])
	fmt.Printf("cache_tests_checks_yes %d\ncache_tests_checks_trials %d\n", passed["check"], all["check"])
	return nil
}

const (
	clients = 8
	round   = 2 * time.Second
	rounds  = 3
)

// throughput asks in turns for what is stored and for what is not, over connections that stay.
func throughput(gateway string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	var hits, misses []float64
	for range rounds {
		for path, to := range map[string]*[]float64{"/yes": &hits, "/no": &misses} {
			rate, err := ask(client, gateway, path)
			if err != nil {
				return err
			}
			*to = append(*to, rate)
		}
	}
	slices.Sort(hits)
	slices.Sort(misses)
	hit, miss := hits[rounds/2], misses[rounds/2]
	fmt.Printf("cache_hit_per_s %.0f\ncache_miss_per_s %.0f\ncache_hit_vs_miss %.1f\n", hit, miss, hit/miss)
	return nil
}

// ask returns how many requests a second are answered.
func ask(client *http.Client, gateway, path string) (float64, error) {
	var (
		n     atomic.Int64
		wrong atomic.Pointer[error]
		wg    sync.WaitGroup
	)
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(began) < round {
				if err := get(client, gateway, path); err != nil {
					wrong.Store(&err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	if err := wrong.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / time.Since(began).Seconds(), nil
}

func get(client *http.Client, gateway, path string) error {
	r, err := http.NewRequest(http.MethodGet, "http://"+gateway+path, nil)
	if err != nil {
		return err
	}
	r.Host = "content.localhost"
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}
