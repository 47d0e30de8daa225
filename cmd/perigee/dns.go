package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee/node"
)

// dnsTime is for all names together: the deploy is done, this is only advice.
const dnsTime = 3 * time.Second

// adviseDNS says which records to add for the hosts that do not lead to the cluster. Names that no public
// DNS has are left alone, and so is a cluster on addresses that no client could reach.
func adviseDNS(ctx context.Context, w io.Writer, p *node.Person, hosts []string) {
	nodes, err := p.Nodes(ctx)
	if err != nil {
		return // said elsewhere
	}
	gateways := gatewaysOf(nodes)
	if len(gateways) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dnsTime)
	defer cancel()
	for _, host := range hosts {
		if node.IsPublicHost(host) {
			if text := missingRecords(host, gateways, lookup(ctx, host)); text != "" {
				fmt.Fprint(w, text)
			}
		}
	}
}

// gatewaysOf returns the public addresses of the nodes that serve HTTPS.
func gatewaysOf(nodes []node.NodeStatus) (out []netip.Addr) {
	for _, n := range nodes {
		a := n.Addr.Addr().Unmap()
		if n.HTTPS != "" && n.Routable() && a.IsGlobalUnicast() && !a.IsPrivate() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func lookup(ctx context.Context, host string) (out []netip.Addr) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // no such name, or no way to know: the advice is the same
	}
	for _, a := range found {
		out = append(out, a.Unmap())
	}
	return out
}

// missingRecords returns the advice for one host; "" = it leads to the cluster.
func missingRecords(host string, gateways, found []netip.Addr) string {
	if slices.ContainsFunc(found, func(a netip.Addr) bool { return slices.Contains(gateways, a) }) {
		return ""
	}
	var b strings.Builder
	if len(found) == 0 {
		fmt.Fprintf(&b, "%s does not exist in the DNS yet; add there:\n", host)
	} else {
		fmt.Fprintf(&b, "%s leads to %v, which is not this cluster; replace that in the DNS by:\n", host, found)
	}
	for _, a := range gateways {
		kind := "A   "
		if a.Is6() {
			kind = "AAAA"
		}
		fmt.Fprintf(&b, "  %s.  %s  %s\n", host, kind, a)
	}
	return b.String()
}

// hostsOf returns the hosts at which a function answers, each once.
func hostsOf(s *node.FunctionStatus) (hosts []string) {
	for _, text := range s.URLs {
		if u, err := url.Parse(text); err == nil && !slices.Contains(hosts, u.Hostname()) {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}
