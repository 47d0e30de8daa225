package edgeproxy

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

// afar is a world of gateways in Washington, Frankfurt and Sydney, of which those two have domains of their own,
// and a client in Sydney.
func afar() (*world, string) {
	w := newWorld("wdc-1", "fra-1", "syd-1")
	for i, id := range []perigee.NodeID{"wdc-1", "fra-1", "syd-1"} {
		w.changeNode(id, func(p *perigee.Peer) {
			p.HTTPS = "[::]:443"
			p.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 7443)
		})
	}
	w.change(func(m *perigee.Manifest) {
		for _, r := range []string{"fra", "syd"} {
			m.Routes = append(m.Routes, perigee.Route{Host: "hello." + r + ".example.com"})
		}
	})
	return w, "198.51.100.7"
}

// sends makes a gateway that sends clients on; those of 198.51.100.0/24 are in Sydney.
func sends(t *testing.T, w *world, self, level string) *Proxy {
	return newProxy(t, w, self, newLocal(greet), newHops(), func(cfg *Config) {
		cfg.NearerGateway = level
		cfg.GatewayDomains = map[perigee.NodeID]string{"fra-1": "fra.example.com", "syd-1": "syd.example.com"}
		cfg.Gateways = gateways.New(gateways.Config{Self: perigee.NodeID(self), Locate: func(a netip.Addr) geo.Place {
			if strings.HasPrefix(a.String(), "198.51.100.") {
				return geo.Place{Country: "AU", Point: &perigee.Point{Lat: -33.9, Lon: 151.2}, RadiusKm: 20, Source: geo.SourceDatabase}
			}
			return geo.Place{}
		}})
	})
}

// over makes a request as it comes over TLS.
func over(host, method, target, client string, body io.Reader) *http.Request {
	r := request(method, target, body)
	r.Host, r.RemoteAddr, r.TLS = host, client+":1234", &tls.ConnectionState{ServerName: host}
	return r
}

func TestSentToANearerGateway(t *testing.T) {
	w, client := afar()
	p := sends(t, w, "wdc-1", nearerRedirect)
	with := func(r *http.Request, key, value string) *http.Request { r.Header.Set(key, value); return r }
	small, large := strings.NewReader("x"), strings.NewReader(strings.Repeat("x", smallBody+1))
	for _, c := range []struct {
		what string
		r    *http.Request
		to   string // "" = served here
	}{
		{"a program in Sydney", over(testHost, "GET", "/a%20b?x=1&perigee-prefer=syd", client, nil), "https://hello.syd.example.com/a%20b?x=1&perigee-prefer=syd"},
		{"a small body", over(testHost, "POST", "/", client, small), "https://hello.syd.example.com/"},
		{"a large body", over(testHost, "POST", "/", client, large), ""},
		{"a large body that waits", with(over(testHost, "PUT", "/", client, strings.NewReader(strings.Repeat("x", smallBody+1))), "Expect", "100-continue"), "https://hello.syd.example.com/"},
		{"a client that is anywhere", over(testHost, "GET", "/", "203.0.113.9", nil), ""},
		{"credentials, which would be dropped", with(over(testHost, "GET", "/", client, nil), "Authorization", "Bearer x"), ""},
		{"a cookie", with(over(testHost, "GET", "/", client, nil), "Cookie", "a=b"), ""},
		{"a script of another origin", with(over(testHost, "GET", "/", client, nil), "Origin", "https://example.org"), ""},
		{"a browser", with(over(testHost, "GET", "/", client, nil), "Sec-Fetch-Mode", "navigate"), ""},
		{"a question about the resource", over(testHost, "OPTIONS", "/", client, nil), ""},
		{"without TLS", func() *http.Request { r := over(testHost, "GET", "/", client, nil); r.TLS = nil; return r }(), ""},
		{"one that was sent here", over("hello.fra.example.com", "GET", "/", client, nil), ""},
	} {
		rec, _ := send(p, c.r)
		got := rec.Header().Get("Location")
		if want := map[bool]int{true: 200, false: 307}[c.to == ""]; rec.Code != want || got != c.to {
			t.Errorf("%s: %d to %q, want %d to %q", c.what, rec.Code, got, want, c.to)
		}
		if rc := receiptOf(t, rec.Header()); c.to != "" && (rc.Reason != ReasonNearer || rec.Header().Get("Cache-Control") != "no-store") {
			t.Errorf("%s: reason %s, %v", c.what, rc.Reason, rec.Header())
		}
	}
}

// TestNeverSentInLoops follows a client from gateway to gateway, each of which believes that another is nearer: it
// is sent at most once.
func TestNeverSentInLoops(t *testing.T) {
	w, client := afar()
	at := map[string]*Proxy{"hello.syd.example.com": sends(t, w, "fra-1", nearerRedirect), testHost: sends(t, w, "wdc-1", nearerRedirect)} // the name of Sydney leads to Frankfurt
	host, sent := testHost, 0
	for range 5 {
		rec, _ := send(at[host], over(host, "GET", "/", client, nil))
		if rec.Code == http.StatusOK {
			break
		}
		u, err := url.Parse(rec.Header().Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		host, sent = u.Host, sent+1
	}
	equal(t, "redirects", sent, 1)
}

// TestOnlySentWhereItMayBe: not to a gateway that is going or gone, has no host of its own, lies outside the
// residency, or whose host is another function's.
func TestOnlySentWhereItMayBe(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*world)
	}{
		{"it drains", func(w *world) { w.changeNode("syd-1", func(p *perigee.Peer) { p.Draining = true }) }},
		{"it is dead", func(w *world) { w.changeNode("syd-1", func(p *perigee.Peer) { p.State = perigee.NodeDead }) }},
		{"it takes no clients", func(w *world) { w.changeNode("syd-1", func(p *perigee.Peer) { p.HTTPS = "" }) }},
		{"the host is to stay in America", func(w *world) { w.change(func(m *perigee.Manifest) { m.Placement.Residency = []string{"na"} }) }},
		{"it has no route there", func(w *world) { w.change(func(m *perigee.Manifest) { m.Routes = m.Routes[:1] }) }},
		{"another function has it", func(w *world) {
			w.change(func(m *perigee.Manifest) { m.Routes = m.Routes[:1] })
			v := w.view.Load()
			other := &perigee.Function{Name: "other", Live: &perigee.Revision{Manifest: perigee.Manifest{Name: "other", Routes: []perigee.Route{{Host: "hello.syd.example.com"}}}}}
			w.set(v.Observed.Nodes, v.Desired.Functions["hello"], other)
		}},
		{"another function there is to stay in America", func(w *world) {
			v := w.view.Load()
			other := &perigee.Function{Name: "other", Live: &perigee.Revision{Manifest: perigee.Manifest{Name: "other",
				Routes: []perigee.Route{{Host: "hello.syd.example.com", Path: "/law"}}, Placement: perigee.Policy{Residency: []string{"na"}}}}}
			w.set(v.Observed.Nodes, v.Desired.Functions["hello"], other)
		}},
	} {
		w, client := afar()
		c.change(w)
		rec, _ := send(sends(t, w, "wdc-1", nearerRedirect), over(testHost, "GET", "/", client, nil))
		if rec.Code != http.StatusOK {
			t.Errorf("%s: %d to %s", c.what, rec.Code, rec.Header().Get("Location"))
		}
	}
}

// TestToldOfANearerGateway: browsers hear of it over HTTP/1 and 2, once for each connection, and nothing else changes.
func TestToldOfANearerGateway(t *testing.T) {
	w, client := afar()
	for _, c := range []struct{ level, client, want string }{
		{nearerOff, client, `h3=":443"; ma=86400`},
		{nearerHint, client, `h3="192.0.2.3:443"; ma=600, h3=":443"; ma=86400`},
		{nearerHint, "203.0.113.9", `h3=":443"; ma=86400`},
	} {
		p := sends(t, w, "wdc-1", c.level)
		p.altSvc = `h3=":443"; ma=86400`
		rec, _ := send(p, over(testHost, "GET", "/", c.client, nil))
		if got := rec.Header().Get("Alt-Svc"); rec.Code != http.StatusOK || got != c.want {
			t.Errorf("%s: %d with %s, want %s", c.level, rec.Code, got, c.want)
		}
		r := over(testHost, "GET", "/", c.client, nil)
		r.ProtoMajor = 3
		rec, _ = send(p, r)
		equal(t, c.level+": told over HTTP/3", rec.Header().Get("Alt-Svc"), "")
	}
}

// TestExplainNearer: what is explained is what clients are told.
func TestExplainNearer(t *testing.T) {
	w, client := afar()
	fn := w.view.Load().Desired.Functions["hello"]
	for _, c := range []struct{ level, client, host string }{
		{nearerOff, client, testHost}, {nearerHint, client, testHost}, {nearerRedirect, client, testHost},
		{nearerRedirect, "203.0.113.9", testHost}, {nearerRedirect, client, "hello.fra.example.com"},
	} {
		p := sends(t, w, "wdc-1", c.level)
		p.altSvc = `h3=":443"; ma=86400`
		n := p.ExplainNearer(fn, &url.URL{Scheme: "https", Host: c.host, Path: "/x"}, netip.MustParseAddr(c.client))
		rec, _ := send(p, over(c.host, "GET", "/x", c.client, nil))
		if got := rec.Header().Get("Location"); got != n.Location || (n.Location == "") == (n.Not == "") {
			t.Errorf("%+v: sent to %q, explained %+v", c, got, n)
		}
		if got := rec.Header().Get("Alt-Svc"); got != n.AltSvc && (n.AltSvc != "" || got != p.altSvc) {
			t.Errorf("%+v: told %q, explained %+v", c, got, n)
		}
	}
}
