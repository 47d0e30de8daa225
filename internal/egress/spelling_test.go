package egress

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee/internal/origin"
)

// spellingCase is one spelling in a world whose resolver understands it, and whose function may go there as
// far as a manifest can say it.
type spellingCase struct {
	spelling
	resolver *names
	allowed  []string
	url      string
}

func spellingCases(t *testing.T, v *victim) (out []spellingCase) {
	for _, s := range spellings() {
		c := spellingCase{spelling: s, url: "http://" + s.host + ":" + v.port + "/"}
		bare := strings.Trim(s.host, "[]")
		c.resolver = &names{sets: map[string][][]netip.Addr{}}
		for _, h := range []string{bare, strings.ToLower(bare), strings.ToLower(strings.TrimSuffix(bare, "."))} {
			c.resolver.sets[h] = [][]netip.Addr{addrs(s.addr)}
		}
		if r, err := origin.ParseRule("http://" + s.host + ":" + v.port); err == nil {
			c.allowed = append(c.allowed, r.String())
			c.resolver.sets[r.Host] = [][]netip.Addr{addrs(s.addr)}
		}
		out = append(out, c)
	}
	if len(out) < 300 {
		t.Fatalf("%d spellings, want 300", len(out))
	}
	return out
}

// denied requires that an error is one of the gates'.
func denied(t *testing.T, what string, err error) {
	t.Helper()
	var d *DeniedError
	if !errors.As(err, &d) {
		t.Errorf("%s: got %v, want a denial", what, err)
	}
}

func TestSpellingsDirect(t *testing.T) {
	v := newVictim(t)
	listed := 0
	for _, c := range spellingCases(t, v) {
		e := newEgress(t, Config{Resolver: c.resolver})
		tr := newTransport(t, e, c.allowed...)
		listed += len(c.allowed)
		if _, err := get(t, tr, c.url); err == nil || !strings.Contains(err.Error(), "invalid URL escape") && !strings.Contains(err.Error(), "invalid host") {
			denied(t, c.url, err)
		}
		// The second gate alone, for a resolver that takes all of this for addresses.
		_, err := tr.dial(t.Context(), "tcp", net.JoinHostPort(strings.Trim(c.host, "[]"), v.port))
		denied(t, "dial "+c.host, err)
	}
	if listed < 100 {
		t.Errorf("%d of the spellings can be listed in a manifest: the guard saw too few", listed)
	}
	if n := v.accepted.Load(); n != 0 {
		t.Errorf("%d connections to forbidden addresses", n)
	}
}

// TestSpellingsOfLoopback is the part of the above that reaches the victim if the guard is away.
func TestSpellingsOfLoopback(t *testing.T) {
	v := newVictim(t)
	for _, c := range spellingCases(t, v) {
		if a := netip.MustParseAddr(c.addr); !a.IsLoopback() {
			continue
		}
		tr := newTransport(t, newEgress(t, Config{Resolver: c.resolver}), c.allowed...)
		if resp, err := get(t, tr, c.url); err == nil {
			t.Errorf("%s: %s", c.url, resp.Status)
		}
	}
	if n := v.accepted.Load(); n != 0 {
		t.Errorf("%d connections to loopback", n)
	}
}

// TestSpellingsRedirect has a server that the operator allows send the function elsewhere.
func TestSpellingsRedirect(t *testing.T) {
	v := newVictim(t)
	var location string
	good := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusFound)
	}))
	for _, c := range spellingCases(t, v) {
		c.resolver.sets["good.test"] = [][]netip.Addr{addrs("127.0.0.1")}
		_, port, _ := net.SplitHostPort(good)
		e := newEgress(t, Config{Resolver: c.resolver, Guard: Guard{Allow: networks(t, good)}})
		tr := newTransport(t, e, append(c.allowed, "http://good.test:"+port)...)
		location = c.url
		resp, err := (&http.Client{Transport: tr}).Get("http://good.test:" + port + "/")
		if err == nil {
			t.Errorf("redirect to %s: %s", c.url, resp.Status)
			resp.Body.Close()
		}
		tr.Close()
	}
	if n := v.accepted.Load(); n != 0 {
		t.Errorf("%d connections to forbidden addresses", n)
	}
}

// TestSpellingsRebinding has a name that leads to an allowed address first, and then to a forbidden one
// with the same port.
func TestSpellingsRebinding(t *testing.T) {
	v := newVictim(t)
	served := 0
	good := serveOn(t, "127.0.0.2:"+v.port, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	cases := spellingCases(t, v)
	for _, c := range cases {
		a := addrs(c.addr)
		if strings.HasPrefix(c.host, "[") {
			if lit, err := netip.ParseAddr(strings.Trim(c.host, "[]")); err == nil {
				a = append(a, lit)
			}
		}
		for _, answers := range [][][]netip.Addr{
			{addrs("127.0.0.2"), a},               // the second look-up
			{append(addrs("127.0.0.2"), a...), a}, // the first one has both
		} {
			r := &names{sets: map[string][][]netip.Addr{"rebind.test": answers}}
			tr := newTransport(t, newEgress(t, Config{Resolver: r, Guard: Guard{Allow: networks(t, good)}}), "http://rebind.test:"+v.port)
			resp, err := get(t, tr, "http://rebind.test:"+v.port+"/")
			if err != nil {
				t.Fatalf("%s: the allowed address: %v", c.host, err)
			}
			resp.Body.Close()
			tr.Close()
			_, err = get(t, tr, "http://rebind.test:"+v.port+"/")
			denied(t, "rebound to "+c.addr, err)
		}
	}
	if n := v.accepted.Load(); n != 0 || served != 2*len(cases) {
		t.Errorf("%d connections to forbidden addresses, %d to the allowed one of %d", n, served, 2*len(cases))
	}
}

// TestOnlyAllowedAnswersAreTried: of several addresses the forbidden ones are passed over.
func TestOnlyAllowedAnswersAreTried(t *testing.T) {
	v := newVictim(t)
	good := serveOn(t, "127.0.0.2:"+v.port, http.NotFoundHandler())
	e := newEgress(t, Config{Resolver: one("a.test", "10.0.0.1", "127.0.0.1", "127.0.0.2"), Guard: Guard{Allow: networks(t, good)}})
	resp, err := get(t, newTransport(t, e, "http://a.test:"+v.port), "http://a.test:"+v.port)
	if err != nil || resp.StatusCode != http.StatusNotFound || v.accepted.Load() != 0 {
		t.Errorf("%v, %v, %d connections to the victim", resp, err, v.accepted.Load())
	}
	e = newEgress(t, Config{Resolver: one("a.test", "10.0.0.1", "169.254.169.254")})
	_, err = get(t, newTransport(t, e, "http://a.test"), "http://a.test/")
	if err == nil || !strings.Contains(err.Error(), `cloud-metadata`) {
		t.Errorf("got %v, want the rule of an address", err)
	}
}

func TestLegalPrivateAddress(t *testing.T) {
	good := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	_, port, _ := net.SplitHostPort(good)
	e := newEgress(t, Config{Resolver: one("a.test", "127.0.0.1"), Guard: Guard{Allow: networks(t, "127.0.0.0/8")}})
	tr := newTransport(t, e, "http://a.test:"+port, "http://127.0.0.1:"+port, "http://*.b.test:"+port)
	e.resolver.(*names).sets["c.b.test"] = [][]netip.Addr{addrs("::ffff:127.0.0.1")}
	for range 100 {
		for _, host := range []string{"a.test", "A.test.", "127.0.0.1", "１２７.0.0.1", "c.b.test"} {
			resp, err := get(t, tr, "http://"+host+":"+port+"/")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %v", host, err)
			}
			resp.Body.Close()
		}
	}
}

func TestOwnAddress(t *testing.T) {
	v := newVictim(t)
	own := netip.MustParseAddrPort("127.0.0.1:" + v.port)
	e := newEgress(t, Config{Resolver: one("a.test", "127.0.0.1"), Guard: Guard{
		Allow: networks(t, "127.0.0.0/8"), Own: func(a netip.AddrPort) bool { return a == own },
	}})
	_, err := get(t, newTransport(t, e, "http://a.test:"+v.port), "http://a.test:"+v.port)
	denied(t, "the node's own port", err)
	if v.accepted.Load() != 0 {
		t.Error("connected to the node's own port")
	}
}
