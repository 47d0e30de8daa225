package origin

import (
	"fmt"
	"net/netip"
)

// Network is an entry of an operator's list of addresses: a range, or one address with or without a port.
type Network struct {
	Prefix netip.Prefix
	Port   uint16 // 0 = every port
}

// ParseNetwork reads "10.1.0.0/16", "10.1.2.3", "10.1.2.3:8080" or the same in IPv6.
func ParseNetwork(s string) (Network, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p.Masked() != p {
			return Network{}, fmt.Errorf("%.80q has bits behind its length: write %s", s, p.Masked())
		}
		if p.Addr().Is4In6() {
			return Network{}, fmt.Errorf("%.80q: write IPv4 ranges as IPv4", s)
		}
		return Network{Prefix: p}, nil
	}
	var n Network
	addr, err := netip.ParseAddr(s)
	if err != nil {
		var ap netip.AddrPort
		if ap, err = netip.ParseAddrPort(s); err == nil {
			addr, n.Port = ap.Addr(), ap.Port()
		}
	}
	if err != nil || addr.Zone() != "" || addr != addr.Unmap() || n.Port == 0 && addr.IsUnspecified() {
		return Network{}, fmt.Errorf(`%.80q is no address: write a range like "10.1.0.0/16", "IP" or "IP:PORT"`, s)
	}
	n.Prefix = netip.PrefixFrom(addr, addr.BitLen())
	return n, nil
}

// ParseNetworks reads a list. The error names the first entry that is wrong.
func ParseNetworks(list []string) ([]Network, error) {
	out := make([]Network, 0, len(list))
	for _, s := range list {
		n, err := ParseNetwork(s)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// Has reports whether an address falls into the network. The address must be unmapped.
func (n Network) Has(a netip.AddrPort) bool {
	return (n.Port == 0 || n.Port == a.Port()) && n.Prefix.Contains(a.Addr())
}

// Exact reports whether the network is one address and one port.
func (n Network) Exact() bool { return n.Port != 0 }
