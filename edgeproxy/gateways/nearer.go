package gateways

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

// Offer is a gateway that is much nearer to a client than this node.
type Offer struct {
	Gateway
	Here, There time.Duration // between the client and this node, and the gateway: measured, or as the map says
}

// Why there is no offer.
var (
	ErrNear   = errors.New("no gateway in service that may serve the host is much nearer")
	ErrPlace  = errors.New("nobody knows well enough where the client is: a database of cities (geo_databases), or measurements of its network, would tell")
	ErrUnsure = errors.New("another gateway seems much nearer, and the client's place is not known well enough to be sure")
)

const (
	leastGain   = 50 * time.Millisecond // a new connection costs three round trips: less is not worth it
	usualRadius = 100                   // kilometres that a database of cities is off, if it does not say
)

// Nearer returns the gateway that a client which reached this node should rather use: one of those that Addrs
// names, among those that are usable (nil = all). It must be nearer by 50 ms and by half, and that for certain: a
// way that is only estimated counts as wrong by as much as the client's place may be, and a place that is only
// a country says nothing.
func (c *Chooser) Nearer(v *perigee.View, host string, client netip.Addr, usable func(Gateway) bool) (Offer, error) {
	self := v.Observed.Nodes[c.conf.Self]
	if self == nil || !client.IsValid() {
		return Offer{}, ErrPlace
	}
	place, measured := c.conf.Locate(client), c.conf.Measured(client)
	list := c.ways(v, host, place, measured)
	way := func(r perigee.Region) int { return slices.IndexFunc(list, func(a area) bool { return a.region == r }) }
	here := way(self.Region)
	if here < 0 {
		return Offer{}, ErrNear
	}
	chosen := best(list, usable)
	if len(chosen) == 0 {
		return Offer{}, ErrNear
	}
	o := Offer{chosen[0], list[here].rtt, list[way(chosen[0].Region)].rtt}
	if o.Here-o.There < leastGain || o.There > o.Here/2 {
		if _, known := off(place, measured, self.Region); !known {
			return Offer{}, ErrPlace
		}
		return Offer{}, ErrNear
	}
	doubt := time.Duration(0)
	for _, r := range []perigee.Region{self.Region, o.Region} {
		d, known := off(place, measured, r)
		if !known {
			return Offer{}, ErrPlace
		}
		doubt += d
	}
	if o.Here-o.There-doubt < leastGain {
		return Offer{}, ErrUnsure
	}
	return o, nil
}

// off is by how much the way between a client and a region may be wrong.
func off(place geo.Place, measured map[perigee.Region]time.Duration, r perigee.Region) (wrong time.Duration, known bool) {
	if _, ok := measured[r]; ok {
		return 0, true
	}
	if place.Point == nil || place.Source != geo.SourceDatabase {
		return 0, false
	}
	return perigee.FibreRTT(cmp.Or(place.RadiusKm, usualRadius)), true
}
