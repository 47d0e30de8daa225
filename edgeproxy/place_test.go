package edgeproxy

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/perigee-edge/perigee"
)

// TestCallersByPlace: where a client is decides where its request may run, whichever node took it.
func TestCallersByPlace(t *testing.T) {
	w := newWorld("wdc-1", "fra-1")
	w.change(func(m *perigee.Manifest) {
		m.Placement.Callers = []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}}
	})
	where := map[string][2]string{"198.51.100.1": {"DE", "fra"}, "198.51.100.2": {"US", "wdc"}, "198.51.100.3": {"CH", ""}, "10.9.9.9": {"NL", "ams"}}
	var seen http.Header
	local := newLocal(func(w http.ResponseWriter, r *http.Request) { seen = r.Header; greet(w, r) })
	hops := newHops().on("fra-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
		seen = r.Header
		m, err := parseHop(r.Header)
		if err != nil {
			t.Error(err)
		}
		seen = http.Header{}
		m.dress(seen, "fra", testHost)
		return answers("from Frankfurt")(r)
	})
	p := newProxy(t, w, "wdc-1", local, hops, func(cfg *Config) {
		cfg.Client = func(a netip.Addr, _ *perigee.Regions) (string, perigee.Region) {
			known := where[a.String()]
			return known[0], perigee.Region(known[1])
		}
	})
	for _, c := range []struct{ what, client, ran, country, region string }{
		{"a client in Germany", "198.51.100.1", "fra-1", "DE", "fra"},
		{"one in America", "198.51.100.2", "wdc-1", "US", "wdc"},
		{"one whose country has no region here: all rules bind", "198.51.100.3", "fra-1", "CH", ""},
		{"one that may be anywhere", "203.0.113.9", "fra-1", "", ""},
		{"one of this machine", "127.0.0.1", "wdc-1", "", "wdc"},
		{"one of a private network", "10.1.2.3", "wdc-1", "", "wdc"},
		{"one of a private network that a database lists", "10.9.9.9", "fra-1", "NL", "ams"},
	} {
		r := request("GET", "/", nil)
		r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(c.client), 1234).String()
		r.Header.Set(headerClientCountry, "XX") // a client can't say where it is
		r.Header.Set(headerClientRegion, "moon")
		rec, _ := send(p, r)
		equal(t, c.what+": status", rec.Code, http.StatusOK)
		equal(t, c.what+": ran on", receiptOf(t, rec.Header()).Node, perigee.NodeID(c.ran))
		equal(t, c.what+": country", seen.Get(headerClientCountry), c.country)
		equal(t, c.what+": region", seen.Get(headerClientRegion), c.region)
	}
}

// TestHopObeysCallers: the worker holds a hop against the rules for where the client is, not for where its entry is.
func TestHopObeysCallers(t *testing.T) {
	w := newWorld("wdc-1", "fra-1")
	w.change(func(m *perigee.Manifest) {
		m.Placement.Callers = []perigee.CallerRule{{From: []string{"na"}, Run: []string{"na"}}}
	})
	p := newProxy(t, w, "fra-1", newLocal(greet), newHops())
	for caller, want := range map[perigee.Region]perigee.RefuseCode{"fra": "", "wdc": perigee.RefusedNotAllowed, regionUnknown: perigee.RefusedNotAllowed, "": perigee.RefusedNotAllowed} {
		r := hopRequest()
		r.Header.Del(hopCaller)
		if caller != "" {
			r.Header.Set(hopCaller, string(caller))
		}
		rec, _ := sendHop(p, r)
		equal(t, "a client in "+string(caller), rec.refused, want)
	}
}
