package peerlink

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee/internal/identity"
)

func TestPackets(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", nil)
	eventually(t, "sockets are open", func() bool {
		return a.WritePacket([]byte{1}, b.Addr()) == nil && b.WritePacket([]byte{1}, a.Addr()) == nil
	})
	long := bytes.Repeat([]byte{7}, MaxPacket)
	// The reading of packets starts a moment after the socket opens; they are not reliable anyway.
	got, buf := make(chan error, 1), make([]byte, MaxPacket)
	go func() {
		for {
			n, from, err := b.ReadPacket(t.Context(), buf)
			if n == 1 {
				continue
			}
			if err == nil && (!bytes.Equal(buf[:n], long) || from != a.Addr()) {
				err = fmt.Errorf("got %d bytes from %v", n, from)
			}
			got <- err
			return
		}
	}()
	for received := false; !received; {
		if err := a.WritePacket(long, b.Addr()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-got:
			if received = true; err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestPacketErrors(t *testing.T) {
	m := newMesh(t)
	a, stop := m.node("a", nil)
	to := netip.MustParseAddrPort("127.0.0.1:9")
	eventually(t, "socket is open", func() bool { return a.WritePacket([]byte{1}, to) == nil })
	bad := map[string][]byte{
		"empty": {}, "too long": make([]byte, MaxPacket+1), "like QUIC": {0x40}, "like a long header": {0x80}, "like a probe": []byte("?pg!"),
	}
	for name, b := range bad {
		isOpError(t, name, a.WritePacket(b, to))
	}
	isOpError(t, "wrong family", a.WritePacket([]byte{1}, netip.AddrPort{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := a.ReadPacket(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	stop()
	isOpError(t, "after the end", a.WritePacket([]byte{1}, to))
	if _, _, err := a.ReadPacket(t.Context(), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after the end: %v", err)
	}
}

func isOpError(t *testing.T, name string, err error) {
	t.Helper()
	if op, ok := err.(*net.OpError); !ok || op.Op != "write" || !strings.HasPrefix(op.Net, "udp") {
		t.Errorf("%s: got %#v", name, err)
	}
}

func TestPacketQueueIsBounded(t *testing.T) {
	m := newMesh(t)
	reg := prometheus.NewRegistry()
	a, _ := m.node("a", nil)
	b, _ := m.node("b", func(c *Config) { c.PacketQueue, c.Metrics = 4, NewMetrics(reg) })
	eventually(t, "packets are dropped", func() bool {
		_ = a.WritePacket([]byte{1}, b.Addr())
		return metricSum(t, reg, "packets_total", "dropped") > 0
	})
	if n := len(b.packets); n != 4 {
		t.Errorf("%d packets queued", n)
	}
}

func TestRaw(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", nil)
	out, err := a.DialRaw(t.Context(), b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(out, "push"); err != nil {
		t.Fatal(err)
	}
	in, peer, err := b.AcceptRaw(t.Context())
	if err != nil || peer.ID != "a" {
		t.Fatal(peer, err)
	}
	if addrPort(in.RemoteAddr()) != a.Addr() || addrPort(out.RemoteAddr()) != b.Addr() || addrPort(in.LocalAddr()).Port() != b.Addr().Port() {
		t.Errorf("addresses %v %v %v", in.RemoteAddr(), out.RemoteAddr(), in.LocalAddr())
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(in, buf); err != nil || string(buf) != "push" {
		t.Fatalf("%q %v", buf, err)
	}
	long := strings.Repeat("pull ", 100<<10)
	go func() {
		_, _ = io.WriteString(in, long)
		_ = in.Close()
	}()
	got, err := io.ReadAll(out)
	if string(got) != long || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := errors.Join(out.Close(), out.Close()); err != nil {
		t.Error(err)
	}
	if _, err := out.Write([]byte("x")); err == nil {
		t.Error("write after close")
	}
	eventually(t, "streams are freed", func() bool { return inUse(a) == 0 && inUse(b) == 0 })
}

func TestRawDeadlineAndClose(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", nil)
	out, err := a.DialRaw(t.Context(), b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	in, _, err := b.AcceptRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = out.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	_, err = out.Read(make([]byte, 1))
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	_ = out.SetDeadline(time.Time{})
	wrote := make(chan error, 1)
	go func() { // fills the windows, since nobody reads
		_, err := io.Copy(out, zeros{})
		wrote <- err
	}()
	time.AfterFunc(20*time.Millisecond, func() { _ = out.Close() })
	if err := <-wrote; err == nil {
		t.Error("write went on after close")
	}
	_ = in.SetWriteDeadline(time.Now().Add(time.Minute))
	_ = in.Close()
	eventually(t, "streams are freed", func() bool { return inUse(a) == 0 && inUse(b) == 0 })
}

func TestRawQueueIsBounded(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", nil)
	b, _ := m.node("b", func(c *Config) { c.RawQueue = 1 })
	var conns []net.Conn
	for range 2 {
		c, err := a.DialRaw(t.Context(), b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		defer c.Close()
		eventually(t, "queued", func() bool { return len(b.raws) == 1 })
	}
	var se *StreamError
	if _, err := conns[1].Read(make([]byte, 1)); !errors.As(err, &se) || se.Code != ResetOverloaded {
		t.Errorf("one more: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, _, err := b.AcceptRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if _, _, err := b.AcceptRaw(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("accept: %v", err)
	}
}

func TestDialRawUnreachable(t *testing.T) {
	m := newMesh(t)
	a, _ := m.node("a", func(c *Config) { c.DialTimeout = 50 * time.Millisecond })
	if _, err := a.DialRaw(t.Context(), netip.MustParseAddrPort("127.0.0.1:9")); err == nil {
		t.Error("no error")
	}
}

// TestJoinerAnswersProbes shows the dial-back: the joiner talks from the socket that it will serve
// on, and the node reaches it there while the join is under way.
func TestJoinerAnswersProbes(t *testing.T) {
	m := newMesh(t)
	var b *Link
	ready := make(chan struct{})
	b, _ = m.node("b", func(c *Config) {
		c.Join = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-ready
			addr := netip.MustParseAddrPort(r.URL.Query().Get("addr"))
			if err := b.Reach(r.Context(), addr); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		})
	})
	close(ready)
	socket := listenUDP(t)
	c, err := DialOn(t.Context(), socket, nil, b.Addr().String(), identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(request(t, "POST", "http://b/?addr="+socket.LocalAddr().String(), ""))
	if err != nil {
		t.Fatal(err)
	}
	if body := readBody(t, resp); resp.StatusCode != 200 {
		t.Errorf("not reached: %s %s", resp.Status, body)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// The socket is still good, and becomes the new node's.
	n, _ := m.node("new", func(cfg *Config) { cfg.Socket = socket })
	if err := n.Reach(t.Context(), b.Addr()); err != nil {
		t.Error(err)
	}
	if err := b.Reach(t.Context(), n.Addr()); err != nil {
		t.Error(err)
	}
}

func TestProbesAreBounded(t *testing.T) {
	var answers int
	p := newProber(func(b []byte, _ net.Addr) (int, error) {
		if len(b) != probeSize {
			t.Errorf("answer of %d bytes", len(b))
		}
		answers++
		return len(b), nil
	}, func() {})
	ask := encodeProbe(probeAsk, probeNonce{1})
	for range 10 * probeRate {
		p.handle(ask, nil)
	}
	if answers < probeRate || answers > 2*probeRate {
		t.Errorf("%d answers to %d probes in a moment", answers, 10*probeRate)
	}
	answers = 0
	for _, b := range [][]byte{nil, ask[:10], append(ask, 0), encodeProbe(9, probeNonce{}), encodeProbe(probeEcho, probeNonce{})} {
		p.handle(b, nil)
	}
	if answers != 0 {
		t.Error("answered a malformed probe")
	}
}
