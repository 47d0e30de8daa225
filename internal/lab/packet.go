package lab

import (
	"encoding/binary"
	"net/netip"
)

// packet is an IPv4 packet as it is on the wire.
type packet []byte

const (
	protoTCP = 6
	protoUDP = 17

	headerMin = 20
	portsAt   = 0 // of the transport header: source port, then destination port
	sumTCP    = 16
	sumUDP    = 6
)

// valid reports whether the header is whole and fits its packet.
func (p packet) valid() bool {
	return len(p) >= headerMin && p[0]>>4 == 4 && p.headerLen() >= headerMin && p.headerLen() <= len(p) &&
		int(binary.BigEndian.Uint16(p[2:])) == len(p)
}

func (p packet) headerLen() int       { return int(p[0]&15) * 4 }
func (p packet) proto() byte          { return p[9] }
func (p packet) source() netip.Addr   { return netip.AddrFrom4([4]byte(p[12:16])) }
func (p packet) destined() netip.Addr { return netip.AddrFrom4([4]byte(p[16:20])) }

// transport returns where the transport header begins and where in it its checksum is, if the packet
// has ports: it is TCP or UDP and no later fragment.
func (p packet) transport() (at, sum int, ok bool) {
	at = p.headerLen()
	if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return 0, 0, false
	}
	switch {
	case p.proto() == protoTCP && len(p) >= at+sumTCP+2:
		return at, at + sumTCP, true
	case p.proto() == protoUDP && len(p) >= at+sumUDP+2:
		return at, at + sumUDP, true
	}
	return 0, 0, false
}

// ports returns the two ports; ok is as in transport.
func (p packet) ports() (source, destined uint16, ok bool) {
	at, _, ok := p.transport()
	if !ok {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(p[at+portsAt:]), binary.BigEndian.Uint16(p[at+portsAt+2:]), true
}

func (p packet) setSource(a netip.Addr)   { p.setAddr(12, a) }
func (p packet) setDestined(a netip.Addr) { p.setAddr(16, a) }

func (p packet) setSourcePort(port uint16)   { p.setPort(0, port) }
func (p packet) setDestinedPort(port uint16) { p.setPort(2, port) }

// setAddr replaces an address and mends the checksums that cover it.
func (p packet) setAddr(at int, a netip.Addr) {
	four := a.As4()
	_, sum, has := p.transport()
	for i := 0; i < 4; i += 2 {
		old, now := binary.BigEndian.Uint16(p[at+i:]), binary.BigEndian.Uint16(four[i:])
		mend(p[10:12], old, now)
		if has {
			p.mendTransport(sum, old, now)
		}
	}
	copy(p[at:], four[:])
}

func (p packet) setPort(offset int, port uint16) {
	at, sum, ok := p.transport()
	if !ok {
		return
	}
	p.mendTransport(sum, binary.BigEndian.Uint16(p[at+portsAt+offset:]), port)
	binary.BigEndian.PutUint16(p[at+portsAt+offset:], port)
}

// mendTransport mends a checksum of TCP or UDP; a UDP packet may have none.
func (p packet) mendTransport(sum int, old, now uint16) {
	if p.proto() == protoUDP && binary.BigEndian.Uint16(p[sum:]) == 0 {
		return
	}
	mend(p[sum:sum+2], old, now)
}

// mend updates a checksum for a changed word (RFC 1624).
func mend(sum []byte, old, now uint16) {
	s := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^old) + uint32(now)
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	binary.BigEndian.PutUint16(sum, ^uint16(s))
}
