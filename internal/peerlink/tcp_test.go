package peerlink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// fence is a UDP socket behind a firewall that drops its packets, in both directions, while it is up.
type fence struct {
	net.PacketConn
	up atomic.Bool
}

// ReadFrom implements net.PacketConn.
func (f *fence) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := f.PacketConn.ReadFrom(b)
		if err != nil || !f.up.Load() {
			return n, from, err
		}
	}
}

// WriteTo implements net.PacketConn.
func (f *fence) WriteTo(b []byte, to net.Addr) (int, error) {
	if f.up.Load() {
		return len(b), nil
	}
	return f.PacketConn.WriteTo(b, to)
}

// bothPorts returns a UDP socket behind a fence and a TCP listener on one port.
func bothPorts(t testing.TB) (*fence, net.Listener) {
	t.Helper()
	for range 100 {
		udp := listenUDP(t)
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return &fence{PacketConn: udp}, tcp
		}
		_ = udp.Close() // another process has the number over TCP
	}
	t.Fatal("no port is free over UDP and TCP")
	return nil, nil
}

// fenced is a node with both ports. What it retries it retries soon.
func (m *mesh) fenced(id perigee.NodeID, change func(*Config)) (*Link, *fence, func()) {
	m.t.Helper()
	f, tcp := bothPorts(m.t)
	l, stop := m.node(id, func(c *Config) {
		c.Socket, c.TCP, c.RetryUDP = f, tcp, 20*time.Millisecond
		c.Hops, c.Control = http.HandlerFunc(echo), http.HandlerFunc(echo)
		if change != nil {
			change(c)
		}
	})
	return l, f, stop
}

func echo(w http.ResponseWriter, r *http.Request) {
	if a, ok := w.(Responder); ok {
		a.Accept(perigee.Load{Slots: 3})
	}
	_, _ = io.Copy(w, r.Body)
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// exchanged sends everything that the mesh carries from a node to another.
func exchanged(t *testing.T, from, to *Link, id perigee.NodeID) {
	t.Helper()
	body := strings.Repeat("through the fence ", 10000)
	for what, send := range map[string]func(*http.Request) (*http.Response, error){
		"hop":     func(r *http.Request) (*http.Response, error) { return from.RoundTripHop(id, r) },
		"control": from.Control(id).RoundTrip,
	} {
		resp, err := send(request(t, "POST", "http://f/", body))
		if err != nil {
			t.Fatalf("%s to %s: %v", what, id, err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != body {
			t.Fatalf("%s to %s: %d bytes, %v", what, id, len(got), err)
		}
		_ = resp.Body.Close()
	}
	raw, err := from.DialRaw(t.Context(), to.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(raw, "raw"); err != nil {
		t.Fatal(err)
	}
	_ = raw.Close()
	conn, _, err := to.AcceptRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "raw" || err != nil {
		t.Fatalf("raw stream: %q %v", got, err)
	}
	_ = conn.Close()
	packetArrives(t, from, to)
}

// packetArrives sends membership packets until one arrives.
func packetArrives(t *testing.T, from, to *Link) {
	t.Helper()
	b := make([]byte, MaxPacket)
	until(t, "a packet arrives", func() bool {
		if err := from.WritePacket([]byte{1, 2, 3}, to.Addr()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		n, _, err := to.ReadPacket(ctx, b)
		return err == nil && n == 3
	})
}

// TestFallback: a node whose UDP is dropped reaches another over TCP and is reached by it, with all that the mesh
// carries; when UDP gets through again, it is used again, and no request fails meanwhile.
func TestFallback(t *testing.T) {
	m := newMesh(t)
	a, fence, _ := m.fenced("a", nil)
	b, _, _ := m.fenced("b", nil)
	fence.up.Store(true)
	exchanged(t, a, b, "b")
	exchanged(t, b, a, "a")
	if a.Over("b") != "tcp" || b.Over("a") != "tcp" {
		t.Errorf("a reaches b over %q, b a over %q, want tcp", a.Over("b"), b.Over("a"))
	}
	fence.up.Store(false)
	until(t, "back on UDP", func() bool {
		for from, id := range map[*Link]perigee.NodeID{a: "b", b: "a"} {
			resp, err := from.RoundTripHop(id, request(t, "GET", "http://f/", ""))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		}
		return a.Over("b") == "udp" && b.Over("a") == "udp"
	})
	exchanged(t, a, b, "b")
	exchanged(t, b, a, "a")
}

// TestFallbackReachesOnlyOut: one tunnel serves both directions, so that a node which nobody reaches from outside,
// by UDP or TCP, is reached on the tunnel that it opened.
func TestFallbackReachesOnlyOut(t *testing.T) {
	m := newMesh(t)
	a, fence, _ := m.fenced("a", func(c *Config) {
		_ = c.TCP.Close()
		c.TCP, _ = net.Listen("tcp", "127.0.0.1:0") // not where others think it is
	})
	b, _, _ := m.fenced("b", nil)
	fence.up.Store(true)
	exchanged(t, a, b, "b")
	exchanged(t, b, a, "a")
}

// TestUDPStays: where UDP gets through no tunnel is opened, and a peer that refuses says so once.
func TestUDPStays(t *testing.T) {
	m := newMesh(t)
	a, _, _ := m.fenced("a", nil)
	b, _, _ := m.fenced("b", nil)
	exchanged(t, a, b, "b")
	exchanged(t, b, a, "a")
	if a.Over("b") != "udp" || len(b.openTunnels()) != 0 {
		t.Errorf("over %s with %d tunnels", a.Over("b"), len(b.openTunnels()))
	}
	m.revoke("a")
	b.Recheck()
	until(t, "the refusal arrives", func() bool {
		_, err := a.Control("b").RoundTrip(request(t, "GET", "http://f/", ""))
		return errors.Is(err, ErrIdentityRefused)
	})
}

// TestNeitherWay: the error names both.
func TestNeitherWay(t *testing.T) {
	m := newMesh(t)
	a, _, _ := m.fenced("a", func(c *Config) { c.DialTimeout = 500 * time.Millisecond })
	gone, tcp := bothPorts(t)
	m.setAddr("b", addrPort(gone.LocalAddr()))
	_, _ = gone.Close(), tcp.Close()
	_, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	var he *perigee.HopError
	if !errors.As(err, &he) || he.Code != perigee.RefusedUnreachable || !strings.Contains(err.Error(), "over TCP") {
		t.Errorf("got %v", err)
	}
}

// TestPathHold: each time that UDP fails it is left alone for longer, also if it worked for a moment in between,
// until it has worked for long.
func TestPathHold(t *testing.T) {
	addr, now := netip.MustParseAddrPort("192.0.2.1:7443"), time.Now()
	p := paths{first: 5 * time.Second, m: map[netip.AddrPort]*path{}}
	tun := &tunnel{done: make(chan struct{})}
	hold := func() time.Duration {
		t.Helper()
		d := time.Duration(0)
		for len(p.due(now.Add(d))) == 0 {
			d += time.Second
		}
		now = now.Add(d)
		return d
	}
	if !p.blocked(addr, tun, now) || p.blocked(addr, tun, now) {
		t.Error("only the first time is news")
	}
	for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
		if d := hold(); d != want*time.Second {
			t.Errorf("UDP is tried again after %v, want %v s", d, int64(want))
		}
		p.stillBlocked(addr, now)
	}
	p.hint(addr, now)
	if d := hold(); d != 0 {
		t.Errorf("a peer that came over UDP is tried over it after %v", d)
	}
	p.stillBlocked(addr, now)
	if d := hold(); d != maxHold {
		t.Errorf("and after that in vain, after %v", d)
	}
	if !p.open(addr, now) || p.open(addr, now) {
		t.Error("only the first time is news")
	}
	if _, tcp := p.tunnel(addr); tcp {
		t.Error("still over TCP")
	}
	now = now.Add(calm - time.Second)
	p.blocked(addr, tun, now)
	if d := hold(); d != maxHold {
		t.Errorf("UDP that came for a moment is tried again after %v", d)
	}
	p.open(addr, now)
	p.due(now.Add(calm))
	p.blocked(addr, tun, now.Add(calm))
	now = now.Add(calm)
	if d := hold(); d != 5*time.Second {
		t.Errorf("trouble long after the last is tried again after %v", d)
	}
	close(tun.done)
	p.stillBlocked(addr, now)
	if len(p.m) != 0 || p.any.Load() {
		t.Error("a path that leads nowhere is remembered")
	}
}

// TestHeadStart: a peer that UDP did not reach lately is reached without the wait for it.
func TestHeadStart(t *testing.T) {
	m := newMesh(t)
	a, fence, _ := m.fenced("a", func(c *Config) { c.RetryUDP = time.Hour })
	b, _, _ := m.fenced("b", nil)
	fence.up.Store(true)
	hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
	quickest := time.Hour
	for range 20 { // a busy machine may be late, but not each time
		a.Disconnect("b")
		began := time.Now()
		hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
		quickest = min(quickest, time.Since(began))
	}
	if quickest >= headStart {
		t.Errorf("connecting again took %v", quickest)
	}
	_ = b
}

// TestSilentRaw: a connection whose peer is silent when the membership protocol opens a stream is left for another
// way, long before it times out.
func TestSilentRaw(t *testing.T) {
	m := newMesh(t)
	a, fence, _ := m.fenced("a", func(c *Config) { c.AcceptFloor, c.RetryUDP = 50*time.Millisecond, time.Hour })
	b, _, _ := m.fenced("b", nil)
	raw, err := a.DialRaw(t.Context(), b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Close()
	fence.up.Store(true)
	eventually(t, "streams go over TCP", func() bool {
		raw, err := a.DialRaw(t.Context(), b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		return tunnelOf(raw.(*rawConn).conn.q) != nil
	})
}

// TestUDPRefuses: who is refused over UDP does not ask again over TCP.
func TestUDPRefuses(t *testing.T) {
	m := newMesh(t)
	a, _, _ := m.fenced("a", nil)
	f, tcp := bothPorts(t)
	m.setAddr("b", addrPort(f.LocalAddr()))
	other := newMesh(t)
	l, err := New(Config{Socket: f, Identity: other.identity("b"), Addr: other.addr, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	asked := make(chan bool, 1)
	go func() {
		c, err := tcp.Accept()
		if err == nil {
			_ = c.Close()
		}
		asked <- err == nil
	}()
	if _, err := a.RoundTripHop("b", request(t, "GET", "http://f/", "")); err == nil {
		t.Error("a node of another cluster is trusted")
	}
	_ = tcp.Close()
	if <-asked {
		t.Error("it was asked over TCP, too")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestClientOverTCP: a joiner and a person whose UDP is dropped come in over TCP; the joiner is found over it, too.
func TestClientOverTCP(t *testing.T) {
	m := newMesh(t)
	b, fence, _ := m.fenced("b", func(c *Config) { c.Join = http.HandlerFunc(echo) })
	joiner, port := bothPorts(t)
	defer port.Close()
	defer joiner.Close()
	for _, up := range []bool{true, false} {
		fence.up.Store(up)
		c, err := DialOn(t.Context(), joiner, port, b.Addr().String(), joinerTLS())
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(request(t, "POST", "http://b/", "hello"))
		if err != nil || readBody(t, resp) != "hello" || c.OverTCP() != up {
			t.Errorf("fence up is %v: %v, over TCP is %v", up, err, c.OverTCP())
		}
		if err := b.Reach(t.Context(), addrPort(joiner.LocalAddr())); err != nil || !c.Probed() {
			t.Errorf("fence up is %v: reach: %v, probed %v", up, err, c.Probed())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	fence.up.Store(true)
	_ = port.Close()
	if err := b.Reach(t.Context(), addrPort(joiner.LocalAddr())); err == nil || !strings.Contains(err.Error(), "TCP port") {
		t.Errorf("nobody answers: %v", err)
	}
}
