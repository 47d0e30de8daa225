package edgeproxy

import (
	"crypto/tls"
	"net/http"
	"testing"

	"github.com/quic-go/quic-go"
)

// resumes reports whether a session of first goes on at second, over TCP and over QUIC.
func resumes(t *testing.T, first, second *Proxy, ca *testCA) (overTCP, overQUIC bool) {
	t.Helper()
	session := tls.NewLRUClientSessionCache(1)
	for _, p := range []*Proxy{first, second} {
		c := client(t, p, ca, true)
		c.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = session
		r, _ := http.NewRequest("GET", "https://"+testHost+"/", nil)
		resp, _ := do(t, c, r)
		overTCP = resp.TLS.DidResume
	}
	conf := &tls.Config{RootCAs: ca.pool(), ServerName: testHost, NextProtos: []string{"h3"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for _, p := range []*Proxy{first, second} {
		c, err := quic.DialAddr(t.Context(), p.cfg.OnHTTP3.LocalAddr().String(), conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.AcceptUniStream(t.Context()) // the ticket has come by now
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Read(make([]byte, 1))
		overQUIC = c.ConnectionState().TLS.DidResume
		if c.ConnectionState().Used0RTT {
			t.Error("0-RTT")
		}
		_ = c.CloseWithError(0, "")
	}
	return overTCP, overQUIC
}

// TestTickets goes on with a session at another gateway, also while keys are being replaced, and not with keys
// that are gone.
func TestTickets(t *testing.T) {
	ca := newCA(t)
	gateway := func(keys ...byte) *Proxy {
		p := newProxy(t, newWorld("fra-1"), "fra-1", newLocal(greet), newHops(), quiet, withH3(t, ca), func(c *Config) {
			c.TicketKeys = func(host string) (out [][32]byte) {
				if host != testHost {
					t.Errorf("keys of %q", host)
				}
				for _, k := range keys {
					out = append(out, [32]byte{k})
				}
				return out
			}
		})
		run(t, p)
		return p
	}
	old, newer, gone, none := gateway(1), gateway(2, 1), gateway(3, 2), gateway()
	for _, c := range []struct {
		name          string
		first, second *Proxy
		want          bool
	}{
		{"the same keys", newer, newer, true},
		{"newer keys there", old, newer, true},
		{"newer keys here", newer, old, false},
		{"keys that are gone", old, gone, false},
		{"no shared keys", none, old, false},
		{"no shared keys, the same node", none, none, true},
	} {
		overTCP, overQUIC := resumes(t, c.first, c.second, ca)
		if overTCP != c.want || overQUIC != c.want {
			t.Errorf("%s: resumed over TCP %v, over QUIC %v; want %v", c.name, overTCP, overQUIC, c.want)
		}
	}
}

// TestTicketConfigs keeps a bounded number of configurations, one for each set of keys.
func TestTicketConfigs(t *testing.T) {
	keys := [][32]byte{{1}}
	c := &ticketConfigs{base: &tls.Config{}, keys: func(string) [][32]byte { return keys }, byKeys: map[[32]byte]*tls.Config{}}
	one, _ := c.forClient(&tls.ClientHelloInfo{})
	two, _ := c.forClient(&tls.ClientHelloInfo{})
	equal(t, "made once", one == two, true)
	for i := range 3 * maxTicketConfigs {
		keys = [][32]byte{{byte(i), byte(i >> 8), 1}}
		_, _ = c.forClient(&tls.ClientHelloInfo{})
	}
	if len(c.byKeys) > maxTicketConfigs {
		t.Errorf("%d configurations", len(c.byKeys))
	}
}
