package peerlink

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"
)

// MaxPacket is the longest membership packet, in bytes: a longer one would be cut by the receiver.
// Paths through tunnels carry less, and packets are never fragmented, so 1200 is a safer choice.
const MaxPacket = 1452

// packet is one that waits for ReadPacket.
type packet struct {
	data []byte
	from netip.AddrPort
}

// startPackets makes quic-go keep the packets that are not QUIC's, which it does from the first call on.
func startPackets(tr *quic.Transport) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, _ = tr.ReadNonQUICPacket(ended, nil) // returns at once
}

// readPackets takes the packets that are not QUIC's off quic-go's queue, which holds 32, and puts
// them on ours. A full queue drops the newcomer: the membership protocol repeats itself.
func (l *Link) readPackets(tr *quic.Transport) {
	b := make([]byte, MaxPacket)
	for {
		n, from, err := tr.ReadNonQUICPacket(l.life, b)
		if err != nil {
			return
		}
		if isProbe(b[:n]) {
			if tr == l.tr { // nobody asks on a tunnel
				l.probes.handle(b[:n], from)
			}
			continue
		}
		if t, ok := from.(*tunnel); ok {
			l.routeTunnel(t)
		}
		l.met.packetsIn.Inc()
		select {
		case l.packets <- packet{bytes.Clone(b[:n]), addrPort(from)}:
		default:
			l.met.packetsLost.Inc()
		}
	}
}

// ReadPacket waits for a membership packet, copies it to b and returns its length and sender. What
// does not fit into b is lost; MaxPacket always fits.
func (l *Link) ReadPacket(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	select {
	case p := <-l.packets:
		return copy(b, p.data), p.from, nil
	case <-ctx.Done():
		return 0, netip.AddrPort{}, context.Cause(ctx)
	case <-l.life.Done():
		return 0, netip.AddrPort{}, ErrClosed
	}
}

// WritePacket sends a membership packet. Its errors are *net.OpError with Op "write" and a Net of
// "udp…", which the membership protocol takes for a failure of the peer and not of this node. The
// first two bits of the packet must be 0.
func (l *Link) WritePacket(b []byte, to netip.AddrPort) error {
	err := l.writePacket(b, to)
	if err == nil {
		l.met.packetsOut.Inc()
		return nil
	}
	l.met.packetsFail.Inc()
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "write" {
		return op
	}
	return &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: err}
}

func (l *Link) writePacket(b []byte, to netip.AddrPort) error {
	select {
	case <-l.listening:
	default:
		return errors.New("the mesh port is not open yet")
	}
	switch {
	case l.life.Err() != nil:
		return ErrClosed
	case len(b) == 0 || len(b) > MaxPacket:
		return errors.New("packet is empty or too long")
	case b[0]&0xc0 != 0 || isProbe(b):
		return errors.New("packet would be taken for another protocol")
	}
	if l.sendTunnel(b, to) {
		return nil
	}
	_, err := l.tr.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}
