package edgeproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/perigee-edge/perigee"
)

func TestHTTPS(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Header.Get(headerProto), r.Header.Get(headerFor))
	}), newHops(), withTLS(t, ca))
	stop := run(t, p)
	for _, c := range []struct {
		h2   bool
		url  string
		want string
	}{
		{false, "https://" + testHost + "/", "HTTP/1.1 https 127.0.0.1"},
		{true, "https://" + testHost + "/", "HTTP/2.0 https 127.0.0.1"},
		{false, "http://" + testHost + "/", "HTTP/1.1 http 127.0.0.1"},
	} {
		cl := client(t, p, ca, c.h2)
		for range 3 {
			resp, body := get(t, cl, c.url)
			equal(t, c.url, body, c.want)
			receiptOf(t, resp.Header)
		}
	}
	equal(t, "certificates", ca.signed.Load(), 1)
	addr, _ := p.Addrs()
	for name, conf := range map[string]*tls.Config{
		"TLS 1.1":      {MaxVersion: tls.VersionTLS11, ServerName: testHost, RootCAs: ca.pool()},
		"no name":      {InsecureSkipVerify: true},
		"unknown name": {ServerName: "other.example.com", RootCAs: ca.pool()},
	} {
		c, err := tls.Dial("tcp", addr.String(), conf)
		if err == nil {
			c.Close()
			t.Errorf("%s: connected", name)
		} else if name != "TLS 1.1" && !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop()
	if _, err := net.Dial("tcp", addr.String()); err == nil {
		t.Error("the port is open after Run")
	}
}

// TestMisdirected opens a connection for one host and asks for another, which has a function too.
func TestMisdirected(t *testing.T) {
	ca, w := newCA(t), newWorld("fra-1")
	w.change(func(m *perigee.Manifest) { m.Routes = append(m.Routes, perigee.Route{Host: "second.example.com"}) })
	p := newProxy(t, w, "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
	run(t, p)
	for _, h2 := range []bool{false, true} {
		r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		r.Host = "second.example.com"
		resp, body := do(t, client(t, p, ca, h2), r)
		if resp.StatusCode != 421 || !strings.Contains(body, testHost) {
			t.Errorf("h2 %v: %d\n%s", h2, resp.StatusCode, body)
		}
		receiptOf(t, resp.Header)
	}
}

func TestNoCertificatesForStrangers(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
	run(t, p)
	addr, _ := p.Addrs()
	var wg sync.WaitGroup
	for i := range 10 {
		rnd := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 100 {
				name := fmt.Sprintf("%x.%s", rnd.Uint64(), []string{"example.com", testHost, "fn.test", "com"}[rnd.IntN(4)])
				conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
				if err == nil {
					conn.Close()
					t.Errorf("%s got a certificate", name)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "issued", ca.signed.Load(), 0)
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_certificates_total", "unknown-host"), 1000)
	entries, err := os.ReadDir(filepath.Join(p.cfg.CertDir, "certificates"))
	if len(entries) > 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on disk: %v, %v", entries, err)
	}
}

func TestCertificateIsKeptAndForgotten(t *testing.T) {
	ca, w, dir := newCA(t), newWorld("fra-1"), t.TempDir()
	edit := func(cfg *Config) { withTLS(t, ca)(cfg); cfg.CertDir = dir }
	for range 2 { // the second start finds the first's certificate
		p := newProxy(t, w, "fra-1", newLocal(greet), newHops(), edit)
		stop := run(t, p)
		get(t, client(t, p, ca, true), "https://"+testHost+"/")
		stop()
	}
	equal(t, "issued", ca.signed.Load(), 1)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others: %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	p := newProxy(t, w, "fra-1", newLocal(greet), newHops(), edit)
	run(t, p)
	get(t, client(t, p, ca, true), "https://"+testHost+"/")
	w.change(func(m *perigee.Manifest) { m.Routes = []perigee.Route{{Host: "second.example.com"}} })
	addr, _ := p.Addrs()
	if conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool()}); err == nil {
		conn.Close()
		t.Error("a host that no function has any more keeps its certificate")
	}
	get(t, client(t, p, ca, true), "https://second.example.com/")
	equal(t, "issued", ca.signed.Load(), 2)

	other := newCA(t) // the cluster was founded again
	p2 := newProxy(t, w, "fra-1", newLocal(greet), newHops(), func(cfg *Config) { withTLS(t, other)(cfg); cfg.CertDir = dir })
	run(t, p2)
	get(t, client(t, p2, other, true), "https://second.example.com/")
	equal(t, "issued by the new CA", other.signed.Load(), 1)
}

// TestRottenCertificate flips a bit of a kept certificate's signature, which would serve all the same: it is
// made anew.
func TestRottenCertificate(t *testing.T) {
	ca, w, dir := newCA(t), newWorld("fra-1"), t.TempDir()
	edit := func(cfg *Config) { withTLS(t, ca)(cfg); cfg.CertDir = dir }
	for range 2 {
		p := newProxy(t, w, "fra-1", newLocal(greet), newHops(), edit)
		stop := run(t, p)
		get(t, client(t, p, ca, true), "https://"+testHost+"/")
		stop()
		file := certmagic.StorageKeys.CertsSitePrefix(p.certs.IssuerKey(), testHost) + "/" + testHost + ".crt"
		path := filepath.Join(dir, filepath.FromSlash(file))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		end := bytes.Index(b, []byte("\n-----END"))
		for b[end-9] < 'c' || b[end-9] > 'x' { // another letter of base64
			end--
		}
		b[end-9] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "issued", ca.signed.Load(), 2)
}

// TestBrokenCertificateHeals damages what is on disk between two starts.
func TestBrokenCertificateHeals(t *testing.T) {
	for _, ext := range []string{"crt", "key", "json"} {
		ca, dir := newCA(t), t.TempDir()
		edit := func(cfg *Config) { withTLS(t, ca)(cfg); cfg.CertDir = dir }
		start := func() *Proxy {
			p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), edit)
			stop := run(t, p)
			get(t, client(t, p, ca, false), "https://"+testHost+"/")
			stop()
			return p
		}
		p := start()
		file := certmagic.StorageKeys.CertsSitePrefix(p.certs.IssuerKey(), testHost) + "/" + testHost + "." + ext
		path := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.Truncate(path, 10); err != nil {
			t.Fatal(err)
		}
		start()
		equal(t, ext+": issued", ca.signed.Load(), 2)
	}
}

// TestClustersInOneProcess has two nodes of different clusters serve the same host, at the same time.
func TestClustersInOneProcess(t *testing.T) {
	var wg sync.WaitGroup
	for range 20 {
		ca := newCA(t)
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
		run(t, p)
		addr, _ := p.Addrs()
		for range 3 {
			wg.Go(func() {
				conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool()})
				if err != nil {
					t.Error(err)
					return
				}
				conn.Close()
			})
		}
	}
	wg.Wait()
}

func TestCertificateRenewal(t *testing.T) {
	ca := newCA(t)
	ca.life = time.Hour
	ca.edit = func(c *x509.Certificate) {
		if ca.signed.Load() == 1 { // the first is in its last third
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(10*time.Minute)
		}
	}
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
	run(t, p)
	serial := func() int64 {
		cl := client(t, p, ca, false)
		resp, _ := get(t, cl, "https://"+testHost+"/")
		cl.CloseIdleConnections()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	equal(t, "first", serial(), 2)
	eventually(t, "renewed", func() bool { return serial() == 3 })
	equal(t, "signed", ca.signed.Load(), 2)
}

func TestSignerFailures(t *testing.T) {
	ca := newCA(t)
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, ca))
	run(t, p)
	addr, _ := p.Addrs()
	fails := func(what string) {
		t.Helper()
		eventually(t, "the host rests no more", func() bool { return !p.certs.rests(testHost, time.Now()) })
		began := time.Now()
		conn, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool()})
		if err == nil {
			conn.Close()
			t.Errorf("%s: got a certificate", what)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("%s: the client waited for %v", what, d)
		}
	}
	down := errors.New("no signer in reach")
	ca.err.Store(&down)
	fails("signer down")
	ca.err.Store(nil)
	ca.edit = func(c *x509.Certificate) { c.DNSNames = []string{"other.example.com"} }
	fails("other name")
	p.cfg.WebRoot = newCA(t).cert
	ca.edit = nil
	fails("other CA")
	p.cfg.WebRoot = ca.cert
	if _, err := tls.Dial("tcp", addr.String(), &tls.Config{ServerName: testHost, RootCAs: ca.pool()}); err == nil || ca.signed.Load() != 2 {
		t.Errorf("the signer is asked again at once: %d, %v", ca.signed.Load(), err)
	}
	eventually(t, "the host rests no more", func() bool { return !p.certs.rests(testHost, time.Now()) })
	get(t, client(t, p, ca, true), "https://"+testHost+"/") // and then it works
	equal(t, "counted", counter(t, p, "perigee_edgeproxy_certificates_total", "failed"), 3)
}

func TestRestingHostsAreBounded(t *testing.T) {
	c, now := newCerts(&Config{}, func(string) bool { return true }), time.Unix(1000, 0)
	for i := range 3 * maxResting {
		c.rest(fmt.Sprint(i), now)
	}
	equal(t, "hosts", len(c.resting), maxResting)
	c.rest("late", now.Add(2*restTime))
	equal(t, "hosts, later", len(c.resting), 1)
}

func TestCertStorageLocks(t *testing.T) {
	s := newCertStorage(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Lock(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.TryLock(ctx, "a"); ok || err != nil {
		t.Errorf("a held lock is taken: %v", err)
	}
	if ok, err := s.TryLock(ctx, "b"); !ok || err != nil {
		t.Errorf("a free lock is not taken: %v", err)
	}
	got := make(chan error)
	go func() { got <- s.Lock(ctx, "a") }()
	if err := s.Unlock(ctx, "a"); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	go func() { got <- s.Lock(ctx, "a") }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	if entries, _ := os.ReadDir(s.Path); len(entries) > 0 {
		t.Errorf("lock files: %v", entries)
	}
}

func TestCheckChain(t *testing.T) {
	c := newCerts(&Config{}, func(string) bool { return true })
	for name, chain := range map[string]string{
		"empty": "", "no PEM": "hello", "too long": strings.Repeat("x", maxChain+1),
		"no certificate": "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
	} {
		if err := c.checkChain([]byte(chain), &x509.CertificateRequest{}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestHeaderLimits sends heads that net/http refuses before this package sees them.
func TestHeaderLimits(t *testing.T) {
	ca := newCA(t)
	local := newLocal(greet)
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops(), withTLS(t, ca))
	run(t, p)
	for _, h2 := range []bool{false, true} {
		r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		r.Header.Set("X-Large", strings.Repeat("x", 2*maxHeader))
		resp, err := client(t, p, ca, h2).Do(r)
		if err == nil {
			resp.Body.Close()
			equal(t, "status", resp.StatusCode, 431)
		}
	}
	_, addr := p.Addrs()
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
		"POST / HTTP/1.1\r\nHost: " + testHost + "\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\nx",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
		"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, head)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode < 400 || resp.StatusCode > 501 {
			t.Errorf("%q: %v %v", head, resp, err)
		}
		conn.Close()
	}
	equal(t, "runs", local.runs.Load(), 0)
}

func TestServerLimits(t *testing.T) {
	s := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(nil), newHops()).newServer(false)
	if s.MaxHeaderBytes != 16<<10 || s.ReadHeaderTimeout != 10*time.Second || s.IdleTimeout == 0 || s.HTTP2.MaxConcurrentStreams != 100 {
		t.Errorf("%+v", s)
	}
	if s.ReadTimeout != 0 || s.WriteTimeout != 0 {
		t.Error("absolute timeouts would cut off streams")
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld("fra-1")
	good := func() Config {
		return Config{Self: "fra-1", Region: "fra", View: w.view.Load, Local: newLocal(nil), Hops: newHops()}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, edit := range map[string]func(*Config){
		"no name":         func(c *Config) { c.Self = "" },
		"no region":       func(c *Config) { c.Region = "" },
		"no view":         func(c *Config) { c.View = nil },
		"no local":        func(c *Config) { c.Local = nil },
		"no hops":         func(c *Config) { c.Hops = nil },
		"receipt":         func(c *Config) { c.Receipt = "some" },
		"HTTPS unsigned":  func(c *Config) { c.HTTPS = "127.0.0.1:0" },
		"negative":        func(c *Config) { c.StallTimeout = -1 },
		"port taken":      func(c *Config) { c.HTTP = taken.Addr().String() },
		"HTTPS, no place": func(c *Config) { c.HTTPS = "127.0.0.1:0"; c.SignWeb = newCA(t).sign },
	} {
		cfg := good()
		edit(&cfg)
		if p, err := New(cfg); err == nil {
			p.Close()
			t.Errorf("%s: no error", name)
		}
	}
	cfg := good()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := p.Addrs(); a != nil || b != nil {
		t.Errorf("listens on %v, %v", a, b)
	}
	equal(t, "default", p.cfg.Receipt, ReceiptRegion)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestRunReportsAListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), func(c *Config) { c.OnHTTP = &failingListener{l} })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := p.Run(ctx); err == nil || !strings.Contains(err.Error(), "out of files") {
		t.Errorf("Run: %v", err)
	}
}

type failingListener struct{ net.Listener }

func (l *failingListener) Accept() (net.Conn, error) { return nil, errors.New("out of files") }

func TestDrain(t *testing.T) {
	ca := newCA(t)
	running, release := make(chan struct{}, 10), make(chan struct{})
	local := newLocal(func(w http.ResponseWriter, r *http.Request) {
		running <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "done")
	})
	p := newProxy(t, newWorld("fra-1", "wdc-1"), "fra-1", local, newHops(), withTLS(t, ca))
	run(t, p)
	type result struct {
		body  string
		close bool
		err   error
	}
	results := make(chan result, 10)
	for _, c := range []*http.Client{client(t, p, ca, false), client(t, p, ca, true)} {
		go func() {
			resp, err := c.Get("https://" + testHost + "/")
			if err != nil {
				results <- result{err: err}
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			results <- result{string(b), resp.Close || resp.ProtoMajor == 2, err}
		}()
		<-running
	}
	hopDone := make(chan *hopRecorder)
	go func() { rec, _ := sendHop(p, hopRequest()); hopDone <- rec }()
	<-running

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Drain(ctx); err == nil {
		t.Fatal("drained with requests under way")
	}
	drained := make(chan error)
	go func() { drained <- p.Drain(t.Context()) }()
	rec, _ := sendHop(p, hopRequest())
	equal(t, "a new hop", rec.refused, perigee.RefusedDraining)
	addr, _ := p.Addrs()
	if conn, err := net.Dial("tcp", addr.String()); err == nil {
		conn.Close()
		t.Error("a new connection is taken")
	}
	select {
	case err := <-drained:
		t.Fatalf("drained with requests under way: %v", err)
	default:
	}
	close(release)
	for range 2 {
		if r := <-results; r.err != nil || r.body != "done" || !r.close {
			t.Errorf("got %+v", r)
		}
	}
	equal(t, "the hop under way", (<-hopDone).Body.String(), "done")
	if err := <-drained; err != nil {
		t.Error(err)
	}
	answer, _ := send(p, request("GET", "/", nil))
	equal(t, "afterwards, in process", answer.Code, 503)
	equal(t, "afterwards, its receipt", receiptOf(t, answer.Header()).Reason, ReasonRefused)
}

// TestStopCutsOff ends Run while a guest runs.
func TestStopCutsOff(t *testing.T) {
	ca, running := newCA(t), make(chan struct{})
	local := newLocal(nil)
	local.handler = func(ctx context.Context, w http.ResponseWriter, _ *http.Request) (Result, error) {
		close(running)
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	p := newProxy(t, newWorld("fra-1"), "fra-1", local, newHops(), withTLS(t, ca))
	stop := run(t, p)
	failed := make(chan error)
	cl := client(t, p, ca, true)
	go func() {
		resp, err := cl.Get("https://" + testHost + "/")
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-running
	stop()
	if err := <-failed; err == nil {
		t.Error("the request has an answer")
	}
}
