package wan

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// Network is a simulated wide-area network between the wrapped sockets of one process. It is safe
// for concurrent use. Changes of loss, blocks and cuts hold at once, for packets under way too.
type Network struct {
	rtt func(from, to perigee.Region) time.Duration

	mu      sync.RWMutex // guards the fields below
	homes   map[address]home
	loss    map[pair]float64
	blocked map[pair]bool
	cut     map[perigee.Region]bool
	wrapped uint64 // sockets so far: each one's losses follow a sequence of its own

	buffers sync.Pool // of *[]byte
}

// home says where the socket with an address is.
type home struct {
	region perigee.Region
	owner  *endpoint
}

// address is a comparable net.Addr: IP and port where it has them, else its text.
type address struct {
	udp  netip.AddrPort
	text string
}

// New makes a network in which a packet takes half of rtt(from, to) on its way. rtt returns round
// trips, as Table.Between does; it is called for every packet, also concurrently. Zero and less
// mean no delay.
func New(rtt func(from, to perigee.Region) time.Duration) *Network {
	return &Network{
		rtt: rtt, homes: map[address]home{}, loss: map[pair]float64{}, blocked: map[pair]bool{}, cut: map[perigee.Region]bool{},
		buffers: sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }},
	}
}

// Wrap places a socket in a region and returns it with the network's delays on WriteTo. It owns c
// from then on: closing the result closes c, and ends the goroutine that Wrap started.
//
// Packets to addresses that are not of this network pass at once; so do those with a one-way delay
// under half a millisecond, since a timer would err by more than it adds. All else is accurate to
// about a millisecond, never early, and in order between two addresses. At most 16,384 packets and
// 32 MiB wait in a socket; what exceeds that is dropped, as a router does. Close sends what still
// waits, without its remaining delay: what was sent is under way, and the end of a connection is
// often said last.
//
// A socket bound to all addresses is known by its loopback ones.
func (n *Network) Wrap(c net.PacketConn, region perigee.Region) net.PacketConn {
	n.mu.Lock()
	n.wrapped++
	e := newEndpoint(c, n, region, n.wrapped)
	for _, a := range e.addrs {
		n.homes[a] = home{region, e}
	}
	n.mu.Unlock()
	go e.run()
	return e
}

// SetLoss makes packets between two regions, in both directions, get lost with probability p, from
// 0 to 1. Which ones is the same each time for the same sockets and the same packets.
func (n *Network) SetLoss(a, b perigee.Region, p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loss[pair{a, b}], n.loss[pair{b, a}] = p, p
}

// Block stops all packets between two regions, or lets them pass again.
func (n *Network) Block(a, b perigee.Region, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked[pair{a, b}], n.blocked[pair{b, a}] = blocked, blocked
}

// Cut stops all packets that wrapped sockets send to a region or in it, to any address, or lets
// them pass again. What sockets outside the network send into the region still arrives, and gets
// no answer.
func (n *Network) Cut(region perigee.Region, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[region] = cut
}

// path is what the network does with a packet.
type path struct {
	known bool // the address is of this network
	to    perigee.Region
	open  bool
	loss  float64
}

func (n *Network) path(from perigee.Region, to address) path {
	n.mu.RLock()
	defer n.mu.RUnlock()
	h, known := n.homes[to]
	if !known {
		return path{open: !n.cut[from]}
	}
	p := pair{from, h.region}
	return path{known: true, to: h.region, open: !n.cut[from] && !n.cut[h.region] && !n.blocked[p], loss: n.loss[p]}
}

func (n *Network) isOpen(from, to perigee.Region) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return !n.cut[from] && !n.cut[to] && !n.blocked[pair{from, to}]
}

// forget removes the addresses of a closed socket, unless a new one has them by now.
func (n *Network) forget(e *endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range e.addrs {
		if n.homes[a].owner == e {
			delete(n.homes, a)
		}
	}
}

// addressOf makes a comparable address. IPv4 addresses of dual-stack sockets are unmapped.
func addressOf(a net.Addr) address {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return address{text: a.Network() + " " + a.String()}
	}
	ap := u.AddrPort()
	return address{udp: netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())}
}

// homesOf returns the addresses that others of this process reach a socket at.
func homesOf(a net.Addr) []address {
	at := addressOf(a)
	if !at.udp.IsValid() || !at.udp.Addr().IsUnspecified() {
		return []address{at}
	}
	port := at.udp.Port()
	return []address{
		{udp: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)},
		{udp: netip.AddrPortFrom(netip.IPv6Loopback(), port)},
	}
}
