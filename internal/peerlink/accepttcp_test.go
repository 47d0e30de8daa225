package peerlink

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/mutant"
)

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }

// joinerTLS is what anybody may connect with.
func joinerTLS() *tls.Config {
	return identity.JoinClientTLS(ALPNJoin, func(*x509.Certificate) error { return nil })
}

// knock opens a TCP connection to a node.
func knock(t *testing.T, to *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", to.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// bareTunnel opens a tunnel without this package's client, and waits until it was let in, if it is to be.
func bareTunnel(t *testing.T, to *Link, conf *tls.Config, letIn bool) net.Conn {
	t.Helper()
	c := tls.Client(knock(t, to), conf)
	if err := c.Handshake(); err != nil && letIn {
		t.Fatal(err)
	}
	if letIn {
		eventually(t, "the tunnel is let in", func() bool {
			return slices.ContainsFunc(to.openTunnels(), func(o *tunnel) bool { return o.remote == addrPort(c.LocalAddr()) })
		})
	}
	return c
}

// ends waits for the other side to close a connection.
func ends(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the connection stays", what)
	}
}

// stays looks for a moment whether a connection is still open.
func stays(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: %v", what, err)
	}
}

func writePacket(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
		t.Fatal(err)
	}
}

// TestSilentStranger: who does not do the handshake is not waited for.
func TestSilentStranger(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", func(c *Config) { c.HeadTimeout = 50 * time.Millisecond })
	ends(t, "nothing said", knock(t, b))
	half := knock(t, b)
	if _, err := half.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
		t.Fatal(err)
	}
	ends(t, "half a hello", half)
}

// TestManyStrangers: those who do not do the handshake take only so many places, and few from one network.
func TestManyStrangers(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", func(c *Config) { c.HeadTimeout = time.Minute })
	var in []net.Conn
	for range maxShakingFrom {
		in = append(in, knock(t, b))
	}
	ends(t, "one too many", knock(t, b))
	stays(t, "the first", in[0])
	_ = in[0].Close()
	eventually(t, "a place is free", func() bool {
		c := knock(t, b)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, os.ErrDeadlineExceeded)
	})

	d := &door{from: map[netip.Addr]int{}}
	entered := 0
	for i := range 2 * maxShaking {
		if d.enter(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) {
			entered++
		}
	}
	if entered != maxShaking {
		t.Errorf("%d of as many places as wanted may shake hands, want %d", entered, maxShaking)
	}
	d.leave(netip.AddrFrom4([4]byte{10, 0, 0, 0}))
	if !d.enter(netip.AddrFrom4([4]byte{10, 9, 9, 9})) || len(d.from) != maxShaking {
		t.Error("who leaves makes no room")
	}
}

// TestGuestTunnels: joiners and persons have few tunnels from one place, which carry QUIC only, and not for long if
// nothing passes.
func TestGuestTunnels(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", func(c *Config) { c.Join, c.MaxGuests = http.NotFoundHandler(), 8 })
	first := bareTunnel(t, b, joinerTLS(), true)
	bareTunnel(t, b, joinerTLS(), true)
	ends(t, "one too many from here", bareTunnel(t, b, joinerTLS(), false))

	writePacket(t, first, []byte{1, 2, 3})
	member := bareTunnel(t, b, m.identity("a").PeerClientTLS(ALPNControl, "b", nil), true)
	writePacket(t, member, []byte{4, 5})
	p := make([]byte, MaxPacket)
	if n, _, err := b.ReadPacket(t.Context(), p); err != nil || n != 2 {
		t.Errorf("got %d bytes, %v: want those of the member, not those of the joiner", n, err)
	}

	idle, _, _ := m.fenced("idle", func(c *Config) { c.Join, c.UnusedTimeout = http.NotFoundHandler(), 100*time.Millisecond })
	ends(t, "unused", bareTunnel(t, idle, joinerTLS(), true))
}

// TestTunnelsOfANode: a node has few tunnels, of which the quietest makes room, and nodes together have as many as
// connections.
func TestTunnelsOfANode(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", func(c *Config) { c.MaxPeers = maxTunnelsNode + 1 })
	dial := func(id perigee.NodeID, letIn bool) net.Conn {
		return bareTunnel(t, b, m.identity(id).PeerClientTLS(ALPNControl, "b", nil), letIn)
	}
	first, quiet := dial("a", true), dial("a", true)
	for range maxTunnelsNode - 2 {
		dial("a", true)
	}
	writePacket(t, first, []byte{1})
	if _, _, err := b.ReadPacket(t.Context(), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stays(t, "the quietest", quiet)
	dial("a", true)
	ends(t, "the quietest", quiet)
	dial("c", true)
	eventually(t, "the quietest is gone", func() bool { return len(b.openTunnels()) == maxTunnelsNode+1 })
	ends(t, "one node too many", dial("d", false))
	stays(t, "the others", first)
}

// TestTunnelRevoked: a node that is removed loses its tunnels and gets no others; nor does one of another cluster,
// or who offers no protocol of the mesh.
func TestTunnelRevoked(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", nil)
	conf := m.identity("a").PeerClientTLS(ALPNControl, "b", nil)
	c := bareTunnel(t, b, conf, true)
	b.Recheck()
	stays(t, "before", c)
	m.revoke("a")
	b.Recheck()
	ends(t, "after", c)
	ends(t, "again", bareTunnel(t, b, conf, false))
	other := newMesh(t)
	ends(t, "another cluster", bareTunnel(t, b, other.identity("a").PeerClientTLS(ALPNControl, "", nil), false))
	for _, alpn := range []string{ALPNJoin, ALPNAdmin, "h2"} { // which b does not offer
		conf = joinerTLS()
		conf.NextProtos = []string{alpn}
		ends(t, alpn, bareTunnel(t, b, conf, false))
	}
	if n := len(b.openTunnels()); n != 0 {
		t.Errorf("%d tunnels are open", n)
	}
}

// TestTunnelFormat: what is no packet ends the tunnel, and so does who takes nothing of what is written.
func TestTunnelFormat(t *testing.T) {
	m := newMesh(t)
	b, _, _ := m.fenced("b", func(c *Config) { c.IdleTimeout, c.KeepAlive = 200*time.Millisecond, 50*time.Millisecond })
	conf := m.identity("a").PeerClientTLS(ALPNControl, "b", nil)
	c := bareTunnel(t, b, conf, true)
	writePacket(t, c, make([]byte, MaxPacket))
	stays(t, "the longest", c)
	writePacket(t, c, make([]byte, MaxPacket+1))
	ends(t, "too long", c)

	deaf := bareTunnel(t, b, conf, true)
	defer deaf.Close()
	var tun *tunnel
	for _, tun = range b.openTunnels() {
	}
	for dropped := false; !dropped; { // as much as the kernel takes for who does not read
		for range tunnelQueue {
			tun.send(make([]byte, MaxPacket))
		}
		select {
		case <-tun.done:
			dropped = true
		case <-time.After(5 * time.Millisecond):
		}
		dropped = dropped || len(tun.out) == tunnelQueue
	}
	select {
	case <-tun.done:
	case <-time.After(20 * time.Second):
		t.Error("who takes nothing keeps the tunnel")
	}
}

// TestTunnelMoved: what is new goes to the process that took over, on another tunnel; what runs goes on.
func TestTunnelMoved(t *testing.T) {
	m := newMesh(t)
	a, fence, _ := m.fenced("a", func(c *Config) { c.RetryUDP = time.Hour })
	goOn := make(chan struct{})
	end := sync.OnceFunc(func() { close(goOn) })
	defer end()
	old, _, _ := m.fenced("b", func(c *Config) {
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			<-goOn
			_, _ = io.WriteString(w, "old")
		})
	})
	fence.up.Store(true)
	resp, err := a.RoundTripHop("b", request(t, "GET", "http://f/", ""))
	if err != nil {
		t.Fatal(err)
	}
	at := old.Addr()
	old.Moved()
	m.fenced("b", func(c *Config) {
		_ = c.TCP.Close()
		if c.TCP, err = net.Listen("tcp", at.String()); err != nil {
			t.Fatal(err)
		}
		c.Hops = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "new") })
	})
	m.setAddr("b", at)
	eventually(t, "a hears of it", func() bool { tun, tcp := a.paths.tunnel(at); return tcp && tun == nil })
	if _, got := hopOK(t, a, "b", request(t, "GET", "http://f/", "")); got != "new" {
		t.Errorf("a new request is answered by %q", got)
	}
	end()
	if got := readBody(t, resp); got != "old" {
		t.Errorf("the request that ran is answered by %q", got)
	}
}
