package placement

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Terminates reports whether a node may end the TLS of a host, and so hold its key and see what clients
// send: the residency of every function that answers there allows it. If not, rule is the one that excludes
// the node. For "*." and a domain it is about all hosts directly below. A host that no function answers at
// excludes nobody.
func Terminates(d *perigee.Desired, host string, n perigee.NodeClaims) (rule string, ok bool) {
	if strings.HasPrefix(host, "*.") {
		for _, fn := range d.FunctionsAt(host) {
			if rule, ok := resident(d, fn, n); !ok {
				return rule, false
			}
		}
		return "", true
	}
	for fn := range d.At(host) {
		if rule, ok := resident(d, fn, n); !ok {
			return rule, false
		}
	}
	return "", true
}

// resident is Allowed by residency alone.
func resident(d *perigee.Desired, fn *perigee.Function, n perigee.NodeClaims) (rule string, ok bool) {
	list := fn.Policy().Residency
	if len(list) == 0 {
		return "", true
	}
	return Allowed(&perigee.Policy{Residency: list}, n, d.Regions)
}

// Terminators returns the gateways in service that may end the TLS of a host, nearest first as seen from a
// node; that node is not among them. rtt returns the measured way to a node, if there is one.
func Terminators(v *perigee.View, from perigee.NodeClaims, host string, rtt func(perigee.NodeID) (time.Duration, bool)) []perigee.NodeID {
	type gateway struct {
		id  perigee.NodeID
		way time.Duration
	}
	var list []gateway
	for id, p := range v.Observed.Nodes {
		if id == from.ID || p.HTTPS == "" || !p.Routable() || v.Desired.Revoked[id] {
			continue
		}
		if _, ok := Terminates(v.Desired, host, p.NodeClaims); !ok {
			continue
		}
		way, measured := rtt(id)
		if !measured {
			way = estimateRTT(v.Desired.Regions, from.Region, p.Region)
		}
		list = append(list, gateway{id, way})
	}
	slices.SortFunc(list, func(a, b gateway) int { return cmp.Or(cmp.Compare(a.way, b.way), cmp.Compare(a.id, b.id)) })
	ids := make([]perigee.NodeID, len(list))
	for i, g := range list {
		ids[i] = g.id
	}
	return ids
}
