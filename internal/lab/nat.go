package lab

import (
	"net/netip"
	"time"
)

// NAT says how a node's address is translated on the way to the others.
type NAT int

const (
	// NoNAT: the node has the address at which others see it.
	NoNAT NAT = iota
	// NATOneToOne: the node has a private address, and a public one that stands for it, all ports, in
	// both directions, as clouds have it.
	NATOneToOne
	// NATCone: the node shares its public address with whoever else is behind the box: TCP and UDP only; each
	// private port gets one public port, the same one if that is free; from outside come in only packets of an
	// address and port that the node has sent to within the last minute (a port-restricted cone).
	NATCone
)

const natMemory = time.Minute // that the box remembers a flow without packets from inside

// box translates between a node's private and its public address. The switch's lock guards it.
type box struct {
	kind            NAT
	private, public netip.Addr
	outer           map[flowEnd]uint16 // public port of a private one
	inner           map[flowEnd]uint16 // and the other way round
	sent            map[flow]time.Time // when a public port last sent to an address
}

// flowEnd is a port of the node, inside or outside.
type flowEnd struct {
	proto byte
	port  uint16
}

type flow struct {
	flowEnd
	peer netip.AddrPort
}

func newBox(kind NAT, private, public netip.Addr) *box {
	return &box{kind, private, public, map[flowEnd]uint16{}, map[flowEnd]uint16{}, map[flow]time.Time{}}
}

// out translates a packet from inside; false means that it goes nowhere.
func (b *box) out(p packet, now time.Time) bool {
	if b.kind == NATCone {
		source, destined, ok := p.ports()
		if !ok {
			return false
		}
		public := b.portFor(flowEnd{p.proto(), source})
		b.sent[flow{flowEnd{p.proto(), public}, netip.AddrPortFrom(p.destined(), destined)}] = now
		p.setSourcePort(public)
	}
	p.setSource(b.public)
	return true
}

// in translates a packet from outside; false means that the box lets nobody in with it.
func (b *box) in(p packet, now time.Time) bool {
	if b.kind == NATCone {
		source, destined, ok := p.ports()
		if !ok {
			return false
		}
		end := flowEnd{p.proto(), destined}
		last, known := b.sent[flow{end, netip.AddrPortFrom(p.source(), source)}]
		if !known || now.Sub(last) > natMemory {
			return false
		}
		p.setDestinedPort(b.inner[end])
	}
	p.setDestined(b.private)
	return true
}

func (b *box) portFor(private flowEnd) uint16 {
	if port, ok := b.outer[private]; ok {
		return port
	}
	public := private
	for {
		if _, taken := b.inner[public]; !taken {
			break
		}
		public.port = max(public.port+1, 1024)
	}
	b.outer[private], b.inner[public] = public.port, private.port
	return public.port
}
