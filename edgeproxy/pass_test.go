package edgeproxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// tap is a mesh that keeps all that passes.
type tap struct {
	*fakeMesh
	mu   sync.Mutex
	seen bytes.Buffer
}

func (m *tap) RoundTrip(ctx context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	r.Body = &tapped{r.Body, m}
	resp, load, err := m.fakeMesh.RoundTrip(ctx, to, r)
	if err == nil {
		resp.Body = &tapped{resp.Body, m}
	}
	return resp, load, err
}

type tapped struct {
	io.ReadCloser
	m *tap
}

func (t *tapped) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.m.seen.Write(b[:n])
	return n, err
}

// passWorld is a gateway in Washington and two in Europe, where the function resides.
type passWorld struct {
	*world
	ca      *testCA
	mesh    *tap
	outside *Proxy
	inside  map[perigee.NodeID]*Proxy
	local   *fakeLocal // of all
	keys    string     // where the outer gateway would keep keys
	access  *lockedBuffer
}

// lockedBuffer is written to by a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newPassWorld(t *testing.T, local *fakeLocal, edits ...func(*Config)) *passWorld {
	t.Helper()
	w := &passWorld{
		world: newWorld("wdc-1:absent", "fra-1", "ams-1"), ca: newCA(t), mesh: &tap{fakeMesh: newMesh()}, local: local,
		inside: map[perigee.NodeID]*Proxy{}, keys: t.TempDir(), access: &lockedBuffer{},
	}
	for _, id := range []perigee.NodeID{"wdc-1", "fra-1", "ams-1"} {
		w.changeNode(id, func(p *perigee.Peer) { p.HTTPS = "127.0.0.1:443" })
	}
	w.change(func(m *perigee.Manifest) { m.Placement.Residency = []string{"eu"} })
	sender := func(*http.Request) (perigee.NodeClaims, bool) {
		return perigee.NodeClaims{ID: "wdc-1", Region: "wdc"}, true
	}
	tls := func(c *Config) { c.Peer = sender }
	w.outside = newProxy(t, w.world, "wdc-1", local, w.mesh, append([]func(*Config){withH3(t, w.ca), tls, func(c *Config) { c.CertDir, c.AccessLog = w.keys, w.access }}, edits...)...)
	for _, id := range []perigee.NodeID{"fra-1", "ams-1"} {
		w.inside[id] = newProxy(t, w.world, string(id), local, w.mesh, append([]func(*Config){withH3(t, w.ca), tls}, edits...)...)
		w.mesh.add(id, w.inside[id])
		run(t, w.inside[id])
	}
	w.mesh.add("wdc-1", w.outside)
	run(t, w.outside)
	return w
}

// TestPassedOn: a gateway outside the residency answers its clients by passing their connections on. It has
// no key for the host, and sees nothing of what they say.
func TestPassedOn(t *testing.T) {
	const secret = "the-plaintext-of-a-client"
	big := make([]byte, 1<<20)
	_, _ = rand.Read(big)
	w := newPassWorld(t, newLocal(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Seen-From", r.Header.Get(headerFor))
		rw.Header().Set("Seen-Region", r.Header.Get(headerClientRegion))
		rw.Header().Set("Ran-In", r.Header.Get(headerRegion))
		_, _ = io.Copy(rw, r.Body)
	}))
	for _, h2 := range []bool{false, true} {
		c := client(t, w.outside, w.ca, h2)
		for i := range 3 { // one connection
			sent := append([]byte(secret), big...)
			resp, body := do(t, c, newRequest(t, "POST", "https://"+testHost+"/?"+secret, bytes.NewReader(sent)))
			if resp.StatusCode != 200 || body != string(sent) {
				t.Fatalf("h2 %v, request %d: %s, %d bytes of %d", h2, i, resp.Status, len(body), len(sent))
			}
			r := receiptOf(t, resp.Header)
			if r.Via != "wdc" || r.Entry == "wdc" || r.Entry == "" {
				t.Errorf("receipt: via %q, entry %q", r.Via, r.Entry)
			}
			if region := resp.Header.Get("Seen-Region"); region != "wdc" {
				t.Errorf("a client on this machine, which the gateway in wdc took, counts as in %q", region)
			}
			if from, ran := resp.Header.Get("Seen-From"), resp.Header.Get("Ran-In"); from != "127.0.0.1" || ran == "wdc" {
				t.Errorf("the function saw a client at %q, and ran in %q", from, ran)
			}
			if a := resp.Header.Get("Alt-Svc"); a != "" {
				t.Errorf("HTTP/3 is offered: %q", a)
			}
			if (resp.ProtoMajor == 2) != h2 {
				t.Errorf("protocol %s", resp.Proto)
			}
		}
	}
	w.mesh.mu.Lock()
	seen := w.mesh.seen.String()
	w.mesh.mu.Unlock()
	if len(seen) < 6*2<<20 || strings.Contains(seen, secret) || strings.Contains(seen, "HTTP/1.1") || !strings.Contains(seen, testHost) {
		t.Errorf("of %d bytes on the way, plaintext is seen, or not even the server name", len(seen))
	}
	if err := filepath.WalkDir(w.keys, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "last_clean.json" {
			t.Errorf("the gateway outside has %s", path)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if log := w.access.String(); log != "" {
		t.Errorf("the gateway outside logs %s", log)
	}
	// Over QUIC nothing is passed on, so nothing is offered.
	_, err := quic.DialAddr(t.Context(), w.outside.cfg.OnHTTP3.LocalAddr().String(),
		&tls.Config{RootCAs: w.ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("HTTP/3 at the gateway outside: %v", err)
	}
	// Without TLS there is only the way to it.
	resp, _ := do(t, client(t, w.outside, w.ca, false), newRequest(t, "GET", "http://"+testHost+"/a?b=c", nil))
	if resp.StatusCode != 308 || resp.Header.Get("Location") != "https://"+testHost+"/a?b=c" {
		t.Errorf("without TLS: %s to %q", resp.Status, resp.Header.Get("Location"))
	}
	equal(t, "runs", w.local.runs.Load(), 6)
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// splitter sends the first record, which is the ClientHello, as many records, each in segments of its own.
type splitter struct {
	net.Conn
	size int
	once sync.Once
}

func (c *splitter) Write(b []byte) (n int, err error) {
	split := false
	c.once.Do(func() { split = true })
	if !split {
		return c.Conn.Write(b)
	}
	for body := b[5:]; len(body) > 0; {
		part := body[:min(c.size, len(body))]
		body = body[len(part):]
		record := append([]byte{b[0], b[1], b[2], 0, 0}, part...)
		binary.BigEndian.PutUint16(record[3:], uint16(len(part)))
		for _, half := range [][]byte{record[:3], record[3:]} {
			if _, err := c.Conn.Write(half); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

// TestSplitHello: a ClientHello is found however it is cut, also a large one with post-quantum keys.
func TestSplitHello(t *testing.T) {
	w := newPassWorld(t, newLocal(greet))
	addr, _ := w.outside.Addrs()
	for _, size := range []int{1, 7, 300, 16 << 10} {
		for _, curves := range [][]tls.CurveID{{tls.X25519MLKEM768, tls.X25519}, {tls.X25519}} {
			conn, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.(*net.TCPConn).SetNoDelay(true)
			c := tls.Client(&splitter{Conn: conn, size: size}, &tls.Config{RootCAs: w.ca.pool(), ServerName: testHost, CurvePreferences: curves})
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", testHost)
			answer, err := io.ReadAll(c)
			if err != nil || !strings.Contains(string(answer), "hello from ") || !strings.Contains(string(answer), "via=wdc") {
				t.Errorf("records of %d bytes, %v: %v, %q", size, curves, err, answer)
			}
			conn.Close()
		}
	}
}

// TestHelloLimits: what never becomes a ClientHello is neither waited for nor kept.
func TestHelloLimits(t *testing.T) {
	p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), withTLS(t, newCA(t)))
	p.sorter.limit = 50 * time.Millisecond
	run(t, p)
	addr, _ := p.Addrs()
	ends := func(what string, send func(net.Conn)) string {
		t.Helper()
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		send(conn)
		b, err := io.ReadAll(conn)
		if err, ok := err.(net.Error); ok && err.Timeout() {
			t.Errorf("%s: the connection stays", what)
		}
		return string(b)
	}
	ends("silence", func(net.Conn) {})
	ends("half a hello", func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 2, 0, 1, 0}) })
	if got := ends("HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }); !strings.Contains(got, "400 Bad Request") {
		t.Errorf("HTTP without TLS: %q", got)
	}
	ends("a hello without an end", func(c net.Conn) {
		hello := []byte{1, 0, 0xff, 0xff} // of 64 KiB, a byte a record
		for i := range 64 << 10 {
			b := byte(0)
			if i < len(hello) {
				b = hello[i]
			}
			if _, err := c.Write([]byte{22, 3, 1, 0, 1, b}); err != nil {
				return
			}
		}
	})
}

// endless is a client that sends a byte of a hello a record, as long as somebody reads.
type endless struct {
	net.Conn
	at int
}

func (c *endless) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, io.ErrNoProgress
	}
	p[0] = [...]byte{22, 3, 1, 0, 1, 0}[c.at%6]
	if c.at == 5 {
		p[0] = 1 // a ClientHello of no bytes would end with its fourth
	}
	if c.at == 5+2*6 {
		p[0] = 0xff
	}
	c.at++
	return 1, nil
}

// TestEndlessHello: no more is read of what does not become a ClientHello than one may have.
func TestEndlessHello(t *testing.T) {
	c := &endless{}
	if _, read, ok, err := readHello(c); ok || !errors.Is(err, errLongHello) || len(read) > maxHello {
		t.Errorf("read %d bytes, %v, %v", len(read), ok, err)
	}
}

// TestNextGateway: a gateway that does not take a connection costs nothing but time; with none left, TLS
// itself says that it failed.
func TestNextGateway(t *testing.T) {
	w := newPassWorld(t, newLocal(greet))
	get := func() (string, error) {
		c := client(t, w.outside, w.ca, false)
		resp, err := c.Get("https://" + testHost + "/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	first, err := get()
	if err != nil {
		t.Fatal(err)
	}
	near := perigee.NodeID(strings.TrimPrefix(first, "hello from ") + "-1")
	w.mesh.kill(near)
	if got, err := get(); err != nil || got == first {
		t.Errorf("with %s gone: %q, %v", near, got, err)
	}
	w.mesh.kill("fra-1")
	w.mesh.kill("ams-1")
	if got, err := get(); err == nil || !strings.Contains(err.Error(), "remote error: tls: internal error") {
		t.Errorf("with all gone: %q, %v", got, err)
	}
	equal(t, "runs", w.local.runs.Load(), 2)
}

// TestTakes: a gateway takes what members pass on for hosts that are its own, and passes nothing on twice.
func TestTakes(t *testing.T) {
	w := newPassWorld(t, newLocal(greet))
	pass := func(p *Proxy, host, client string) perigee.RefuseCode {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		r := hopRequest().WithContext(ctx)
		r.Method, r.Host = http.MethodPost, host
		r.Header = http.Header{hopPass: {client}}
		rec, _ := sendHop(p, r)
		return rec.refused
	}
	const client = "198.51.100.7:1234"
	fra := w.inside["fra-1"]
	w.outside.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{ID: "syd-1"}, true }
	equal(t, "outside, from a node that believes otherwise", pass(w.outside, testHost, client), perigee.RefusedNotAllowed)
	equal(t, "an unknown host", pass(fra, "other.example.com", client), perigee.RefusedNotHere)
	equal(t, "no client", pass(fra, testHost, "somebody"), perigee.RefusedNotAllowed)
	fra.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{}, false }
	equal(t, "no member", pass(fra, testHost, client), perigee.RefusedNotAllowed)
	fra.cfg.Peer = func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{ID: "fra-1"}, true }
	equal(t, "itself", pass(fra, testHost, client), perigee.RefusedNotAllowed)
	ams := w.inside["ams-1"]
	ams.census.most = 0
	equal(t, "too many connections", pass(ams, testHost, client), perigee.RefusedOverloaded)
	ams.census.most, ams.census.perHost = 10, 0
	equal(t, "too many of this client", pass(ams, testHost, client), perigee.RefusedOverloaded)
	ams.draining.Store(true)
	equal(t, "draining", pass(ams, testHost, client), perigee.RefusedDraining)
	equal(t, "connections still counted", ams.census.total, 0)
}

// TestKeysLeave: a residency that comes later takes the key with it.
func TestKeysLeave(t *testing.T) {
	w := newPassWorld(t, newLocal(greet))
	w.change(func(m *perigee.Manifest) { m.Placement.Residency = nil })
	resp, _ := do(t, client(t, w.outside, w.ca, false), newRequest(t, "GET", "https://"+testHost+"/", nil))
	equal(t, "via", receiptOf(t, resp.Header).Via, "")
	count := func() (n int) {
		_ = filepath.WalkDir(w.keys, func(_ string, d os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(d.Name(), ".key") {
				n++
			}
			return nil
		})
		return n
	}
	equal(t, "keys before", count(), 1)
	w.change(func(m *perigee.Manifest) { m.Placement.Residency = []string{"eu"} })
	eventually(t, "the key is deleted", func() bool { return count() == 0 })
	if w.outside.certs.cached(testHost) {
		t.Error("the key stays in memory")
	}
	resp, _ = do(t, client(t, w.outside, w.ca, false), newRequest(t, "GET", "https://"+testHost+"/", nil))
	equal(t, "via", receiptOf(t, resp.Header).Via, "wdc")
}

// TestPassedDrain: a drain of the gateway outside waits for what it passes on.
func TestPassedDrain(t *testing.T) {
	running, release := make(chan struct{}), make(chan struct{})
	w := newPassWorld(t, newLocal(func(rw http.ResponseWriter, r *http.Request) {
		close(running)
		<-release
		_, _ = io.WriteString(rw, "done")
	}))
	got := make(chan string)
	go func() {
		c := client(t, w.outside, w.ca, false)
		r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		r.Close = true
		resp, err := c.Do(r)
		if err != nil {
			got <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		got <- string(b)
	}()
	<-running
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.outside.Drain(ctx); err == nil {
		t.Error("drained while a connection is passed on")
	}
	close(release)
	equal(t, "answer", <-got, "done")
	if err := w.outside.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}
