package fleet_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
	"github.com/perigee-edge/perigee/placement"
)

// loopback is a proxy in front whose X-Forwarded-For is believed.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// TestReceiptsAgreeWithExplain has clients of several countries ask at each node of a fleet, under policies by
// which the client's place, the entry's, a preference or a residency decides: the receipt says what `explain
// route --from IP --at NODE` says. What a request meets can change between two questions, as distances do that are
// measured: so it is asked before and after, and what differs from the same answer three times counts. What the
// policy alone decides must be right each time.
func TestReceiptsAgreeWithExplain(t *testing.T) {
	t.Parallel()
	f := startWith(t, fleet.Config{Regions: []perigee.Region{"fra", "fra", "wdc", "syd"}, Trusted: loopback})
	clients := []string{"85.214.132.117", "194.2.0.20", "8.8.8.8", "200.160.2.3", "133.11.0.1"} // in DE, FR, US, BR, JP
	m, archive := hello(t, perigee.Policy{})
	for _, c := range []struct {
		what   string
		policy perigee.Policy
		want   func(client int, entry perigee.Region, r edgeproxy.Receipt) bool // nil = whatever is explained
	}{
		{"the client's place", perigee.Policy{Pin: []string{"fra", "syd"}, Callers: []perigee.CallerRule{{From: []string{"eu"}, Run: []string{"eu"}}, {From: []string{"as"}, Run: []string{"syd"}}}},
			func(client int, _ perigee.Region, r edgeproxy.Receipt) bool {
				return r.Region == "fra" && client < 4 || r.Region == "syd" && client > 1
			}},
		{"a preference", perigee.Policy{Pin: []string{"wdc", "syd"}, Prefer: []string{"syd"}}, nil},
		{"what is nearly as near", perigee.Policy{Pin: []string{"fra"}}, nil},
		{"residency", perigee.Policy{Residency: []string{"na"}},
			func(_ int, entry perigee.Region, r edgeproxy.Receipt) bool {
				return r.Node == "wdc-1" && r.Entry == "wdc" && (entry == "wdc") == (r.Via == "") && (r.Via == "" || r.Via == entry)
			}},
	} {
		m.Placement = c.policy
		deploy(t, f, m, archive)
		var served, second atomic.Int64
		var wg sync.WaitGroup
		for _, entry := range f.Members() {
			wg.Go(func() {
				for i, client := range clients {
					at := compare(t, f.Client(entry), entry, client, func(r edgeproxy.Receipt) bool {
						return c.want == nil || c.want(i, entry.Region(), r)
					})
					if t.Failed() {
						return
					}
					served.Add(1)
					if at > 0 {
						second.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		t.Logf("%s: %d receipts, %d of another node than the first", c.what, served.Load(), second.Load())
	}
}

// compare asks for explanations and for the function, and holds the receipt against them, and against what it must
// be. It returns which of the candidates served.
func compare(t *testing.T, client *http.Client, entry *fleet.Member, from string, right func(edgeproxy.Receipt) bool) (at int) {
	const address = "https://hello.localhost/"
	explain := func() (node.RouteExplanation, error) {
		return entry.Client().ExplainRoute(t.Context(), address, from, string(entry.ID()), "", "")
	}
	deadline := time.Now().Add(time.Minute)
	for tries, differing := 0, 0; ; tries++ {
		if time.Now().After(deadline) || t.Context().Err() != nil {
			t.Errorf("client %s at %s: explanations do not stay the same for one request, in %d tries", from, entry.ID(), tries)
			return 0
		}
		before, err := explain()
		if err != nil {
			t.Error(err)
			return 0
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		req.Header.Set("X-Forwarded-For", from)
		req.Header.Set("X-Forwarded-Proto", "https")
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			return 0
		}
		resp.Body.Close()
		client.CloseIdleConnections() // what is explained is a new one
		r, err := edgeproxy.ParseReceipt(resp.Header.Get(edgeproxy.ReceiptHeader))
		if err != nil {
			t.Error(err)
			return 0
		}
		after, err := explain()
		if err != nil {
			t.Error(err)
			return 0
		}
		at, differs := agrees(before, resp.StatusCode, r)
		if resp.StatusCode == http.StatusOK && !right(r) {
			t.Errorf("client %s at %s: %+v; explained %q", from, entry.ID(), r, gist(before))
			return 0
		}
		if differs == nil {
			return at
		}
		if slices.Equal(gist(before), gist(after)) {
			differing++
		}
		if differing == 3 {
			t.Errorf("client %s at %s: %v; explained %q", from, entry.ID(), differs, gist(before))
			return 0
		}
	}
}

// gist is what a receipt can be held against.
func gist(e node.RouteExplanation) []string {
	out := []string{string(e.Entry), string(e.Caller)}
	if e.Passed != nil {
		out = append(out, "via "+string(e.Passed.Region))
	}
	if e.Refusal != nil {
		out = append(out, fmt.Sprint(e.Refusal.Status))
	}
	if e.Hedge != nil {
		out = append(out, "hedge at "+string(e.Hedge.Node))
	}
	for _, c := range e.Candidates {
		drawn := ""
		if c.Score.Chance > 0 {
			drawn = " may be drawn"
		}
		out = append(out, fmt.Sprintf("%s %s%s", c.Node, c.Reason, drawn))
	}
	return out
}

// agrees reports where a receipt differs from an explanation, and which candidate served.
func agrees(e node.RouteExplanation, status int, r edgeproxy.Receipt) (at int, err error) {
	via := perigee.Region("")
	if e.Passed != nil {
		via = e.Passed.Region
	}
	if r.Entry != e.Region || r.Via != via {
		return 0, fmt.Errorf("entered in %s via %q, explained in %s via %q", r.Entry, r.Via, e.Region, via)
	}
	if e.Refusal != nil {
		if status != e.Refusal.Status || r.Reason != edgeproxy.ReasonRefused {
			return 0, fmt.Errorf("%d (%s), explained %d", status, r.Reason, e.Refusal.Status)
		}
		return 0, nil
	}
	at = slices.IndexFunc(e.Candidates, func(c placement.Ranked) bool { return c.Node == r.Node })
	switch {
	case status != http.StatusOK || at < 0:
		return 0, fmt.Errorf("%d by %q", status, r.Node)
	case r.Reason == string(placement.ReasonHedge) && e.Hedge != nil && e.Hedge.Node == r.Node:
	case r.Reason != string(e.Candidates[at].Reason):
		return 0, fmt.Errorf("%s by %s", r.Reason, r.Node)
	case r.Reason != string(placement.ReasonNext) && e.Candidates[at].Score.Chance <= 0:
		return 0, fmt.Errorf("%s has no chance and served", r.Node)
	}
	return at, nil
}

// TestSentToANearerNode: a client in London that reaches Sydney's gateway is told of Frankfurt's, and sent there once.
func TestSentToANearerNode(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("PERIGEE_CONFORMANCE")
	if folder == "" {
		t.Skip("PERIGEE_CONFORMANCE names no folder with test databases")
	}
	f := startWith(t, fleet.Config{
		Near: true, Regions: []perigee.Region{"syd", "fra"}, Trusted: loopback, NearerGateway: "redirect",
		GatewayDomains: map[perigee.NodeID]string{"syd-1": "syd.localhost", "fra-1": "fra.localhost"},
		GeoDatabases:   []string{filepath.Join(folder, "mmdb", "GeoLite2-City-Test.mmdb")},
	})
	m, archive := hello(t, perigee.Policy{})
	m.Routes = []perigee.Route{{Host: "hello.localhost"}, {Host: "hello.fra.localhost"}, {Host: "hello.syd.localhost"}}
	deploy(t, f, m, archive)
	const london = "81.2.69.142"
	syd, fra := f.Member("syd-1"), f.Member("fra-1")
	ask := func(at *fleet.Member, address string) *http.Response {
		client := f.Client(at)
		defer client.CloseIdleConnections()
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", london)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	e, err := syd.Client().ExplainRoute(t.Context(), "https://hello.localhost/x?y=z", london, "syd-1", "", "")
	if err != nil || e.Nearer == nil || e.Nearer.Node != "fra-1" || !strings.HasPrefix(e.Nearer.Location, "https://hello.fra.localhost:") {
		t.Fatalf("explained: %+v, %v", e.Nearer, err)
	}
	resp := ask(syd, "https://hello.localhost/x?y=z")
	to := resp.Header.Get("Location")
	if resp.StatusCode != http.StatusTemporaryRedirect || to != e.Nearer.Location || resp.Header.Get("Alt-Svc") != e.Nearer.AltSvc {
		t.Errorf("%s to %q, told %q, explained %+v", resp.Status, to, resp.Header.Get("Alt-Svc"), e.Nearer)
	}
	u, err := url.Parse(to)
	if err != nil || u.Port() != fra.HTTPS()[strings.LastIndexByte(fra.HTTPS(), ':')+1:] || u.RequestURI() != "/x?y=z" {
		t.Errorf("sent to %q, %v", to, err)
	}
	u.Host = u.Hostname()
	if resp := ask(fra, u.String()); resp.StatusCode != http.StatusOK {
		t.Errorf("there: %s", resp.Status)
	}
	if resp := ask(syd, u.String()); resp.StatusCode != http.StatusOK { // whatever the name leads to
		t.Errorf("sent in a circle: %s to %s", resp.Status, resp.Header.Get("Location"))
	}
	if resp := ask(fra, "https://hello.localhost/"); resp.StatusCode != http.StatusOK {
		t.Errorf("sent away from the nearest: %s", resp.Status)
	}
}
