package node

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

func (n *Node) status() Status {
	v := n.View()
	me := n.Claims()
	s := Status{
		Node: me.ID, Region: me.Region, Cluster: v.Desired.Cluster, Epoch: n.m.epoch, Domain: v.Desired.Domain, Version: perigee.Version,
		Nodes: len(v.Observed.Nodes), Functions: len(v.Desired.Functions), State: v.Desired.Digest,
		Disk: n.disk.trouble(), Rotten: int(n.rotten.Load()), Genesis: n.m.genesisDigest, Record: n.m.genesisRecord, Now: n.gossip.Now(),
	}
	if err := n.ready(); err != nil {
		s.Why = err.Error()
	}
	s.Ready, s.Records = s.Why == "", n.gossip.Usage()
	s.PID, s.Upgrade = os.Getpid(), n.upgrade.failure()
	s.Worries = n.webCerts.worries(time.Now())
	if w := clockWorry(v.Observed.Nodes[me.ID]); w != "" {
		s.Worries = append(s.Worries, w)
	}
	if w := n.tcpWorry(v); w != "" {
		s.Worries = append(s.Worries, w)
	}
	for _, a := range n.gossip.Asides() {
		s.Worries = append(s.Worries, "record "+a.Record.Short()+" is set aside: reading it breaks this release ("+a.Why+"); it is in state/aside: report it")
	}
	for _, p := range byID(v.Observed.Nodes) {
		if p.HasRole(perigee.RoleSigner) {
			s.Signers++
		}
		if p.State != perigee.NodeAlive {
			continue
		}
		s.Alive++
		if p.ID == me.ID || p.Digest == v.Desired.Digest {
			s.Agree++
		}
		if p.ID == me.ID {
			s.Addrs = slices.Insert(s.Addrs, 0, p.Addr.String())
		} else {
			s.Addrs = append(s.Addrs, p.Addr.String())
		}
	}
	return s
}

// tcpWorry names the nodes that UDP does not reach, in a line for people.
func (n *Node) tcpWorry(v *perigee.View) string {
	var over []string
	for _, p := range byID(v.Observed.Nodes) {
		if p.Routable() && p.ID != n.ID() && n.link.Over(p.ID) == "tcp" {
			over = append(over, string(p.ID))
		}
	}
	switch {
	case len(over) > 0:
		return fmt.Sprintf("UDP does not get through to %s, which TCP reaches at a cost: open UDP port %d both ways", strings.Join(over, ", "), n.advertised.Port())
	case n.noTCP != "":
		return "nodes that UDP does not reach can't reach this one: " + n.noTCP
	}
	return ""
}

// clockWorry says that this node's clock is off, in a line for people.
func clockWorry(self *perigee.Peer) string {
	if self == nil {
		return "" // nothing is known yet
	}
	off := time.Duration(self.ClockOff)
	if off.Abs() <= gossip.MaxClockOff {
		return ""
	}
	way := "behind"
	if off < 0 {
		way = "ahead of"
	}
	return fmt.Sprintf("this node's clock is %v %s its peers': correct it (NTP); until then it takes no deploys and orders no certificates", off.Abs(), way)
}

func byID(nodes map[perigee.NodeID]*perigee.Peer) []*perigee.Peer {
	out := make([]*perigee.Peer, 0, len(nodes))
	for _, p := range nodes {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *perigee.Peer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (n *Node) nodes() []NodeStatus {
	out := []NodeStatus{}
	for _, p := range byID(n.View().Observed.Nodes) {
		s := NodeStatus{Peer: *p, Self: p.ID == n.ID()}
		if rtt, ok := n.link.RTT(p.ID); ok {
			s.RTT = perigee.Duration(rtt)
		}
		if !s.Self {
			s.Over = n.link.Over(p.ID)
		}
		out = append(out, s)
	}
	return out
}

func (n *Node) functions() []FunctionStatus {
	v := n.View()
	plans := n.plans.at(v)
	out := []FunctionStatus{}
	for _, fn := range v.Desired.Functions {
		out = append(out, n.functionStatus(v, fn, plans.Explain(fn)))
	}
	slices.SortFunc(out, func(a, b FunctionStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (n *Node) serveFunction(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	v := n.View()
	fn := v.Desired.Functions[name]
	if fn == nil {
		writeJSON(w, http.StatusNotFound, apiError{Error: "no function " + name, Heads: n.gossip.Heads(name), Past: n.gossip.Past(name)})
		return
	}
	plans := n.plans.at(v)
	s := n.functionStatus(v, fn, plans.Explain(fn))
	s.Calls, s.Offers = plans.Demand(v, fn)
	s.Revisions = n.revisionStatus(v, fn)
	writeJSON(w, http.StatusOK, s)
}

func (n *Node) revisionStatus(v *perigee.View, fn *perigee.Function) []RevisionStatus {
	out := []RevisionStatus{}
	for _, id := range fn.History {
		rev, record, ok := n.gossip.RevisionByID(fn.Name, id)
		if !ok {
			continue
		}
		s := RevisionStatus{
			ID: id, Record: record, Author: rev.Author, Created: rev.Created, Placement: rev.Manifest.Placement,
			State: revisionState(fn, rev), Nodes: []perigee.NodeID{},
		}
		for _, p := range byID(v.Observed.Nodes) {
			if p.Revisions[id] >= perigee.Held && (p.State == perigee.NodeAlive || p.State == perigee.NodeSuspect) {
				s.Nodes = append(s.Nodes, p.ID)
			}
		}
		out = append(out, s)
	}
	return out
}

func revisionState(fn *perigee.Function, rev *perigee.Revision) string {
	switch {
	case rev.ID == fn.Live.ID:
		return RevisionLive
	case slices.ContainsFunc(fn.Conflicts, func(c perigee.Conflict) bool { return c.Revision == rev.ID }):
		return RevisionConflict
	case slices.Contains(fn.Kept, rev):
		return RevisionKept
	}
	return RevisionOld
}

func (n *Node) functionStatus(v *perigee.View, fn *perigee.Function, plan placement.Plan) FunctionStatus {
	s := FunctionStatus{Function: fn, Heads: n.gossip.Heads(fn.Name), Past: n.gossip.Past(fn.Name), Holders: []Holder{}, Plan: plan, Rollout: n.rollouts.of(v, fn)}
	for _, p := range byID(v.Observed.Nodes) {
		h := Holder{Node: p.ID, Region: p.Region, Groups: v.Desired.Regions.Groups(p.Region), State: p.State, Warmth: p.Revisions[fn.Live.ID], Wanted: wanted(plan, p.ID), Trial: p.Trials[fn.Live.ID]}
		h.Planned = h.Wanted > perigee.Absent
		if h.Planned || h.Warmth > perigee.Absent {
			s.Holders = append(s.Holders, h)
		}
	}
	for _, r := range fn.Routes(v.Desired.Domain) {
		s.URLs = append(s.URLs, "https://"+r.Host+r.Path)
	}
	return s
}

func (n *Node) tokens() []TokenStatus {
	out := []TokenStatus{}
	for _, t := range n.gossip.Tokens() {
		s := TokenStatus{
			ID: record.KeyIDOf(t.Token.Public), Kind: t.Token.Kind, Region: t.Token.Region,
			Signer: t.Token.Signer, Roles: t.Token.Roles, Expires: t.Token.ExpiresAt(), Revoked: t.Revoked || t.Former && t.Redeemed == nil, Scope: t.Token.Scope,
		}
		if t.Redeemed != nil {
			s.Redeemed = string(t.Redeemed.Node)
			if s.Redeemed == "" {
				key := record.KeyIDOf(t.Redeemed.Public)
				_, good := n.gossip.Person(key)
				s.Redeemed, s.KeyRevoked = string(key), !good
			}
		}
		out = append(out, s)
	}
	slices.SortStableFunc(out, func(a, b TokenStatus) int { return a.Expires.Compare(b.Expires) })
	return out
}
