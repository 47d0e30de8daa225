package peerlink

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	tunnelQueue = 512                    // packets that wait to be written; more are dropped, as by a full router
	tunnelFlush = 200 * time.Millisecond // for what waits at the end

	tunnelBuffer = 16 << 10 // one record of TLS
)

// tunnel carries packets, QUIC's and others, over TLS on TCP, where UDP does not get through. It is the
// net.Addr that its packets come from and go to, so that a QUIC connection stays on the tunnel on which it
// began. Both sides may dial and accept QUIC connections on it, whoever opened it.
//
// The bytes on it are, in both directions and again and again, length(2, big endian) packet. A length of 0
// says that whatever is new belongs on another tunnel: the sender's process has a successor.
type tunnel struct {
	conn     *tls.Conn
	in       *tunnels // where what arrives goes
	outbound bool
	proto    protocol           // of its handshake, which lets others in than nodes, too
	claims   perigee.NodeClaims // of the node at the other end; zero for joiners and persons
	remote   netip.AddrPort
	opened   time.Time

	out     chan *packetBuffer // never closed
	last    atomic.Int64       // Unix nanoseconds of the last packet, whoever sent it
	retired atomic.Bool        // for what began on it only
	routed  atomic.Bool        // it was noted as the way to the node that opened it
	end     sync.Once
	done    chan struct{} // closed by close
}

// packetBuffer has room for a packet behind its length.
type packetBuffer struct {
	b [2 + MaxPacket]byte
	n int // bytes in b
	t *tunnel
}

var packetPool = sync.Pool{New: func() any { return new(packetBuffer) }}

// Network implements net.Addr.
func (t *tunnel) Network() string { return "tcp" }

// String implements net.Addr: where the other side is.
func (t *tunnel) String() string { return t.remote.String() }

func newTunnel(in *tunnels, conn *tls.Conn, outbound bool) *tunnel {
	t := &tunnel{
		conn: conn, in: in, outbound: outbound, remote: addrPort(conn.RemoteAddr()), opened: time.Now(),
		out: make(chan *packetBuffer, tunnelQueue), done: make(chan struct{}),
	}
	t.last.Store(t.opened.UnixNano())
	return t
}

// openTunnel connects to an address with the identity that conf has.
func openTunnel(ctx context.Context, in *tunnels, addr netip.AddrPort, conf *tls.Config) (*tunnel, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, tunnelTLS(conf))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return newTunnel(in, conn, true), nil
}

// tunnelTLS returns the configuration for the TLS of a tunnel, whose records are not for people who wait
// for their first byte.
func tunnelTLS(conf *tls.Config) *tls.Config {
	conf = conf.Clone()
	conf.DynamicRecordSizingDisabled = true
	return conf
}

func (t *tunnel) alive() bool {
	select {
	case <-t.done:
		return false
	default:
		return !t.retired.Load()
	}
}

// run carries packets until close, or until the connection fails.
func (t *tunnel) run() {
	var wg sync.WaitGroup
	wg.Go(t.write)
	t.read()
	wg.Wait()
}

// close ends the tunnel after what waits was written, if that takes no longer than tunnelFlush.
func (t *tunnel) close() { t.end.Do(func() { close(t.done) }) }

// send queues a copy of a packet.
func (t *tunnel) send(b []byte) {
	p := packetPool.Get().(*packetBuffer)
	binary.BigEndian.PutUint16(p.b[:], uint16(len(b)))
	p.n = 2 + copy(p.b[2:], b)
	select {
	case t.out <- p:
	default:
		packetPool.Put(p)
		t.in.dropped()
	}
}

// write writes what is queued, as much as there is in one record of TLS.
func (t *tunnel) write() {
	defer t.conn.Close()
	defer t.close()
	w := bufio.NewWriterSize(t.conn, tunnelBuffer)
	for {
		var p *packetBuffer
		select {
		case p = <-t.out:
			_ = t.conn.SetWriteDeadline(time.Now().Add(t.in.patience)) // its failure is that of Write
		case <-t.done:
			_ = t.conn.SetWriteDeadline(time.Now().Add(tunnelFlush))
			for t.put(w, p) == nil {
				select {
				case p = <-t.out:
					continue
				default:
				}
				_ = w.Flush() // there is nobody to tell
				return
			}
			return
		}
		for more := true; more; {
			if t.put(w, p) != nil {
				return
			}
			select {
			case p = <-t.out:
			default:
				more = false
			}
		}
		if w.Flush() != nil {
			return
		}
		t.last.Store(time.Now().UnixNano())
	}
}

func (t *tunnel) put(w *bufio.Writer, p *packetBuffer) error {
	if p == nil {
		return nil
	}
	_, err := w.Write(p.b[:p.n])
	packetPool.Put(p)
	return err
}

// read hands on what arrives. Packets of joiners and persons that are not QUIC's are dropped: they are no
// members.
func (t *tunnel) read() {
	defer t.close()
	r := bufio.NewReaderSize(t.conn, tunnelBuffer)
	for {
		p := packetPool.Get().(*packetBuffer)
		err := p.read(r)
		switch {
		case err != nil:
			return
		case p.n == 0:
			t.retired.Store(true)
		case p.b[0]&0xc0 == 0 && !t.betweenNodes():
		default:
			t.last.Store(time.Now().UnixNano())
			p.t = t
			if t.in.put(p) {
				continue
			}
			return
		}
		packetPool.Put(p)
	}
}

// read reads one packet to the beginning of the buffer.
func (p *packetBuffer) read(r io.Reader) error {
	if _, err := io.ReadFull(r, p.b[:2]); err != nil {
		return err
	}
	if p.n = int(binary.BigEndian.Uint16(p.b[:])); p.n > MaxPacket {
		return errors.New("packet is too long")
	}
	_, err := io.ReadFull(r, p.b[:p.n])
	return err
}

func (t *tunnel) betweenNodes() bool { return t.proto.betweenNodes() }

// tunnels is the socket of the QUIC transport whose packets go through tunnels: packets are for and from
// a *tunnel. The transport is the only reader.
type tunnels struct {
	local    net.Addr
	patience time.Duration      // for the other side of a tunnel to take what was written
	dropped  func()             // counts packets that found no room
	arrived  chan *packetBuffer // never closed
	once     sync.Once
	closed   chan struct{}
}

func newTunnels(local net.Addr, patience time.Duration, dropped func()) *tunnels {
	return &tunnels{local: local, patience: patience, dropped: dropped, arrived: make(chan *packetBuffer, tunnelQueue), closed: make(chan struct{})}
}

// put waits until there is room, which holds the sender up, and reports whether the socket is open.
func (s *tunnels) put(p *packetBuffer) bool {
	select {
	case s.arrived <- p:
		return true
	case <-s.closed:
		return false
	}
}

// ReadFrom implements net.PacketConn.
func (s *tunnels) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-s.arrived:
		n, t := copy(b, p.b[:p.n]), p.t
		p.t = nil
		packetPool.Put(p)
		return n, t, nil
	case <-s.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn.
func (s *tunnels) WriteTo(b []byte, to net.Addr) (int, error) {
	t, ok := to.(*tunnel)
	if !ok || len(b) > MaxPacket {
		return 0, errors.New("no packet for a tunnel")
	}
	t.send(b)
	return len(b), nil
}

// Close implements net.PacketConn.
func (s *tunnels) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// SetReadDeadline implements net.PacketConn. The transport sets one to end its reading, for ever.
func (s *tunnels) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		return s.Close()
	}
	return nil
}

// LocalAddr implements net.PacketConn.
func (s *tunnels) LocalAddr() net.Addr { return s.local }

// SetDeadline implements net.PacketConn.
func (s *tunnels) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetWriteDeadline implements net.PacketConn. Writes never wait.
func (*tunnels) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer tells the transport that there is no buffer to enlarge.
func (*tunnels) SetReadBuffer(int) error { return nil }

// SetWriteBuffer is like SetReadBuffer.
func (*tunnels) SetWriteBuffer(int) error { return nil }
