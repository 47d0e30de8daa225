package wan

import (
	"net"
	"sync"
	"testing"
	"time"
)

// ether is a network in memory without any delay, for fake time.
type ether struct {
	mu    sync.Mutex
	ports map[string]*port
}

// port is one socket of an ether.
type port struct {
	ether  *ether
	addr   *net.UDPAddr
	in     chan datagram
	closed chan struct{}
	once   sync.Once
}

type datagram struct {
	data string
	from net.Addr
}

func newEther() *ether { return &ether{ports: map[string]*port{}} }

func (e *ether) listen(t *testing.T, addr string) *port {
	t.Helper()
	u, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &port{ether: e, addr: u, in: make(chan datagram, 2*maxPackets), closed: make(chan struct{})}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ports[u.String()] = p
	return p
}

func (p *port) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
	}
	p.ether.mu.Lock()
	dst := p.ether.ports[to.String()]
	p.ether.mu.Unlock()
	if dst != nil {
		dst.in <- datagram{string(b), p.addr}
	}
	return len(b), nil
}

func (p *port) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.in:
		return copy(b, d.data), d.from, nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *port) LocalAddr() net.Addr              { return p.addr }
func (p *port) SetDeadline(time.Time) error      { return nil }
func (p *port) SetReadDeadline(time.Time) error  { return nil }
func (p *port) SetWriteDeadline(time.Time) error { return nil }

func send(t *testing.T, c net.PacketConn, to net.PacketConn, text string) {
	t.Helper()
	if n, err := c.WriteTo([]byte(text), to.LocalAddr()); n != len(text) || err != nil {
		t.Fatalf("send %.40q: %d, %v", text, n, err)
	}
}

func receive(t *testing.T, c net.PacketConn) string {
	t.Helper()
	b := make([]byte, 1<<16)
	n, _, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}
