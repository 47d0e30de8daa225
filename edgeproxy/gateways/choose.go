// Package gateways says which gateways are best for a client: those of the nearest region that may serve the
// host and are in service, by measured round trips where there are some, else by places on the map. DNS names
// them, and a gateway that a client reached although another is much nearer tells it of that one. It sends
// nothing and starts nothing.
package gateways

import (
	"cmp"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
	"github.com/perigee-edge/perigee/placement"
)

// Config says what a Chooser knows of clients. It is not changed after New.
type Config struct {
	Self   perigee.NodeID             // clients that nobody knows the place of are taken to be here
	Locate func(netip.Addr) geo.Place // where a client is
	// Measured returns the round trips between the client's network and regions whose gateways have measured
	// it. They count before distances on the map. nil = none are known.
	Measured func(netip.Addr) map[perigee.Region]time.Duration
}

// Chooser chooses gateways. It is safe for concurrent use.
type Chooser struct {
	conf  Config
	areas atomic.Pointer[areas]
}

// New makes a Chooser.
func New(conf Config) *Chooser {
	if conf.Measured == nil {
		conf.Measured = func(netip.Addr) map[perigee.Region]time.Duration { return nil }
	}
	return &Chooser{conf: conf}
}

// Gateway is a node that takes clients' requests.
type Gateway struct {
	ID     perigee.NodeID
	Region perigee.Region
	Addr   netip.AddrPort // where clients reach it by HTTPS
}

const (
	most      = 3                     // gateways at once
	closeBy   = 10 * time.Millisecond // farther than the nearest gateway, or
	closeByOf = 0.25                  // this part of its distance: still as good
)

// Addrs returns the addresses of the gateways for a client at host, best first: those of the nearest
// region, and others within 10 ms or a quarter of its distance, three at most; in one region by
// chance, so that they share the work. A client whose place is not known is taken to be here. It
// returns none when no gateway that may serve the host is in service.
func (c *Chooser) Addrs(v *perigee.View, host string, client netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, g := range best(c.ways(v, host, c.conf.Locate(client), c.conf.Measured(client)), nil) {
		out = append(out, g.Addr.Addr())
	}
	return out
}

// ways returns the regions with gateways that may serve the host, the nearest to the client first.
func (c *Chooser) ways(v *perigee.View, host string, place geo.Place, measured map[perigee.Region]time.Duration) []area {
	serving := c.serving(v, host)
	list := make([]area, len(serving))
	at, known := c.point(v, place)
	for i, a := range serving {
		if a.rtt = math.MaxInt64; known && a.place != nil {
			a.rtt = at.EstimateRTT(*a.place)
		}
		list[i] = a
	}
	correct(list, measured)
	slices.SortFunc(list, func(a, b area) int { return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.region, b.region)) })
	return list
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
func (c *Chooser) serving(v *perigee.View, host string) []area {
	t := c.areas.Load()
	if t == nil || t.view != v {
		t = &areas{view: v, byHost: map[string][]area{}}
		c.areas.Store(t)
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
		list[i].gateways = append(list[i].gateways, Gateway{p.ID, p.Region, addr})
	}
	return list
}

// best draws from a sorted list, of what is usable (nil = all), and leaves out second gateways of one address.
func best(list []area, usable func(Gateway) bool) []Gateway {
	var out []Gateway
	for _, a := range list {
		near := list[0].rtt
		if near < math.MaxInt64 && a.rtt > near+max(closeBy, time.Duration(closeByOf*float64(near))) {
			break
		}
		here := a.gateways
		if usable != nil {
			here = slices.DeleteFunc(slices.Clone(here), func(g Gateway) bool { return !usable(g) })
		}
		for _, i := range draw(len(here)) {
			if len(out) == most {
				return out
			}
			g := here[i]
			if !slices.ContainsFunc(out, func(o Gateway) bool { return o.Addr.Addr() == g.Addr.Addr() }) {
				out = append(out, g)
			}
		}
	}
	return out
}

// draw returns some of the numbers below n, in an order of chance: all, if they are few, else enough for an
// answer, twice over since two gateways may have one address.
func draw(n int) []int {
	if n <= 2*most {
		return rand.Perm(n)
	}
	out := make([]int, 0, 2*most)
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
	gateways []Gateway
	rtt      time.Duration // from the client at hand
}

// point returns where a client is taken to be.
func (c *Chooser) point(v *perigee.View, place geo.Place) (perigee.Point, bool) {
	if place.Point != nil {
		return *place.Point, true
	}
	self := v.Observed.Nodes[c.conf.Self]
	if self == nil {
		return perigee.Point{}, false
	}
	r, ok := v.Desired.Regions.Lookup(self.Region)
	return r.Point, ok
}

// serves reports whether a node takes clients' requests for a host, and its address. It must be one that
// may end their TLS.
func serves(v *perigee.View, p *perigee.Peer, host string) (netip.AddrPort, bool) {
	if p.HTTPS == "" || !p.Routable() || v.Desired.Revoked[p.ID] {
		return netip.AddrPort{}, false
	}
	if _, ok := placement.Terminates(v.Desired, host, p.NodeClaims); !ok {
		return netip.AddrPort{}, false
	}
	return address(p)
}

// httpsPort is that of clients to whom no other is told.
const httpsPort = 443

// address is where clients reach a node: the address that it serves HTTPS at, or, when that is all
// of the machine's, the one at which other nodes reach it.
func address(p *perigee.Peer) (netip.AddrPort, bool) {
	addr, port := p.Addr.Addr(), uint16(httpsPort)
	if a, err := netip.ParseAddrPort(p.HTTPS); err == nil {
		if port = a.Port(); !a.Addr().IsUnspecified() {
			addr = a.Addr()
		}
	}
	addr = addr.Unmap().WithZone("")
	return netip.AddrPortFrom(addr, port), addr.IsValid()
}
