package edgeproxy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/placement"
)

// The values of Config.NearerGateway.
const (
	nearerOff      = "off"
	nearerHint     = "hint"
	nearerRedirect = "redirect"
)

var nearerLevels = []string{nearerOff, nearerHint, nearerRedirect} // each does what those before it do

// ReasonNearer is the reason on responses that send a client to a nearer gateway.
const ReasonNearer = "nearer-gateway"

const (
	hintAge   = 10 * time.Minute // that clients remember a nearer gateway, which may go away
	smallBody = 64 << 10         // bytes that a client may send twice
)

// Nearer is what this node tells a client for which another gateway is much nearer.
type Nearer struct {
	Node     perigee.NodeID   `json:"node,omitempty"` // that gateway; "" = there is none
	Region   perigee.Region   `json:"region,omitempty"`
	Here     perigee.Duration `json:"here,omitempty"`     // about, between the client and this node
	There    perigee.Duration `json:"there,omitempty"`    // and that gateway
	AltSvc   string           `json:"alt_svc,omitempty"`  // what clients hear over HTTP/1 and 2; "" = nothing
	Location string           `json:"location,omitempty"` // where those are sent who lose nothing by it (307); "" = nowhere
	Not      string           `json:"not,omitempty"`      // why they are told nothing, or are not sent
}

// nearer returns what the client is told: of a nearer gateway, as far as the operator wants it, and where to
// send the request instead of serving it here. hint says that the field Alt-Svc is of use.
func (v *visit) nearer(client netip.Addr, hint bool) (n Nearer) {
	p := v.proxy
	switch {
	case p.cfg.NearerGateway == nearerOff:
		n.Not = `nearer_gateway = "off"`
		return n
	case v.facts.proto != "https":
		n.Not = "it does not use https"
		return n
	case v.receipt.Via != "":
		n.Not = "its connection was passed on to this gateway"
		return n
	}
	if hint {
		o, err := p.cfg.Gateways.Nearer(v.view, v.host, client, nil)
		if err != nil {
			n.Not = err.Error()
			return n
		}
		n.Node, n.Region, n.Here, n.There = o.ID, o.Region, perigee.Duration(o.Here), perigee.Duration(o.There)
		n.AltSvc = p.hint(o)
	}
	if p.cfg.NearerGateway == nearerHint {
		n.Not = `nearer_gateway = "hint"`
		return n
	}
	if n.Not = mustStay(v.in); n.Not != "" {
		return n
	}
	if p.sentHere(v.host) {
		n.Not = "the host is a gateway's own: whoever asks for it was sent there"
		return n
	}
	o, err := p.cfg.Gateways.Nearer(v.view, v.host, client, v.elsewhere)
	if err != nil {
		n.Not = "no gateway there has a host of its own at which the function answers (gateway_domains, and a route)"
		return n
	}
	n.Node, n.Region, n.Here, n.There = o.ID, o.Region, perigee.Duration(o.Here), perigee.Duration(o.There)
	n.Location = p.location(v.host, v.in.URL.RequestURI(), o.Gateway)
	return n
}

// sendOn tells the client of a nearer gateway, and sends it there; false = the request is served here.
func (v *visit) sendOn(client netip.Addr) bool {
	n := v.nearer(client, v.answer.altSvc != "")
	if n.AltSvc != "" {
		v.answer.altSvc = n.AltSvc
	}
	if n.Location == "" {
		return false
	}
	v.receipt.Reason = ReasonNearer
	v.refuse(&problem{
		status: http.StatusTemporaryRedirect, cause: ReasonNearer, location: n.Location,
		what: "A gateway that is much nearer to you answers this.", hint: "Ask it, with the same method and body: " + n.Location,
	})
	return true
}

// ExplainNearer says what this node tells a client that asks here for a URL over HTTP/1 or 2, without
// credentials and for the first time.
func (p *Proxy) ExplainNearer(fn *perigee.Function, u *url.URL, client netip.Addr) Nearer {
	v := &visit{proxy: p, view: p.cfg.View(), fn: fn, host: canonicalHost(u.Host), in: &http.Request{Method: http.MethodGet, URL: u}}
	v.facts.proto = u.Scheme
	return v.nearer(client, true)
}

// hint is the field that offers a gateway for this host, and this node after it; "" without HTTP/3, over which
// such offers are taken. A client that goes there asks for the same host, and gets the same certificate.
func (p *Proxy) hint(o gateways.Offer) string {
	if p.altSvc == "" {
		return ""
	}
	return fmt.Sprintf(`h3="%s"; ma=%d, %s`, o.Addr, int(hintAge.Seconds()), p.altSvc)
}

// mustStay says why a request can't be sent to another host without harm; "" = it can. Browsers keep cookies,
// origin and what the address bar says by the hint; programs drop credentials on the way to another host. A
// body that is on its way would be sent twice (RFC 9110, section 15.4.8 keeps method and body); one that waits for
// 100 (Continue) would not.
func mustStay(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		return "its method is " + r.Method
	}
	for _, name := range []string{"Authorization", "Cookie", "Origin", "Sec-Fetch-Mode", "Upgrade"} {
		if len(r.Header[name]) > 0 {
			return "it has the field " + name
		}
	}
	if (r.ContentLength < 0 || r.ContentLength > smallBody) && r.Header.Get("Expect") == "" {
		return "its body is on its way"
	}
	return ""
}

// sentHere reports whether a host is a gateway's own: whoever asks for it was sent there, and is not sent on.
func (p *Proxy) sentHere(host string) bool {
	_, domain, _ := strings.Cut(host, ".")
	for _, d := range p.cfg.GatewayDomains {
		if domain == d {
			return true
		}
	}
	return false
}

// elsewhere reports whether a gateway has a host of its own at which the same function answers.
func (v *visit) elsewhere(g gateways.Gateway) bool {
	own := v.proxy.ownHost(v.host, g.ID)
	if own == "" {
		return false
	}
	fn := v.view.Desired.Lookup(own, v.in.URL.Path)
	if fn == nil || fn.Name != v.fn.Name {
		return false
	}
	_, ok := placement.Terminates(v.view.Desired, own, v.view.Observed.Nodes[g.ID].NodeClaims)
	return ok
}

// ownHost is the host at which a gateway alone is reached that stands for another: its first label below the
// gateway's domain; "" = there is none.
func (p *Proxy) ownHost(host string, id perigee.NodeID) string {
	domain, ok := p.cfg.GatewayDomains[id]
	if !ok {
		return ""
	}
	label, _, _ := strings.Cut(host, ".")
	return label + "." + domain
}

func (p *Proxy) location(host, uri string, g gateways.Gateway) string {
	own := p.ownHost(host, g.ID)
	if port := g.Addr.Port(); port != 443 {
		own = fmt.Sprintf("%s:%d", own, port)
	}
	return "https://" + own + uri
}

func (cfg *Config) fillNearer() error {
	if cfg.NearerGateway == "" {
		cfg.NearerGateway = nearerOff
	}
	switch {
	case !slices.Contains(nearerLevels, cfg.NearerGateway):
		return fmt.Errorf("edgeproxy: nearer gateway %q: want one of %q", cfg.NearerGateway, nearerLevels)
	case cfg.NearerGateway != nearerOff && cfg.Gateways == nil:
		return errors.New("edgeproxy: a nearer gateway needs Gateways, which chooses it")
	case cfg.NearerGateway == nearerRedirect && len(cfg.GatewayDomains) == 0:
		return errors.New("edgeproxy: redirects need GatewayDomains: gateways without a domain of their own can't be told apart")
	}
	return nil
}
