package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The sizes of the certificate figures.
const (
	readyHosts = 15      // new hosts timed
	orderHosts = 100     // new hosts whose orders are counted
	killEvery  = 5       // of those, the issuer is killed amid the order
	stormNames = 100_000 // handshakes for names that no function has
)

// lineCounter keeps a process's log and counts lines by what they contain.
type lineCounter struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lineCounter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lineCounter) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// caCluster is Pebble and three nodes.
type caCluster struct {
	bin   string
	dir   string
	ca    *lineCounter
	nodes [3]perigeeNode
	run   [3]*server
	ids   [3]string
	mesh  string
	roots *x509.CertPool
	dns   string // challtestsrv's management
	extra []*server
}

func (c *caCluster) stop() {
	for _, s := range append(c.extra, c.run[:]...) {
		if s != nil {
			s.stop()
		}
	}
}

func ip(i int) string { return fmt.Sprintf("127.0.0.%d", i+2) }

// portOnAll finds a port that is free on the CA's address and the nodes'.
func portOnAll() string {
next:
	for {
		_, p, _ := net.SplitHostPort(freeAddr())
		for i := range 4 {
			for _, network := range []string{"tcp", "udp"} {
				addr := fmt.Sprintf("127.0.0.%d:%s", i+1, p)
				if network == "tcp" {
					l, err := net.Listen(network, addr)
					if err != nil {
						continue next
					}
					l.Close()
					continue
				}
				u, err := net.ListenPacket(network, addr)
				if err != nil {
					continue next
				}
				u.Close()
			}
		}
		return p
	}
}

func newCACluster(bin, dir string) (*caCluster, error) {
	pebble, err := filepath.Abs(filepath.Join(bin, "pebble"))
	if err != nil {
		return nil, err
	}
	perigee, err := filepath.Abs(filepath.Join(bin, "perigee"))
	if err != nil {
		return nil, err
	}
	c := &caCluster{bin: perigee, dir: dir, ca: &lineCounter{}, ids: [3]string{"fra", "wdc", "syd"}}
	mesh, https, plain, admin := portOnAll(), portOnAll(), portOnAll(), portOnAll()
	c.mesh, c.dns = mesh, "127.0.0.1:"+admin
	conf := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `{"pebble": {"listenAddress": "127.0.0.1:%s", "managementListenAddress": "127.0.0.1:%s",
		"certificate": %q, "privateKey": %q, "tlsPort": %s, "httpPort": %s, "ocspResponderURL": "", "externalAccountBindingRequired": false,
		"retryAfter": {"authz": 1, "order": 1}, "profiles": {"default": {"description": "for figures", "validityPeriod": 864000}}}}`,
		https, plain, pebble+"/cert.pem", pebble+"/key.pem", https, plain), 0o600); err != nil {
		return nil, err
	}
	dns, err := start("dns", c.dns, io.Discard, pebble+"/pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		"-dnsserver", "127.0.0.1:"+mesh, "-management", c.dns, "-defaultIPv4", ip(1), "-defaultIPv6", "")
	if err != nil {
		return nil, err
	}
	c.extra = append(c.extra, dns)
	os.Setenv("PEBBLE_WFE_NONCEREJECT", "30")
	os.Setenv("PEBBLE_VA_SLEEPTIME", "1")
	os.Setenv("PEBBLE_AUTHZREUSE", "0") // so that each order shows as a validation of its name
	ca, err := start("pebble", "127.0.0.1:"+https, c.ca, pebble+"/pebble", "-strict", "-config", conf, "-dnsserver", "127.0.0.1:"+mesh)
	if err != nil {
		return c, err
	}
	c.extra = append(c.extra, ca)
	own, err := os.ReadFile(pebble + "/minica.pem")
	if err != nil {
		return c, err
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(own)
	resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}}).Get("https://127.0.0.1:" + plain + "/roots/0")
	if err != nil {
		return c, err
	}
	root, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return c, err
	}
	c.roots = x509.NewCertPool()
	c.roots.AppendCertsFromPEM(root)
	for i := range c.nodes {
		n := perigeeNode{perigee, filepath.Join(dir, c.ids[i])}
		c.nodes[i] = n
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return c, err
		}
		set := []string{"--listen", ip(i) + ":" + mesh, "--https", ip(i) + ":" + https, "--http", ip(i) + ":" + plain, "--admin-http", "",
			"--acme-email", "ops@shop.example", "--acme-directory", "https://127.0.0.1:" + https + "/dir", "--acme-roots", pebble + "/minica.pem"}
		if i == 0 {
			if _, err := n.run(append([]string{"cluster", "init", "--region", "fra", "--domain", "shop.example"}, set...)...); err != nil {
				return c, err
			}
			if err := c.start(i); err != nil {
				return c, err
			}
			if err := n.until(20*time.Second, func(string) bool { return true }, "status"); err != nil {
				return c, err
			}
			continue
		}
		token, err := c.nodes[0].run("token", "create", "--region", c.ids[i])
		if err != nil {
			return c, err
		}
		lines := strings.Split(token, "\n")
		for _, l := range lines {
			if strings.HasPrefix(l, "pgt1_") {
				token = l
			}
		}
		s, err := start(c.ids[i], ip(i)+":"+https, io.Discard, append([]string{perigee, "node", "run", "--config", filepath.Join(n.dir, "node.toml"), "--join", token}, set...)...)
		if err != nil {
			return c, err
		}
		c.run[i] = s
	}
	return c, c.nodes[0].until(30*time.Second, func(out string) bool { return strings.Contains(out, "3 alive of 3") }, "status")
}

// start runs a node that is a member.
func (c *caCluster) start(i int) (err error) {
	conf, err := os.ReadFile(filepath.Join(c.nodes[i].dir, "node.toml"))
	if err != nil {
		return err
	}
	addr := regexp.MustCompile(`(?m)^https = "(.*)"`).FindSubmatch(conf)
	c.run[i], err = start(c.ids[i], string(addr[1]), io.Discard, c.bin, "node", "run", "--config", filepath.Join(c.nodes[i].dir, "node.toml"))
	return err
}

// deploy makes a function at a host of its own, from a node that is up.
func (c *caCluster) deploy(from int, name string, wasm []byte) error {
	dir := filepath.Join(c.nodes[from].dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "f.wasm"), wasm, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "perigee.toml"), []byte("name = \""+name+"\"\nwasm = \"f.wasm\"\n"), 0o600); err != nil {
		return err
	}
	_, err := c.nodes[from].run("deploy", name, "--wait", "0s", "--key", filepath.Join(c.nodes[0].dir, "operator.key"))
	return err
}

// good reports whether a node serves a host with the CA's certificate.
func (c *caCluster) good(i int, name string) bool {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", c.run[i].addr, &tls.Config{ServerName: name + ".shop.example", RootCAs: c.roots})
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (c *caCluster) await(name string, nodes []int, limit time.Duration) error {
	for began := time.Now(); time.Since(began) < limit; time.Sleep(20 * time.Millisecond) {
		ok := true
		for _, i := range nodes {
			ok = ok && c.good(i, name)
		}
		if ok {
			return nil
		}
	}
	return fmt.Errorf("%s has no certificate on all of %v within %v", name, nodes, limit)
}

func measureCerts(bin string) error {
	dir, err := os.MkdirTemp("", "certs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	wasm := filepath.Join(dir, "hello.wasm")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", wasm, ".")
	build.Dir, build.Env = "../../examples/hello", append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/hello: %w\n%s", err, out)
	}
	module, err := os.ReadFile(wasm)
	if err != nil {
		return err
	}
	c, err := newCACluster(bin, dir)
	if c != nil {
		defer c.stop()
	}
	if err != nil {
		return err
	}
	var took []float64
	for i := range readyHosts {
		name := fmt.Sprintf("ready%d", i)
		began := time.Now()
		if err := c.deploy(0, name, module); err != nil {
			return err
		}
		deployed := time.Since(began)
		if err := c.await(name, []int{0, 1, 2}, time.Minute); err != nil {
			return err
		}
		log.Printf("%s: deployed after %.1f s, ready after %.1f s", name, deployed.Seconds(), time.Since(began).Seconds())
		if i > 0 { // the first makes the account too
			took = append(took, time.Since(began).Seconds())
		}
	}
	figure("cert_ready_s", median(took))
	if err := c.storm(); err != nil {
		return err
	}
	return c.kills(module)
}

// storm asks for names that no function has.
func (c *caCluster) storm() error {
	before := c.ca.count("Added order")
	var wg sync.WaitGroup
	var let atomic.Int64
	var broken atomic.Pointer[error]
	for w := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for range stormNames / 8 {
				name := fmt.Sprintf("%x.%s", rnd.Uint64(), []string{"shop.example", "ready1.shop.example", "example.com"}[rnd.IntN(3)])
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, byte(1+w))}}).DialContext(ctx, "tcp", c.run[w%3].addr)
				if err != nil {
					cancel()
					broken.Store(&err)
					return
				}
				if tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(ctx) == nil {
					let.Add(1)
				}
				raw.Close()
				cancel()
			}
		})
	}
	wg.Wait()
	if err := broken.Load(); err != nil {
		return *err
	}
	if let.Load() > 0 {
		return fmt.Errorf("%d strange names got a certificate", let.Load())
	}
	time.Sleep(2 * time.Second) // for an order that a handshake would have caused
	figure("sni_storm_orders", float64(c.ca.count("Added order")-before))
	figure("sni_storm_orders_trials", stormNames)
	return nil
}

var orderedBy = regexp.MustCompile(`being ordered by (\w+)-1`)

// kills deploys new hosts, kills the issuer of some of them amid its order, and brings it back after another has taken over.
func (c *caCluster) kills(module []byte) error {
	worst, killed := 0, 0
	for i := range orderHosts {
		name := fmt.Sprintf("kill%d", i)
		if err := c.deploy(0, name, module); err != nil {
			return err
		}
		if i%killEvery > 0 {
			if err := c.await(name, []int{0, 1, 2}, 90*time.Second); err != nil {
				return err
			}
			continue
		}
		who := ""
		for began := time.Now(); who == "" && time.Since(began) < 10*time.Second && !c.good(0, name); {
			out, err := c.nodes[0].run("cert", "ls")
			if err != nil {
				return err
			}
			for line := range strings.Lines(out) {
				if m := orderedBy.FindStringSubmatch(line); m != nil && strings.HasPrefix(line, name+".") {
					who = m[1]
				}
			}
		}
		up := []int{0, 1, 2}
		for n, id := range c.ids {
			if id != who || n == 0 { // the first is the one we ask
				continue
			}
			killed++
			log.Printf("%s: %s is killed amid the order", name, who)
			other := ip(3 - n)
			resp, err := http.Post("http://"+c.dns+"/set-default-ipv4", "application/json", strings.NewReader(`{"ip":"`+other+`"}`))
			if err != nil {
				return err
			}
			resp.Body.Close()
			c.run[n].stop()
			up = []int{0, 3 - n}
			if err := c.await(name, up, 90*time.Second); err != nil {
				return err
			}
			if err := c.start(n); err != nil {
				return err
			}
			if err := c.nodes[0].until(30*time.Second, func(out string) bool { return strings.Contains(out, "3 alive of 3") }, "status"); err != nil {
				return err
			}
		}
		if err := c.await(name, []int{0, 1, 2}, 90*time.Second); err != nil {
			return err
		}
	}
	if killed == 0 {
		return errors.New("no issuer was caught amid an order")
	}
	for i := range orderHosts {
		n := c.ca.count(fmt.Sprintf(`Value:"kill%d.shop.example"}, Challenge:`, i))
		if n == 0 {
			return fmt.Errorf("the CA's log does not show who validated kill%d", i)
		}
		worst = max(worst, n-1)
	}
	figure("duplicate_orders", float64(worst))
	figure("duplicate_orders_trials", float64(orderHosts))
	figure("duplicate_orders_kills", float64(killed))
	return nil
}
