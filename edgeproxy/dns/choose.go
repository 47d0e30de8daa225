package dns

import (
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	maxAddrs  = 3                     // in one answer
	closeBy   = 10 * time.Millisecond // farther than the nearest gateway, or
	closeByOf = 0.25                  // this part of its distance: still as good
)

// choose returns the addresses of the gateways for a client at host, best first: those of the nearest
// region, and others within 10 ms or a quarter of its distance, three at most; in one region by
// chance, so that they share the work. A client whose place is not known is taken to be here. It
// returns none when no gateway that may serve the host is in service.
func (s *Server) choose(v *perigee.View, host string, client netip.Addr) []netip.Addr {
	at, known := s.place(v, client)
	var list []gateway
	rtts := map[perigee.Region]time.Duration{}
	for _, p := range v.Observed.Nodes {
		addr, ok := serves(v, p, host)
		if !ok {
			continue
		}
		rtt, seen := rtts[p.Region]
		if !seen {
			rtt = math.MaxInt64
			if r, ok := v.Desired.Regions.Lookup(p.Region); ok && known {
				rtt = at.EstimateRTT(r.Point)
			}
			rtts[p.Region] = rtt
		}
		list = append(list, gateway{addr, rtt, rand.Uint32()})
	}
	slices.SortFunc(list, gateway.compare)
	return best(list)
}

// best cuts a sorted list.
func best(list []gateway) []netip.Addr {
	var out []netip.Addr
	for _, g := range list {
		near := list[0].rtt
		if len(out) == maxAddrs || near < math.MaxInt64 && g.rtt > near+max(closeBy, time.Duration(closeByOf*float64(near))) {
			break
		}
		if !slices.Contains(out, g.addr) {
			out = append(out, g.addr)
		}
	}
	return out
}

// gateway is a node that may be named.
type gateway struct {
	addr   netip.Addr
	rtt    time.Duration
	chance uint32
}

func (g gateway) compare(h gateway) int {
	switch {
	case g.rtt != h.rtt:
		if g.rtt < h.rtt {
			return -1
		}
		return 1
	case g.chance != h.chance:
		if g.chance < h.chance {
			return -1
		}
		return 1
	}
	return g.addr.Compare(h.addr)
}

// place returns where a client is taken to be.
func (s *Server) place(v *perigee.View, client netip.Addr) (perigee.Point, bool) {
	if p := s.conf.Locate(client); p.Point != nil {
		return *p.Point, true
	}
	self := v.Observed.Nodes[s.conf.Self]
	if self == nil {
		return perigee.Point{}, false
	}
	r, ok := v.Desired.Regions.Lookup(self.Region)
	return r.Point, ok
}

// serves reports whether a node takes clients' requests for a host, and its address. It must be one that
// may end their TLS.
func serves(v *perigee.View, p *perigee.Peer, host string) (netip.Addr, bool) {
	if p.HTTPS == "" || !p.Routable() || v.Desired.Revoked[p.ID] {
		return netip.Addr{}, false
	}
	if _, ok := placement.Terminates(v.Desired, host, p.NodeClaims); !ok {
		return netip.Addr{}, false
	}
	return address(p)
}

// address is where clients reach a node: the address that it serves HTTPS at, or, when that is all
// of the machine's, the one at which other nodes reach it.
func address(p *perigee.Peer) (netip.Addr, bool) {
	addr := p.Addr.Addr()
	if host, _, err := net.SplitHostPort(p.HTTPS); err == nil {
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
			addr = a
		}
	}
	addr = addr.Unmap().WithZone("")
	return addr, addr.IsValid()
}
