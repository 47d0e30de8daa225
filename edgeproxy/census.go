package edgeproxy

import (
	"net"
	"net/netip"
	"sync"
)

// The bits of an address that stand for one client: a whole IPv4 address, and of IPv6 the network that
// one customer gets.
const (
	clientBits4 = 32
	clientBits6 = 64
)

// census counts the open connections of clients, over TCP and QUIC together, and refuses those beyond
// its bounds. It is safe for concurrent use.
type census struct {
	most    int // in all
	perHost int // of one client

	mu     sync.Mutex // guards the rest
	total  int
	byHost map[netip.Prefix]int
}

func newCensus(most, perHost int) *census {
	return &census{most: most, perHost: perHost, byHost: map[netip.Prefix]int{}}
}

// clientOf returns what is counted as one client; the zero prefix for no address.
func clientOf(a netip.Addr) netip.Prefix {
	bits := clientBits4
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = clientBits6
	}
	p, _ := a.Prefix(bits) // fails for no address only
	return p
}

// enter counts a connection that has no client yet.
func (c *census) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.most {
		return false
	}
	c.total++
	return true
}

func (c *census) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
}

// empty reports whether there is none.
func (c *census) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total == 0
}

// full reports whether enter would refuse.
func (c *census) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total >= c.most
}

// room reports whether neither enter nor enterHost would refuse.
func (c *census) room(host netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total < c.most && c.byHost[host] < c.perHost
}

// enterHost counts a connection of a client. Those without an address count as one.
func (c *census) enterHost(host netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byHost[host] >= c.perHost {
		return false
	}
	c.byHost[host]++
	return true
}

func (c *census) leaveHost(host netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byHost[host]--; c.byHost[host] == 0 {
		delete(c.byHost, host)
	}
}

// addrOf returns the IP address of a socket's end; the zero Addr for others.
func addrOf(a net.Addr) netip.Addr {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return ap.Addr().Unmap().WithZone("")
}
