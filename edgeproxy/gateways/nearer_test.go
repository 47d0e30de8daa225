package gateways

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

func view() *perigee.View {
	nodes := map[perigee.NodeID]*perigee.Peer{}
	for i, id := range []perigee.NodeID{"wdc-1", "fra-1", "ams-1"} {
		nodes[id] = &perigee.Peer{
			NodeClaims: perigee.NodeClaims{ID: id, Region: perigee.Region(id[:3])}, State: perigee.NodeAlive,
			Row: perigee.Row{HTTPS: "[::]:8443", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 7443)},
		}
	}
	return &perigee.View{
		Desired:  perigee.NewDesired(perigee.Desired{Regions: perigee.BuiltinRegions()}),
		Observed: &perigee.Observed{Nodes: nodes},
	}
}

// TestNearer: a client of Washington's gateway is offered one in Europe only if it is much nearer, for certain.
func TestNearer(t *testing.T) {
	at := func(lat, lon, radius float64, source string) geo.Place {
		return geo.Place{Point: &perigee.Point{Lat: lat, Lon: lon}, RadiusKm: radius, Source: source}
	}
	type ways map[perigee.Region]time.Duration
	const ms = time.Millisecond
	city, country := geo.SourceDatabase, geo.SourceCountry
	for _, c := range []struct {
		what     string
		place    geo.Place
		measured ways
		want     perigee.NodeID
		err      error
	}{
		{"in Frankfurt", at(50.1, 8.7, 20, city), nil, "fra-1", nil},
		{"in Frankfurt, as a database says that does not say how sure it is", at(50.1, 8.7, 0, city), nil, "fra-1", nil},
		{"in Frankfurt, or two thousand kilometres from it", at(50.1, 8.7, 2000, city), nil, "", ErrUnsure},
		{"somewhere in Germany", at(50.1, 8.7, 0, country), nil, "", ErrPlace},
		{"in Germany, and measured", at(50.1, 8.7, 0, country), ways{"wdc": 95 * ms, "fra": 9 * ms}, "fra-1", nil},
		{"in Germany, measured here only", at(50.1, 8.7, 0, country), ways{"wdc": 95 * ms}, "", ErrPlace},
		{"nobody knows where", geo.Place{}, nil, "", ErrPlace},
		{"nobody knows where, but measured", geo.Place{}, ways{"wdc": 95 * ms, "ams": 9 * ms}, "ams-1", nil},
		{"in New York", at(40.7, -74, 20, city), nil, "", ErrNear},
		{"in Frankfurt on the map, near to Washington by measurement", at(50.1, 8.7, 20, city), ways{"wdc": 9 * ms, "fra": 99 * ms}, "", ErrNear},
		{"far from all", at(-33.9, 151.2, 20, city), nil, "", ErrNear},
		{"nearer by less than half", geo.Place{}, ways{"wdc": 200 * ms, "fra": 120 * ms, "ams": 200 * ms}, "", ErrNear},
	} {
		choose := New(Config{Self: "wdc-1", Locate: func(netip.Addr) geo.Place { return c.place },
			Measured: func(netip.Addr) map[perigee.Region]time.Duration { return c.measured }})
		o, err := choose.Nearer(view(), "x", netip.MustParseAddr("198.51.100.1"), func(g Gateway) bool { return g.ID == c.want || c.want == "" })
		if o.ID != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v, want %q, %v", c.what, o, err, c.want, c.err)
		}
		if c.want != "" && o.Addr.Port() != 8443 {
			t.Errorf("%s: at %s", c.what, o.Addr)
		}
	}
}

// TestOnlyInService: neither named nor offered is a gateway that goes, is gone, is revoked, takes no clients, or lies
// outside the residency of the host.
func TestOnlyInService(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(v *perigee.View, p *perigee.Peer)
	}{
		{"drains", func(_ *perigee.View, p *perigee.Peer) { p.Draining = true }},
		{"dead", func(_ *perigee.View, p *perigee.Peer) { p.State = perigee.NodeDead }},
		{"revoked", func(v *perigee.View, p *perigee.Peer) { v.Desired.Revoked = map[perigee.NodeID]bool{p.ID: true} }},
		{"without clients", func(_ *perigee.View, p *perigee.Peer) { p.HTTPS = "" }},
		{"outside", func(v *perigee.View, _ *perigee.Peer) {
			fn := &perigee.Function{Name: "law", Live: &perigee.Revision{Manifest: perigee.Manifest{Name: "law",
				Routes: []perigee.Route{{Host: "x"}}, Placement: perigee.Policy{Residency: []string{"na"}}}}}
			v.Desired = perigee.NewDesired(perigee.Desired{Regions: perigee.BuiltinRegions(), Functions: map[string]*perigee.Function{"law": fn}})
		}},
	} {
		v := view()
		delete(v.Observed.Nodes, "ams-1")
		choose := New(Config{Self: "wdc-1", Locate: func(netip.Addr) geo.Place {
			return geo.Place{Point: &perigee.Point{Lat: 50.1, Lon: 8.7}, RadiusKm: 20, Source: geo.SourceDatabase}
		}})
		client, fra := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.2")
		if o, err := choose.Nearer(v, "x", client, nil); err != nil || o.ID != "fra-1" || !slices.Contains(choose.Addrs(v, "x", client), fra) {
			t.Fatalf("before anything happens: %+v, %v", o, err)
		}
		v = &perigee.View{Desired: v.Desired, Observed: v.Observed}
		c.change(v, v.Observed.Nodes["fra-1"])
		if o, err := choose.Nearer(v, "x", client, nil); err == nil || slices.Contains(choose.Addrs(v, "x", client), fra) {
			t.Errorf("%s: %+v, %v", c.what, o, choose.Addrs(v, "x", client))
		}
	}
}
