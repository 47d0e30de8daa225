package dns

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
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
	serving := s.serving(v, host)
	list := make([]area, len(serving))
	at, known := s.place(v, client)
	for i, a := range serving {
		if a.rtt = math.MaxInt64; known && a.place != nil {
			a.rtt = at.EstimateRTT(*a.place)
		}
		list[i] = a
	}
	if s.conf.Measured != nil {
		correct(list, s.conf.Measured(client))
	}
	slices.SortFunc(list, func(a, b area) int { return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.region, b.region)) })
	return best(list)
}

// correct puts what was measured in the place of estimates. What is not measured keeps its estimate, and
// what all measurements have above theirs: the last mile, which is the same wherever the other end is.
func correct(list []area, measured map[perigee.Region]time.Duration) {
	more := time.Duration(math.MaxInt64)
	for _, a := range list {
		if rtt, ok := measured[a.region]; ok {
			more = min(more, max(0, rtt-a.rtt))
		}
	}
	if more == math.MaxInt64 {
		return // nothing is
	}
	for i := range list {
		a := &list[i]
		if rtt, ok := measured[a.region]; ok {
			a.rtt = rtt
		} else if a.rtt < math.MaxInt64-more {
			a.rtt += more
		}
	}
}

// maxHosts bounds the hosts whose gateways are remembered for one View.
const maxHosts = 10_000

// areas remembers, for one View, the gateways of the hosts that were asked for: to look at all nodes again
// takes longer than all else in an answer. With the next View it is empty.
type areas struct {
	view *perigee.View

	mu     sync.Mutex // guards byHost
	byHost map[string][]area
}

// serving returns the gateways that may serve a host, by region. The result must not be changed.
func (s *Server) serving(v *perigee.View, host string) []area {
	t := s.areas.Load()
	if t == nil || t.view != v {
		t = &areas{view: v, byHost: map[string][]area{}}
		s.areas.Store(t)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	list, ok := t.byHost[host]
	if !ok {
		if list = gateways(v, host); len(t.byHost) < maxHosts {
			t.byHost[host] = list
		}
	}
	return list
}

func gateways(v *perigee.View, host string) (list []area) {
	index := map[perigee.Region]int{}
	for _, p := range v.Observed.Nodes {
		addr, ok := serves(v, p, host)
		if !ok {
			continue
		}
		i, ok := index[p.Region]
		if !ok {
			i = len(list)
			a := area{region: p.Region}
			if r, ok := v.Desired.Regions.Lookup(p.Region); ok {
				a.place = &r.Point
			}
			index[p.Region], list = i, append(list, a)
		}
		list[i].gateways = append(list[i].gateways, addr)
	}
	return list
}

// best draws from a sorted list.
func best(list []area) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		near := list[0].rtt
		if near < math.MaxInt64 && a.rtt > near+max(closeBy, time.Duration(closeByOf*float64(near))) {
			break
		}
		for _, i := range draw(len(a.gateways)) {
			if len(out) == maxAddrs {
				return out
			}
			if addr := a.gateways[i]; !slices.Contains(out, addr) {
				out = append(out, addr)
			}
		}
	}
	return out
}

// draw returns some of the numbers below n, in an order of chance: all, if they are few, else enough for an
// answer, twice over since two gateways may have one address.
func draw(n int) []int {
	if n <= 2*maxAddrs {
		return rand.Perm(n)
	}
	out := make([]int, 0, 2*maxAddrs)
	for len(out) < cap(out) {
		if i := rand.IntN(n); !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}

// area is the gateways of one region.
type area struct {
	region   perigee.Region
	place    *perigee.Point // nil = nobody knows
	gateways []netip.Addr
	rtt      time.Duration // from the client at hand
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
	if a, err := netip.ParseAddrPort(p.HTTPS); err == nil && !a.Addr().IsUnspecified() {
		addr = a.Addr()
	}
	addr = addr.Unmap().WithZone("")
	return addr, addr.IsValid()
}
