package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	packetQueue = 1024
	packetSize  = 64 << 10
	maxStreams  = 64              // that members may have open to this node
	maxDial     = 3 * time.Second // a handshake across the planet, with a loss
	retryRead   = 50 * time.Millisecond
)

// transport carries memberlist's packets and streams over the mesh.
type transport struct {
	mesh      Mesh
	advertise netip.AddrPort
	packets   chan *memberlist.Packet // written by readPackets only; never closed
	streams   chan net.Conn           // written by acceptStreams only; never closed
	slots     chan struct{}
	cancel    context.CancelFunc
	ctx       context.Context // of the two readers and of dials, which memberlist gives no context
	wg        sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport starts two readers, which Shutdown ends.
func newTransport(ctx context.Context, mesh Mesh, advertise netip.AddrPort, logger *slog.Logger) *transport {
	t := &transport{
		mesh: mesh, advertise: advertise, packets: make(chan *memberlist.Packet, packetQueue),
		streams: make(chan net.Conn), slots: make(chan struct{}, maxStreams),
	}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.wg.Go(func() { t.readPackets(logger) })
	t.wg.Go(func() { t.acceptStreams(logger) })
	return t
}

// FinalAdvertiseAddr returns the address of this node's mesh port, as peers reach it.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress sends a packet. memberlist takes only a *net.OpError of this form as a sign that
// the other side is the trouble.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	addr, err := netip.ParseAddrPort(to.Addr)
	if err == nil {
		err = t.mesh.WritePacket(b, addr)
	}
	if err != nil {
		return time.Time{}, &net.OpError{Op: "write", Net: "udp", Err: err}
	}
	return time.Now(), nil
}

// PacketCh returns the packets that came in.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to whichever node of the cluster is at the address.
func (t *transport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	timeout = min(timeout, maxDial)
	ctx, cancel := context.WithTimeoutCause(t.ctx, timeout, fmt.Errorf("no stream after %s", timeout))
	defer cancel()
	addr, err := netip.ParseAddrPort(to.Addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	conn, err := t.mesh.DialStream(ctx, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return t.bound(conn, func() {}), nil
}

// bound closes the connection when the transport is shut down, and calls release when it is closed.
func (t *transport) bound(conn net.Conn, release func()) net.Conn {
	stop := context.AfterFunc(t.ctx, func() { conn.Close() })
	return &boundConn{Conn: conn, release: sync.OnceFunc(func() {
		stop()
		release()
	})}
}

// StreamCh returns the streams that came in.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown ends the readers and waits for them.
func (t *transport) Shutdown() error {
	t.cancel()
	t.wg.Wait()
	return nil
}

// readPackets moves packets into the queue and drops them when it is full, as networks do.
func (t *transport) readPackets(logger *slog.Logger) {
	buf := make([]byte, packetSize)
	for t.ctx.Err() == nil {
		n, from, err := t.mesh.ReadPacket(t.ctx, buf)
		if err != nil {
			t.pause(logger, err)
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- p:
		default:
		}
	}
}

func (t *transport) acceptStreams(logger *slog.Logger) {
	for t.ctx.Err() == nil {
		conn, err := t.mesh.AcceptStream(t.ctx)
		if err != nil {
			t.pause(logger, err)
			continue
		}
		select {
		case t.slots <- struct{}{}:
			conn = t.bound(conn, func() { <-t.slots })
		default:
			conn.Close()
			continue
		}
		select {
		case t.streams <- conn:
		case <-t.ctx.Done():
			conn.Close()
		}
	}
}

// pause keeps a reader whose socket is in trouble from spinning.
func (t *transport) pause(logger *slog.Logger, err error) {
	if t.ctx.Err() != nil {
		return
	}
	logger.Debug("mesh read", "err", err)
	timer := time.NewTimer(retryRead)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
	}
}

// boundConn gives back what it holds when it is closed.
type boundConn struct {
	net.Conn
	release func()
}

// Close closes the connection.
func (c *boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}
