package residency

import (
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
)

// The judge reads the rules by itself, so that a mistake of package placement is not its own. It knows only
// what World deploys: entries are regions, groups of the catalogue, nodes and labels.

// allowed reports whether a node may run a function, and have its bundle and secrets.
func (w *World) allowed(p *perigee.Policy, n perigee.NodeClaims) bool {
	return w.in(p.Residency, n) && w.in(p.Pin, n) && (len(p.Forbid) == 0 || !w.in(p.Forbid, n))
}

// in reports whether a node is in one of the places; no places are everywhere.
func (w *World) in(places []string, n perigee.NodeClaims) bool {
	for _, s := range places {
		kind, rest, _ := strings.Cut(s, ":")
		switch kind {
		case "node":
			if rest == string(n.ID) {
				return true
			}
		case "label":
			if key, value, _ := strings.Cut(rest, "="); n.Labels[key] == value {
				return true
			}
		default:
			info, _ := w.regions.Lookup(n.Region)
			if s == string(n.Region) || slices.Contains(info.Groups, s) {
				return true
			}
		}
	}
	return len(places) == 0
}

// resident reports whether a node is in the residency of all functions at a host.
func (w *World) resident(v *perigee.View, host string, n perigee.NodeClaims) bool {
	for _, fn := range v.Desired.Functions {
		if fn.Live.Manifest.Routes[0].Host == host && !w.in(fn.Policy().Residency, n) {
			return false
		}
	}
	return true
}
