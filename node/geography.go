package node

import (
	"fmt"

	"github.com/perigee-edge/perigee/edgeproxy/dns"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

// wireGeography makes what knows where clients are, and what sends them to the nearest gateway.
func (n *Node) wireGeography() (err error) {
	n.distances = newDistances(n)
	n.locator = geo.New(geo.Config{Databases: n.cfg.GeoDatabases, Logger: n.log})
	n.gateways = gateways.New(gateways.Config{Self: n.ID(), Locate: n.locator.Locate, Measured: n.distances.regions})
	metrics := dns.NewMetrics(n.registry)
	if n.cfg.DNS == "" {
		return nil
	}
	zones := n.cfg.DNSZones
	if len(zones) == 0 {
		zones = []string{n.m.genesis.Domain}
	}
	n.dns, err = dns.New(dns.Config{
		View: n.View, Choose: n.gateways.Addrs, Listen: n.cfg.DNS, Zones: zones, Servers: n.cfg.DNSServers, Logger: n.log, Metrics: metrics,
	})
	if err != nil {
		return fmt.Errorf("%w (dns in node.toml)", hint(err))
	}
	return nil
}

// DNSAddr returns where the node answers DNS; "" = nowhere.
func (n *Node) DNSAddr() string {
	if n.dns == nil {
		return ""
	}
	return n.dns.Addr()
}
