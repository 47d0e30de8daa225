package perigee

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Policy says where a function may run and where it should. The zero Policy allows every node.
//
// A place in a list is a Term: a region, a group of regions, "node:<id>" or "label:<key>=<value>".
// Residency, Pin, Forbid and Callers are hard: no trigger, hop or failure relaxes them.
type Policy struct {
	Residency []string       `toml:"residency" json:"residency,omitempty"` // hard: runs, and its bundle is stored, only here
	Pin       []string       `toml:"pin" json:"pin,omitempty"`             // hard: runs only here, with a holder in each place named
	Forbid    []string       `toml:"forbid" json:"forbid,omitempty"`       // hard: never runs here
	Callers   []CallerRule   `toml:"callers" json:"callers,omitempty"`     // hard: requests from there run only there
	Prefer    []string       `toml:"prefer" json:"prefer,omitempty"`       // soft, ordered: the first entry with capacity, even if slower
	Near      string         `toml:"near" json:"near,omitempty"`           // soft: what it should be near: "client", the default, "host:<name>:<port>" or "fn:<name>"
	Warm      map[string]int `toml:"warm" json:"warm,omitempty"`           // holders kept warm, by region or group
	Survive   string         `toml:"survive" json:"survive,omitempty"`     // what may be lost at once: SurviveNode, the default, SurviveZone or SurviveRegion
	Max       int            `toml:"max" json:"max,omitempty"`             // holders at most; 0 = as the other fields ask

	OnUnsatisfiable string `toml:"on_unsatisfiable" json:"on_unsatisfiable,omitempty"` // OnReject, the default, or OnDegrade
}

// The values of Policy.Survive: with any one of these lost, a holder is left.
const (
	SurviveNode   = "node"
	SurviveZone   = "zone"
	SurviveRegion = "region"
)

// The values of Policy.OnUnsatisfiable: what happens to a deploy whose policy the cluster can't give now.
const (
	OnReject  = "reject"  // it is refused
	OnDegrade = "degrade" // Survive and Warm are given as far as possible; all else must be there
)

// NearClient is the default of Policy.Near: near to whoever calls.
const NearClient = "client"

// A Target is what a function should be near to, besides its callers. At most one field is set.
type Target struct {
	Host     string // "name:port", reached over TCP
	Function string
}

// ParseNear reads Policy.Near. The zero Target means: near to the callers.
func ParseNear(s string) (Target, error) {
	if s == "" || s == NearClient {
		return Target{}, nil
	}
	if fn, ok := strings.CutPrefix(s, "fn:"); ok {
		return Target{Function: fn}, CheckLabel(fn)
	}
	host, ok := strings.CutPrefix(s, "host:")
	if !ok {
		return Target{}, fmt.Errorf(`%.80q: want "client", "host:<name>:<port>" or "fn:<name>"`, s)
	}
	colon := strings.LastIndexByte(host, ':')
	port, err := strconv.ParseUint(host[colon+1:], 10, 16)
	if err != nil || port == 0 || colon < 1 || len(host) > 260 || strings.ContainsAny(host[:colon], " /@,") {
		return Target{}, fmt.Errorf(`%.80q: want "host:<name>:<port>", for example "host:db.example.com:5432"`, s)
	}
	return Target{Host: host}, nil
}

// WithHard returns p with the hard rules of h.
func (p Policy) WithHard(h *Policy) Policy {
	p.Residency, p.Pin, p.Forbid, p.Callers = h.Residency, h.Pin, h.Forbid, h.Callers
	return p
}

// CallerRule says that requests from one place run only in another.
type CallerRule struct {
	From []string `toml:"from" json:"from"`
	Run  []string `toml:"run" json:"run"`
}

// A Term is one parsed place of a Policy. Exactly one of its fields is set, except that a label
// has both Label and Value.
type Term struct {
	Place string // a region or a group of regions
	Node  NodeID
	Label string
	Value string
}

// ParseTerm reads a place as it stands in a Policy.
func ParseTerm(s string) (Term, error) {
	if id, ok := strings.CutPrefix(s, "node:"); ok {
		return Term{Node: NodeID(id)}, CheckLabel(id)
	}
	if kv, ok := strings.CutPrefix(s, "label:"); ok {
		k, v, found := strings.Cut(kv, "=")
		if !found || k == "" || v == "" {
			return Term{}, fmt.Errorf("%q: want label:<key>=<value>", s)
		}
		return Term{Label: k, Value: v}, nil
	}
	return Term{Place: s}, CheckLabel(s)
}

// Matches reports whether a node with this identity, in a cluster with these regions, is in the place.
func (t Term) Matches(n NodeClaims, regions *Regions) bool {
	switch {
	case t.Node != "":
		return t.Node == n.ID
	case t.Label != "":
		v, ok := n.Labels[t.Label]
		return ok && v == t.Value
	case Region(t.Place) == n.Region:
		return true
	}
	return slices.Contains(regions.Groups(n.Region), t.Place)
}
