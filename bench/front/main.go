// Command front measures the front door beside Caddy and a bare net/http server, all on this machine, in
// one run and by turns, and prints figures as "name value" lines; docs/bench.md explains them.
//
//	front BIN      BIN has caddy, h2spec, perigee and pebble/ (make bench-front)
//	front -acme BIN   the figures of certificates, with Pebble and separate nodes
//	front -restart BIN   requests that fail while nodes are upgraded
//	front -attack BIN [NAME]   what attacks cost a node and their sender; those whose names match NAME, a regular expression
//
// As a child it is one of the servers, front -serve perigee|bare ADDR DIR, the sender of one attack,
// front -attacker NAME ADDR, or the origin of WebSockets, front -origin ADDR.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	rounds = 5
	window = 3 // seconds
	host   = "localhost"
	text   = "hello, world\n" // what every server answers
)

func main() {
	log.SetFlags(0)
	serve := flag.String("serve", "", "be a server: perigee or bare")
	acme := flag.Bool("acme", false, "measure certificates")
	restart := flag.Bool("restart", false, "measure upgrades")
	attack := flag.Bool("attack", false, "measure attacks")
	attacker := flag.String("attacker", "", "be the sender of an attack")
	origin := flag.Bool("origin", false, "be an origin with WebSockets")
	flag.Parse()
	var err error
	switch {
	case *serve != "":
		err = beServer(*serve, flag.Arg(0), flag.Arg(1))
	case *attacker != "":
		err = beAttacker(*attacker, flag.Arg(0))
	case *origin:
		err = beOrigin(flag.Arg(0))
	case *attack:
		err = measureAttacks(flag.Arg(0), flag.Arg(1))
	case *acme:
		err = measureCerts(flag.Arg(0))
	case *restart:
		err = measureRestarts(flag.Arg(0))
	default:
		err = measure(flag.Arg(0))
	}
	if err != nil {
		log.Fatal(err)
	}
}

func figure(name string, value float64) { fmt.Printf("%s %.4g\n", name, value) }

// server is a process under measurement.
type server struct {
	name string
	cmd  *exec.Cmd
	addr string
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// start starts a server and waits until it listens.
func start(name, addr string, out io.Writer, argv ...string) (*server, error) {
	s := &server{name: name, addr: addr, cmd: exec.Command(argv[0], argv[1:]...)}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s does not listen on %s", name, addr)
}

// freeAddr returns an address that is free for TCP and UDP.
func freeAddr() string {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		addr := l.Addr().String()
		u, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			u.Close()
			return addr
		}
	}
}

// certificate writes a certificate for localhost, of an ECDSA P-256 key like Perigee's own.
func certificate(dir string) (cert, key string, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		return "", "", err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return "", "", err
	}
	return cert, key, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder}), 0o600)
}

const caddyfile = `{
	admin off
	auto_https off
	log {
		output discard
	}
}
https://localhost:%s {
	tls %s %s
	respond "%s"
}
`

func measure(bin string) error {
	dir, err := os.MkdirTemp("", "front-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cert, key, err := certificate(dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	servers := map[string]*server{}
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, name := range []string{"perigee", "bare"} {
		addr := freeAddr()
		if servers[name], err = start(name, addr, os.Stderr, self, "-serve", name, addr, dir); err != nil {
			return err
		}
	}
	addr := freeAddr()
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(conf, fmt.Appendf(nil, caddyfile, port, cert, key, strings.TrimSpace(text)), 0o600); err != nil {
		return err
	}
	if servers["caddy"], err = start("caddy", addr, io.Discard, filepath.Join(bin, "caddy"), "run", "--config", conf, "--adapter", "caddyfile"); err != nil {
		return err
	}
	isolated, err := startNode(filepath.Join(bin, "perigee"), dir, "")
	if err != nil {
		return err
	}
	servers["isolated"] = isolated

	loads := []struct {
		key    string
		server string
		run    func(addr string) (float64, error)
	}{
		{"h1_caddy", "caddy", wrk}, {"h1_perigee", "perigee", wrk},
		{"h2_caddy", "caddy", h2load}, {"h2_perigee", "perigee", h2load}, {"h2_bare", "bare", h2load}, {"h2_isolated", "isolated", h2load},
		{"h3_caddy", "caddy", h3load}, {"h3_perigee", "perigee", h3load},
	}
	rates := map[string][]float64{}
	for range rounds {
		for _, l := range loads {
			rate, err := l.run(servers[l.server].addr)
			if err != nil {
				return fmt.Errorf("%s: %w", l.key, err)
			}
			rates[l.key] = append(rates[l.key], rate)
		}
	}
	for _, l := range loads {
		figure("front_"+l.key+"_per_s", median(rates[l.key]))
	}
	ratio := func(name, a, b string) { figure(name, medianRatio(rates[a], rates[b])) }
	ratio("front_h1_vs_caddy", "h1_perigee", "h1_caddy")
	ratio("front_h2_vs_caddy", "h2_perigee", "h2_caddy")
	ratio("front_h3_vs_caddy", "h3_perigee", "h3_caddy")
	ratio("front_vs_bare", "h2_perigee", "h2_bare")
	ratio("tls_isolated_h2_vs_caddy", "h2_isolated", "h2_caddy")
	if err := h2spec(filepath.Join(bin, "h2spec"), servers); err != nil {
		return err
	}
	return slowClients(servers["perigee"].addr)
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// medianRatio compares what was measured side by side, round by round.
func medianRatio(a, b []float64) float64 {
	var r []float64
	for i := range a {
		r = append(r, a[i]/b[i])
	}
	return median(r)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

var (
	wrkRate    = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkBad     = regexp.MustCompile(`Non-2xx`)
	h2loadRate = regexp.MustCompile(`finished in [0-9.]+m?s, ([0-9.]+) req/s`)
	h2loadGood = regexp.MustCompile(`status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx`)
)

// wrk measures HTTP/1.1.
func wrk(addr string) (float64, error) {
	out, err := exec.Command("wrk", "-t1", "-c32", "-d"+strconv.Itoa(window)+"s", "https://localhost:"+port(addr)+"/").CombinedOutput()
	m := wrkRate.FindSubmatch(out)
	if err != nil || m == nil || wrkBad.Match(out) {
		return 0, fmt.Errorf("wrk: %v\n%s", err, out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// h2load measures HTTP/2.
func h2load(addr string) (float64, error) {
	out, err := exec.Command("h2load", "-c4", "-m8", "-D"+strconv.Itoa(window), "https://localhost:"+port(addr)+"/").CombinedOutput()
	m := h2loadRate.FindSubmatch(out)
	if err != nil || m == nil || !h2loadGood.Match(out) {
		return 0, fmt.Errorf("h2load: %v\n%s", err, out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

var failed = regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`)

// h2spec counts the cases of the specification that fail here and not on a bare net/http server.
func h2spec(bin string, servers map[string]*server) error {
	count := map[string]float64{}
	var tests float64
	for _, name := range []string{"bare", "perigee"} {
		out, _ := exec.Command(bin, "-h", "localhost", "-p", port(servers[name].addr), "-t", "-k", "-S", "-o", "3").CombinedOutput() // exits 1 when a case fails
		m := failed.FindSubmatch(out)
		if m == nil {
			return fmt.Errorf("h2spec on %s:\n%s", name, out)
		}
		tests, _ = strconv.ParseFloat(string(m[1]), 64)
		count[name], _ = strconv.ParseFloat(string(m[4]), 64)
	}
	figure("h2spec_failed", max(0, count["perigee"]-count["bare"]))
	figure("h2spec_failed_trials", tests)
	figure("h2spec_failed_bare", count["bare"])
	return nil
}
