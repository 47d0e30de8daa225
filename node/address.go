package node

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// advertise finds the address where peers reach this node's mesh port: what the settings say, else
// what the cluster saw at the join if that still holds, else this machine's own address. It holds while the
// port is the same, and, if the address was the machine's own then, while it has that.
func (n *Node) advertise() (netip.AddrPort, error) {
	local, err := localAddr(n.cfg.Socket)
	if err != nil {
		return local, err
	}
	if n.cfg.Advertise != "" {
		return parseAdvertise(n.cfg.Advertise, own(local))
	}
	a, err := netip.ParseAddrPort(n.seeds.Advertise)
	if err == nil && n.seeds.Local == local.Port() && (!n.seeds.Own || isOwn(a.Addr())) {
		return a, nil
	}
	return netip.AddrPortFrom(own(local), local.Port()), nil
}

func localAddr(c net.PacketConn) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return a, fmt.Errorf("mesh address: %w", err)
	}
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port()), nil
}

// parseAdvertise reads "IP:PORT" or ":PORT", where a missing IP is host.
func parseAdvertise(s string, host netip.Addr) (netip.AddrPort, error) {
	bad := func(why string) (netip.AddrPort, error) {
		return netip.AddrPort{}, fmt.Errorf("advertise = %.80q: %s: want IP:PORT or :PORT, where other nodes reach this one", s, why)
	}
	h, port, err := net.SplitHostPort(s)
	if err != nil {
		return bad("not an address")
	}
	if h == "" {
		h = host.String()
	}
	a, err := netip.ParseAddrPort(net.JoinHostPort(h, port))
	if err != nil {
		return bad("not an IP address and a port")
	}
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	switch ip := a.Addr(); {
	case a.Port() == 0:
		return bad("port 0 is none")
	case ip.IsUnspecified(), ip.IsMulticast(), ip.Zone() != "":
		return bad("no other machine can reach that address")
	}
	return a, nil
}

// own returns the address of a socket, or for one that listens everywhere the first address of this
// machine that others may reach, IPv4 before IPv6.
func own(local netip.AddrPort) netip.Addr {
	if !local.Addr().IsUnspecified() {
		return local.Addr()
	}
	var six netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		addrs = nil
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil || !p.Addr().IsGlobalUnicast():
		case p.Addr().Is4():
			return p.Addr()
		case !six.IsValid() && local.Addr().Is6():
			six = p.Addr()
		}
	}
	if six.IsValid() {
		return six
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// isOwn reports whether an address is one of this machine's.
func isOwn(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(own net.Addr) bool {
		p, err := netip.ParsePrefix(own.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// lock makes sure that one process uses the directory.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another node runs with this data directory: stop it first", path)
	}
	return func() { f.Close() }, nil
}
