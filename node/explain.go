package node

import (
	"context"
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
	switch at := v.Observed.Nodes[perigee.NodeID(q.Get("at"))]; {
	case at != nil:
		entry, away = at.ID, perigee.Duration(placement.Away(v, from.region, at))
	case q.Get("at") != "":
		return nil, fmt.Errorf("at: there is no node %s: `perigee node ls` shows them", q.Get("at"))
	case entry == "":
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
	q.Set("client", from.client)
	out := RouteExplanation{From: q.Get("from"), Client: from.region, Away: away}
	var at RouteExplanation
	if entry == n.ID() {
		at, err = n.explainHere(r.Context(), q)
	} else {
		at, err = n.askExplain(r.Context(), entry, q)
	}
	out.Passed, out.Nearer, out.RouteReport = at.Passed, at.Nearer, at.RouteReport
	return out, err
}

// askExplain asks the node that a connection reaches.
func (n *Node) askExplain(ctx context.Context, id perigee.NodeID, q url.Values) (out RouteExplanation, err error) {
	resp, err := n.control(ctx, id, "/explain?"+q.Encode())
	if err != nil {
		return out, fmt.Errorf("ask %s, which a client there reaches: %w", id, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, askMaximum)).Decode(&out); err != nil {
		return out, fmt.Errorf("ask %s, which a client there reaches: read its answer: %w", id, err)
	}
	return out, nil
}

// serveNodeExplain is GET /explain on the control connection: what happens to a connection that reaches
// this node, of which only the choice and the passing on are told.
func (n *Node) serveNodeExplain(w http.ResponseWriter, r *http.Request) {
	out, err := n.explainHere(r.Context(), r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

// passedKey marks a question of a node that passes a connection on: it is not passed on again.
const passedKey = "passed"

// explainHere explains the choice for the function that answers a URL here. If this node may not see what
// is said to the host, the one that it passes the connection on to is asked.
func (n *Node) explainHere(ctx context.Context, q url.Values) (out RouteExplanation, err error) {
	text := q.Get("url")
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return out, fmt.Errorf("%q is no URL: use one like https://hello.example.com/path", q.Get("url"))
	}
	path := u.Path
	if path == "" {
		path = "/"
	}
	fn := n.View().Desired.Lookup(strings.ToLower(u.Hostname()), path)
	if fn == nil {
		return out, fmt.Errorf("no function answers at %s%s: `perigee ls` shows the routes", u.Hostname(), path)
	}
	v, host := n.View(), strings.ToLower(u.Hostname())
	if rule, ok := placement.Terminates(v.Desired, host, n.Claims()); !ok {
		to := placement.Terminators(v, n.Claims(), host, n.link.RTT)
		if len(to) == 0 || q.Has(passedKey) {
			return out, fmt.Errorf("%s may not see what is said to %s (%s), and no gateway that may is in service: start one there", n.ID(), host, rule)
		}
		q.Set(passedKey, "")
		out, err = n.askExplain(ctx, to[0], q)
		out.Passed = &Passing{n.ID(), n.Claims().Region, rule}
		return out, err
	}
	if client, err := netip.ParseAddr(q.Get("client")); err == nil && !q.Has(passedKey) {
		nearer := n.proxy.ExplainNearer(fn, u, client)
		out.Nearer = &nearer
	}
	out.RouteReport, err = n.proxy.Explain(fn, perigee.Region(q.Get("caller")), edgeproxy.Wish{Prefer: q.Get("prefer"), Force: q.Get("force")})
	return out, err
}

// place is where a client is.
type place struct {
	region perigee.Region
	node   perigee.NodeID // "" = the nearest gateway
	client string         // address; "" = not known
}

// whereIs reads where a client is: a region, node:<id> for one that reached that node, or an IP address.
func (n *Node) whereIs(v *perigee.View, text string) (place, error) {
	if id, ok := strings.CutPrefix(text, "node:"); ok {
		p := v.Observed.Nodes[perigee.NodeID(id)]
		if p == nil {
			return place{}, fmt.Errorf("from: there is no node %s: `perigee node ls` shows them", id)
		}
		return place{region: p.Region, node: p.ID}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		region, ok := n.locator.Locate(addr).Region(v.Desired.Regions)
		if !ok {
			return place{}, fmt.Errorf("from: nobody knows where %s is: name a region", text)
		}
		return place{region: region, client: addr.String()}, nil
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
