package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/placement"
)

// serveExplain is GET /v1/explain/route: what would happen to a request for a URL whose client is
// somewhere. Only the node that the client reaches knows how far others are from it and what they said
// last, so that one is asked.
func (n *Node) serveExplain(r *http.Request) (any, error) {
	q := r.URL.Query()
	v := n.View()
	from, err := n.whereIs(v, q.Get("from"))
	if err != nil {
		return nil, err
	}
	entry, away := from.node, perigee.Duration(0)
	if entry == "" {
		id, d := placement.Gateway(v, from.region)
		if id == "" {
			return nil, fmt.Errorf("no node is in service")
		}
		if self := v.Observed.Nodes[n.ID()]; self.Region == v.Observed.Nodes[id].Region && self.Routable() {
			id = n.ID() // as near, and nobody needs to be asked
		}
		entry, away = id, perigee.Duration(d)
	}
	q.Set("caller", string(from.region))
	out := RouteExplanation{From: q.Get("from"), Client: from.region, Away: away}
	if entry == n.ID() {
		out.RouteReport, err = n.explainHere(q)
		return out, err
	}
	resp, err := n.control(r.Context(), entry, "/explain?"+q.Encode())
	if err != nil {
		return nil, fmt.Errorf("ask %s, which a client there reaches: %w", entry, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, askMaximum)).Decode(&out.RouteReport); err != nil {
		return nil, fmt.Errorf("ask %s, which a client there reaches: read its answer: %w", entry, err)
	}
	return out, nil
}

// serveNodeExplain is GET /explain on the control connection: the choice of this node.
func (n *Node) serveNodeExplain(w http.ResponseWriter, r *http.Request) {
	report, err := n.explainHere(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, http.StatusOK, report)
}

// explainHere explains the choice for the function that answers a URL here.
func (n *Node) explainHere(q url.Values) (report placement.RouteReport, err error) {
	text := q.Get("url")
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return report, fmt.Errorf("%q is no URL: use one like https://hello.example.com/path", q.Get("url"))
	}
	path := u.Path
	if path == "" {
		path = "/"
	}
	fn := n.View().Desired.Lookup(strings.ToLower(u.Hostname()), path)
	if fn == nil {
		return report, fmt.Errorf("no function answers at %s%s: `perigee ls` shows the routes", u.Hostname(), path)
	}
	return n.proxy.Explain(fn, perigee.Region(q.Get("caller")), edgeproxy.Wish{Prefer: q.Get("prefer"), Force: q.Get("force")})
}

// place is where a client is.
type place struct {
	region perigee.Region
	node   perigee.NodeID // "" = the nearest gateway
}

// whereIs reads where a client is: a region, node:<id> for one that reached that node, or an IP address.
func (n *Node) whereIs(v *perigee.View, text string) (place, error) {
	if id, ok := strings.CutPrefix(text, "node:"); ok {
		p := v.Observed.Nodes[perigee.NodeID(id)]
		if p == nil {
			return place{}, fmt.Errorf("from: there is no node %s: `perigee node ls` shows them", id)
		}
		return place{p.Region, p.ID}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		region, ok := n.locator.Locate(addr).Region(v.Desired.Regions)
		if !ok {
			return place{}, fmt.Errorf("from: nobody knows where %s is: name a region", text)
		}
		return place{region: region}, nil
	}
	if text == "" {
		return place{region: n.Claims().Region}, nil
	}
	if _, ok := v.Desired.Regions.Lookup(perigee.Region(text)); ok {
		return place{region: perigee.Region(text)}, nil
	}
	for _, info := range v.Desired.Regions.All() {
		if strings.EqualFold(info.City, text) {
			return place{region: info.Code}, nil
		}
		if slices.Contains(info.Groups, text) {
			return place{}, fmt.Errorf("from: %s is a group of regions: name one of them, %s for example", text, info.Code)
		}
	}
	return place{}, fmt.Errorf("from: %q is no region, city of one, address or node:<id>: `perigee region ls` lists the regions", text)
}

// whatIf answers POST /v1/what-if.
func (n *Node) whatIf(r *http.Request) (any, error) {
	var ask WhatIf
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxManifest)).Decode(&ask); err != nil {
		return nil, fmt.Errorf("read the question: %w", err)
	}
	v := n.View()
	c := placement.Change{Lose: ask.Lose, Add: ask.Add, Rate: ask.Rate}
	if ask.Rate < 0 {
		return nil, fmt.Errorf("rate = %v: use a factor above 0, like 2", ask.Rate)
	}
	for _, a := range ask.Add {
		if a.Nodes < 1 || a.Nodes > 1000 {
			return nil, fmt.Errorf("add %d nodes in %s: use 1 to 1000", a.Nodes, a.Region)
		}
	}
	if m := ask.Manifest; m != nil {
		if err := checkManifest(m, v.Desired.Regions); err != nil {
			return nil, err
		}
		c.Spec = &perigee.Function{Name: m.Name, Live: &perigee.Revision{Manifest: *m}}
		if live := v.Desired.Functions[m.Name]; live != nil { // the code stays what it is
			rev := *live.Live
			rev.Manifest = *m
			c.Spec = &perigee.Function{Name: m.Name, Live: &rev}
		}
	}
	return placement.WhatIf(v, c)
}
