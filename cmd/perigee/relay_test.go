package main

import (
	"net"
	"net/netip"
	"sync"
)

// relay carries the mesh of nodes on 127.0.0.2 to 127.0.0.4 and can cut one of them off from the others, while it still reaches
// everything else: the CA, DNS, its clients. A node listens on its own port and advertises the relay's, on the same address;
// what comes to an address of the relay leaves from that of its sender.
type relay struct {
	mesh, port uint16
	conns      map[netip.Addr]*net.UDPConn
	wg         sync.WaitGroup

	mu  sync.Mutex // guards cut
	cut netip.Addr // zero = nobody
}

func newRelay(mesh, port uint16) (*relay, error) {
	r := &relay{mesh: mesh, port: port, conns: map[netip.Addr]*net.UDPConn{}}
	for i := range 3 {
		ip := netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)})
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
		if err != nil {
			r.close()
			return nil, err
		}
		r.conns[ip] = c
	}
	for ip := range r.conns {
		r.wg.Go(func() { r.carry(ip) })
	}
	return r, nil
}

// carry passes on what comes for one node, until close.
func (r *relay) carry(to netip.Addr) {
	b := make([]byte, 64<<10)
	for {
		n, from, err := r.conns[to].ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		out := r.conns[from.Addr().Unmap()]
		if out == nil || r.apart(from.Addr().Unmap(), to) {
			continue
		}
		_, _ = out.WriteToUDPAddrPort(b[:n], netip.AddrPortFrom(to, r.mesh)) // networks lose packets
	}
}

func (r *relay) apart(a, b netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return (a == r.cut) != (b == r.cut)
}

// isolate cuts one node off; the zero address heals.
func (r *relay) isolate(ip netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = ip
}

func (r *relay) close() {
	for _, c := range r.conns {
		c.Close()
	}
	r.wg.Wait()
}
