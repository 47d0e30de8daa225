package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// The sizes of the figure of upgrades.
const (
	restartRequests = 200_000
	restartWorkers  = 2               // for each node and version of HTTP
	restartPause    = 3 * time.Second // between upgrades, so that connections settle
	maxTold         = 20              // failures
)

// restarts counts the requests of clients while nodes are upgraded.
type restarts struct {
	done, failed atomic.Int64
	mu           sync.Mutex // guards times
	times        []time.Duration
}

// measureRestarts sends requests to three nodes, one of which has to ask another, while each is replaced
// in turn by a new process, of another file of the same release.
func measureRestarts(bin string) error {
	dir, err := os.MkdirTemp("", "front")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nodes, https, stop, err := threeNodes(bin, dir)
	defer stop()
	if err != nil {
		return err
	}
	var r restarts
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range nodes {
		for _, tr := range clientsOf(ip(i) + ":" + https) {
			for w := range restartWorkers {
				wg.Go(func() {
					c := &http.Client{Transport: tr, Timeout: 30 * time.Second}
					for n := w; ctx.Err() == nil; n++ {
						r.ask(c, n)
					}
				})
			}
		}
	}
	programs := []string{nodes[0].bin, filepath.Join(dir, "perigee-next")}
	upgrades := 0
	for began := time.Now(); (r.done.Load() < restartRequests || upgrades < 2*len(nodes)) && err == nil; upgrades++ {
		time.Sleep(restartPause)
		i := upgrades % len(nodes)
		_, err = nodes[i].run("node", "upgrade", "--config", "node.toml", programs[(upgrades/len(nodes)+1)%2])
		log.Printf("%v: %d requests, %d failed, node %d upgraded: %v", time.Since(began).Round(time.Second), r.done.Load(), r.failed.Load(), i, err)
	}
	time.Sleep(restartPause)
	cancel()
	wg.Wait()
	if err != nil {
		return err
	}
	slices.Sort(r.times)
	figure("restart_failed", float64(r.failed.Load()))
	figure("restart_failed_trials", float64(r.done.Load()))
	figure("restart_upgrades", float64(upgrades))
	figure("restart_p99_ms", float64(r.times[len(r.times)*99/100].Microseconds())/1000)
	figure("restart_max_ms", float64(r.times[len(r.times)-1].Microseconds())/1000)
	return nil
}

// ask sends one request: every second is a POST, which nobody may repeat.
func (r *restarts) ask(c *http.Client, n int) {
	began := time.Now()
	err := func() error {
		method, body := http.MethodGet, io.Reader(nil)
		if n%2 == 1 {
			method, body = http.MethodPost, bytes.NewReader(make([]byte, 100))
		}
		req, err := http.NewRequest(method, "https://"+host+"/", body)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %s", method, resp.Status, b)
		}
		return err
	}()
	r.mu.Lock()
	r.times = append(r.times, time.Since(began))
	r.mu.Unlock()
	r.done.Add(1)
	if err != nil {
		if r.failed.Add(1) <= maxTold {
			log.Printf("%s failed: %v", time.Now().UTC().Format("15:04:05.000"), err)
		}
	}
}

// clientsOf returns one client for each version of HTTP, as Go programs have them.
func clientsOf(addr string) []http.RoundTripper {
	var d net.Dialer
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}
	conf := func() *tls.Config { return &tls.Config{ServerName: host, InsecureSkipVerify: true} }
	var one, two http.Protocols
	one.SetHTTP1(true)
	two.SetHTTP2(true)
	return []http.RoundTripper{
		&http.Transport{DialContext: dial, TLSClientConfig: conf(), Protocols: &one, MaxIdleConnsPerHost: restartWorkers},
		&http.Transport{DialContext: dial, TLSClientConfig: conf(), Protocols: &two},
		&http3.Transport{TLSClientConfig: conf(), Dial: func(ctx context.Context, _ string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, addr, t, q)
		}},
	}
}

// threeNodes starts a cluster with examples/hello at localhost, and copies the program to perigee-next.
func threeNodes(bin, dir string) (nodes [3]perigeeNode, https string, stop func(), err error) {
	var run []*server
	stop = func() {
		for i, s := range run { // by its socket: the process is another one by now
			if pid := nodes[i].pid(); pid > 0 {
				_ = kill(pid)
			}
			s.stop()
		}
	}
	program, err := filepath.Abs(filepath.Join(bin, "perigee"))
	if err != nil {
		return nodes, "", stop, err
	}
	b, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "perigee-next"), b, 0o700)
	}
	if err != nil {
		return nodes, "", stop, err
	}
	mesh, https := portOnAll(), portOnAll()
	for i, region := range []string{"fra", "wdc", "syd"} {
		n := perigeeNode{program, filepath.Join(dir, region)}
		nodes[i] = n
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return nodes, "", stop, err
		}
		set := []string{"--listen", ip(i) + ":" + mesh, "--https", ip(i) + ":" + https, "--http", "", "--admin-http", ""}
		argv := []string{program, "node", "run", "--config", filepath.Join(n.dir, "node.toml")}
		if i == 0 {
			if _, err := n.run(append([]string{"cluster", "init", "--region", region}, set...)...); err != nil {
				return nodes, "", stop, err
			}
		} else {
			token, err := nodes[0].run("token", "create", "--region", region)
			if err != nil {
				return nodes, "", stop, err
			}
			for l := range strings.Lines(token) {
				if l = strings.TrimSpace(l); strings.HasPrefix(l, "pgt1_") {
					argv = append(append(argv, "--join", l), set...)
				}
			}
		}
		out, err := os.Create(filepath.Join(n.dir, "log"))
		if err != nil {
			return nodes, "", stop, err
		}
		s, err := start(region, ip(i)+":"+https, out, argv...)
		if err != nil {
			return nodes, "", stop, err
		}
		run = append(run, s)
	}
	if err := nodes[0].until(30*time.Second, func(out string) bool { return strings.Contains(out, "3 alive of 3") }, "status"); err != nil {
		return nodes, "", stop, err
	}
	if err := buildHello(filepath.Join(nodes[0].dir, "hello")); err != nil {
		return nodes, "", stop, err
	}
	_, err = nodes[0].run("deploy", "hello", "--wait", "1m")
	return nodes, https, stop, err
}
