package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Documentation addresses stand for clients; the second byte says where.
var places = map[string]struct {
	country  string
	lat, lon float64
}{
	"198.51.100.": {"DE", 50.1, 8.7}, "203.0.113.": {"US", 38.9, -77.0}, "2001:db8:1:": {"AU", -33.9, 151.2},
}

func locate(a netip.Addr) geo.Place {
	for prefix, p := range places {
		if strings.HasPrefix(a.String(), prefix) {
			return geo.Place{Country: p.country, Point: &perigee.Point{Lat: p.lat, Lon: p.lon}}
		}
	}
	return geo.Place{}
}

// world has two nodes in Frankfurt, one each in Amsterdam, Washington and Sydney; the addresses end in 1 to 5.
func world(change func(map[perigee.NodeID]*perigee.Peer)) *perigee.View {
	nodes := map[perigee.NodeID]*perigee.Peer{}
	for i, id := range []perigee.NodeID{"fra-1", "fra-2", "ams-1", "wdc-1", "syd-1"} {
		region, _, _ := strings.Cut(string(id), "-")
		nodes[id] = &perigee.Peer{
			NodeClaims: perigee.NodeClaims{ID: id, Region: perigee.Region(region)}, State: perigee.NodeAlive,
			Row: perigee.Row{HTTPS: "[::]:443", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 7443)},
		}
	}
	nodes["syd-1"].Addr = netip.MustParseAddrPort("[2001:db8::5]:7443")
	if change != nil {
		change(nodes)
	}
	function := func(name, path string, policy perigee.Policy) *perigee.Function {
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: perigee.Manifest{
			Name: name, Placement: policy, Routes: []perigee.Route{{Host: name + ".fn.example.com", Path: path}},
		}}}
	}
	functions := map[string]*perigee.Function{
		"hello": function("hello", "/", perigee.Policy{}),
		"law":   function("law", "/", perigee.Policy{Residency: []string{"eu"}}),
		"us":    function("us", "/", perigee.Policy{Residency: []string{"wdc"}}),
		"deep":  function("deep.down", "/", perigee.Policy{}),
	}
	return &perigee.View{
		Desired:  perigee.NewDesired(perigee.Desired{Domain: "fn.example.com", Functions: functions, Regions: perigee.BuiltinRegions(), Revoked: map[perigee.NodeID]bool{}}),
		Observed: &perigee.Observed{Self: "wdc-1", Nodes: nodes},
	}
}

func choose(locate func(netip.Addr) geo.Place, measured func(netip.Addr) map[perigee.Region]time.Duration) func(*perigee.View, string, netip.Addr) []netip.Addr {
	return gateways.New(gateways.Config{Self: "wdc-1", Locate: locate, Measured: measured}).Addrs
}

func start(t *testing.T, v *perigee.View, change func(*Config)) *Server {
	t.Helper()
	conf := Config{
		View: func() *perigee.View { return v }, Choose: choose(locate, nil), Listen: "127.0.0.1:0",
		Zones: []string{"fn.example.com"}, Servers: []string{"ns1.example.com", "ns2.example.com"},
	}
	if change != nil {
		change(&conf)
	}
	s, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// question makes a message as a resolver sends it, for a client of its own (a prefix) if one is given.
func question(name string, qtype uint16, client string) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	if client != "" {
		p := netip.MustParsePrefix(client)
		family := uint16(1)
		if p.Addr().Is6() {
			family = 2
		}
		m.SetEdns0(4096, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_SUBNET{
			Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: uint8(p.Bits()), Address: p.Addr().AsSlice(),
		})
	}
	return m
}

func ask(t *testing.T, s *Server, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	reply, _, err := c.Exchange(m, s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// ends returns the last bytes of the addresses of an answer, sorted.
func ends(m *dns.Msg) (out []string) {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, fmt.Sprint(rr.A[len(rr.A)-1]))
		case *dns.AAAA:
			out = append(out, fmt.Sprint(rr.AAAA[len(rr.AAAA)-1]))
		}
	}
	slices.Sort(out)
	return out
}

func TestNearest(t *testing.T) {
	s := start(t, world(nil), nil)
	for _, c := range []struct {
		what, name, client string
		qtype              uint16
		want               string
	}{
		{"Germany: both of Frankfurt, and Amsterdam, which is as near", "hello.fn.example.com", "198.51.100.0/24", dns.TypeA, "1 2 3"},
		{"names in any case", "HELLO.fn.Example.com", "198.51.100.0/24", dns.TypeA, "1 2 3"},
		{"America", "hello.fn.example.com", "203.0.113.0/24", dns.TypeA, "4"},
		{"Australia has an address of version 6", "hello.fn.example.com", "2001:db8:1::/48", dns.TypeAAAA, "5"},
		{"and none of version 4", "hello.fn.example.com", "2001:db8:1::/48", dns.TypeA, ""},
		{"nobody knows where: here", "hello.fn.example.com", "192.0.2.0/24", dns.TypeA, "4"},
		{"the resolver's own address", "hello.fn.example.com", "", dns.TypeA, "4"},
		{"residency is stronger than distance", "law.fn.example.com", "203.0.113.0/24", dns.TypeA, "1 2 3"},
		{"and holds the other way", "us.fn.example.com", "198.51.100.0/24", dns.TypeA, "4"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := ask(t, s, network, question(c.name, c.qtype, c.client))
			if got := strings.Join(ends(m), " "); got != c.want || m.Rcode != dns.RcodeSuccess || !m.Authoritative {
				t.Errorf("%s over %s: %q, %s, want %q", c.what, network, got, dns.RcodeToString[m.Rcode], c.want)
			}
			if len(m.Answer) == 0 && len(m.Ns) != 1 {
				t.Errorf("%s over %s: no SOA with an empty answer", c.what, network)
			}
		}
	}
}

// TestOutOfService: a node is not named from the moment the View says that it drains, died or was revoked.
func TestOutOfService(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(n map[perigee.NodeID]*perigee.Peer)
		want   string
	}{
		{"one drains, one is dead", func(n map[perigee.NodeID]*perigee.Peer) {
			n["fra-1"].Draining, n["fra-2"].State = true, perigee.NodeDead
		}, "3"},
		{"one has no HTTPS", func(n map[perigee.NodeID]*perigee.Peer) { n["fra-1"].HTTPS, n["ams-1"].HTTPS = "", "" }, "2"},
		{"all of Europe is gone", func(n map[perigee.NodeID]*perigee.Peer) { delete(n, "fra-1"); delete(n, "fra-2"); delete(n, "ams-1") }, "4"},
		{"an address of its own", func(n map[perigee.NodeID]*perigee.Peer) { n["fra-2"].HTTPS = "192.0.2.77:443"; delete(n, "ams-1") }, "1 77"},
	} {
		s := start(t, world(c.change), nil)
		m := ask(t, s, "udp", question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24"))
		if got := strings.Join(ends(m), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	v := world(func(n map[perigee.NodeID]*perigee.Peer) { n["wdc-1"].State = perigee.NodeDead })
	v.Desired.Revoked["fra-1"] = true
	s := start(t, v, nil)
	if got := ends(ask(t, s, "udp", question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24"))); slices.Contains(got, "1") {
		t.Errorf("a revoked node is named: %q", got)
	}
	m := ask(t, s, "udp", question("us.fn.example.com", dns.TypeA, ""))
	if m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
		t.Errorf("no gateway within the residency: %s", m)
	}
}

func TestOtherQuestions(t *testing.T) {
	s := start(t, world(nil), nil)
	odd := func(change func(*dns.Msg)) *dns.Msg {
		m := question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24")
		change(m)
		return m
	}
	subnet := func(m *dns.Msg) *dns.EDNS0_SUBNET { return m.IsEdns0().Option[0].(*dns.EDNS0_SUBNET) }
	for _, c := range []struct {
		what    string
		m       *dns.Msg
		rcode   int
		answers int
	}{
		{"no such function", question("nosuch.fn.example.com", dns.TypeA, ""), dns.RcodeNameError, 0},
		{"a name between", question("down.fn.example.com", dns.TypeA, ""), dns.RcodeSuccess, 0},
		{"the zone itself", question("fn.example.com", dns.TypeA, ""), dns.RcodeSuccess, 0},
		{"its servers", question("fn.example.com", dns.TypeNS, ""), dns.RcodeSuccess, 2},
		{"its SOA", question("fn.example.com", dns.TypeSOA, ""), dns.RcodeSuccess, 1},
		{"another type", question("hello.fn.example.com", dns.TypeMX, ""), dns.RcodeSuccess, 0},
		{"everything", question("hello.fn.example.com", dns.TypeANY, ""), dns.RcodeSuccess, 1},
		{"another zone", question("example.com", dns.TypeA, ""), dns.RcodeRefused, 0},
		{"a name that only ends alike", question("xfn.example.com", dns.TypeA, ""), dns.RcodeRefused, 0},
		{"the root", question(".", dns.TypeNS, ""), dns.RcodeRefused, 0},
		{"a transfer", question("fn.example.com", dns.TypeAXFR, ""), dns.RcodeRefused, 0},
		{"another class", odd(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused, 0},
		{"an update", odd(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented, 0},
		{"two questions", odd(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError, 0},
		{"another version of EDNS", odd(func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers, 0},
		{"a subnet with a scope", odd(func(m *dns.Msg) { subnet(m).SourceScope = 24 }), dns.RcodeFormatError, 0},
		{"a client that stays unknown", odd(func(m *dns.Msg) { subnet(m).SourceNetmask = 0; subnet(m).Address = net.IPv4zero }), dns.RcodeSuccess, 1},
	} {
		network := "udp"
		if c.m.Question[0].Qtype == dns.TypeAXFR {
			network = "tcp"
		}
		m := ask(t, s, network, c.m)
		if m.Rcode != c.rcode || len(m.Answer) != c.answers || m.Authoritative != (c.rcode == dns.RcodeSuccess || c.rcode == dns.RcodeNameError) {
			t.Errorf("%s: %s, %d answers, want %s, %d\n%s", c.what, dns.RcodeToString[m.Rcode], len(m.Answer), dns.RcodeToString[c.rcode], c.answers, m)
		}
	}
}

// TestMeasured: what gateways measured counts before the map; others keep their distances, seen from there.
func TestMeasured(t *testing.T) {
	const client = "198.51.100.0/24" // near Frankfurt
	for _, c := range []struct {
		what     string
		measured map[perigee.Region]time.Duration
		want     string
	}{
		{"nothing", nil, "1 2 3"},
		{"a network that is near to Washington", map[perigee.Region]time.Duration{"wdc": 5 * time.Millisecond, "fra": 95 * time.Millisecond, "ams": 90 * time.Millisecond}, "4"},
		{"a slow last mile to Frankfurt moves nobody to Washington, nor away", map[perigee.Region]time.Duration{"fra": 60 * time.Millisecond}, "1 2 3"},
		{"Amsterdam is far, by whatever way", map[perigee.Region]time.Duration{"fra": 10 * time.Millisecond, "ams": 80 * time.Millisecond}, "1 2"},
	} {
		s := start(t, world(nil), func(conf *Config) {
			conf.Choose = choose(locate, func(a netip.Addr) map[perigee.Region]time.Duration {
				if a != netip.MustParseAddr("198.51.100.0") {
					t.Errorf("asked about %s", a)
				}
				return c.measured
			})
		})
		got := ends(ask(t, s, "udp", question("hello.fn.example.com", dns.TypeA, client)))
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestScope: the answer says for which networks it holds, so that a cache does not give it to others.
func TestScope(t *testing.T) {
	s := start(t, world(nil), nil)
	for client, want := range map[string]uint8{"198.51.100.0/24": 24, "198.51.100.7/32": 24, "198.51.0.0/16": 16, "2001:db8:1:2::/64": 48} {
		m := ask(t, s, "udp", question("hello.fn.example.com", dns.TypeA, client))
		got := m.IsEdns0().Option[0].(*dns.EDNS0_SUBNET)
		if got.SourceScope != want {
			t.Errorf("client %s: scope %d, want %d", client, got.SourceScope, want)
		}
		m = ask(t, s, "udp", question("nosuch.fn.example.com", dns.TypeA, client))
		if got := m.IsEdns0().Option[0].(*dns.EDNS0_SUBNET); got.SourceScope != 0 {
			t.Errorf("client %s: a missing name has scope %d: it is missing for everybody", client, got.SourceScope)
		}
	}
}

// TestFlood: more questions of one network than the rate get no answers over UDP but are told to use TCP; others are served.
func TestFlood(t *testing.T) {
	l := newLimiter(100)
	now := time.Now()
	count := map[verdict]int{}
	for i := range 10_000 { // 5 seconds
		count[l.take(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), now.Add(time.Duration(i)*time.Millisecond/2))]++
	}
	if count[full] < 590 || count[full] > 610 || count[slip] < 4600 {
		t.Errorf("of 10,000 in 5 s at 100 a second: %d answered, %d sent to TCP, %d dropped", count[full], count[slip], count[drop])
	}
	if v := l.take(netip.MustParseAddr("203.0.113.1"), now); v != full {
		t.Errorf("another network: %d", v)
	}
	s := start(t, world(nil), func(c *Config) { c.Rate = 1 })
	c := &dns.Client{Net: "udp", Timeout: 200 * time.Millisecond}
	truncated := 0
	for range 4 {
		if m, _, err := c.Exchange(question("hello.fn.example.com", dns.TypeA, ""), s.Addr()); err == nil && m.Truncated {
			truncated++
		}
	}
	if truncated == 0 {
		t.Error("a client above the rate is never sent to TCP")
	}
	if m := ask(t, s, "tcp", question("hello.fn.example.com", dns.TypeA, "")); len(m.Answer) == 0 {
		t.Error("no answer over TCP")
	}
}

// FuzzReply: whatever can be parsed gets a reply that can be packed, no larger than a few times the question.
func FuzzReply(f *testing.F) {
	for _, m := range []*dns.Msg{question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24"), question("fn.example.com", dns.TypeANY, "2001:db8:1::/48")} {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	v := world(nil)
	s := &Server{conf: Config{View: func() *perigee.View { return v }, Choose: choose(locate, nil), Zones: []string{"fn.example.com"}, Servers: []string{"ns1.example.com"}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := new(dns.Msg)
		if req.Unpack(b) != nil {
			return
		}
		m := s.reply(req, netip.MustParseAddr("198.51.100.1"))
		out, err := m.Pack()
		if err != nil {
			t.Skip() // names that only Unpack takes
		}
		if len(out) > len(b)+512 {
			t.Errorf("%d bytes for %d: %s", len(out), len(b), m)
		}
	})
}

// BenchmarkReply is an answer in a cluster of 1000 gateways.
func BenchmarkReply(b *testing.B) {
	s, req := thousand(), question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24")
	for b.Loop() {
		s.reply(req, netip.MustParseAddr("127.0.0.1"))
	}
}

// thousand is a server of a cluster with 1000 gateways, in all regions of the catalogue.
func thousand() *Server {
	v := world(func(nodes map[perigee.NodeID]*perigee.Peer) {
		clear(nodes)
		regions := perigee.BuiltinRegions().All()
		for i := range 1000 {
			region := regions[i%len(regions)].Code
			id := perigee.NodeID(fmt.Sprintf("%s-%d", region, i))
			nodes[id] = &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: id, Region: region}, State: perigee.NodeAlive,
				Row: perigee.Row{HTTPS: "[::]:443", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7443)}}
		}
	})
	return &Server{conf: Config{View: func() *perigee.View { return v }, Choose: choose(locate, nil), Zones: []string{"fn.example.com"}, Servers: []string{"ns1.example.com"}}}
}
