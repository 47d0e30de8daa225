package dns

import (
	"bytes"
	"compress/gzip"
	"io"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/miekg/dns"
	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/geo"
)

// TestRealPrefixes asks for clients in real networks, those of the embedded table, as resolvers do, with a
// gateway in every region of the catalogue, and holds the answers against the distances on the map: with
// PERIGEE_FIGURES for all networks, else for some. With a residency no answer may leave it.
func TestRealPrefixes(t *testing.T) {
	figures := os.Getenv("PERIGEE_FIGURES") != ""
	prefixes := embedded(t)
	rng := rand.New(rand.NewPCG(1, 2))
	rng.Shuffle(len(prefixes), func(i, j int) { prefixes[i], prefixes[j] = prefixes[j], prefixes[i] })
	if !figures {
		prefixes = prefixes[:2000]
	}
	locator := geo.New(geo.Config{})
	regions := perigee.BuiltinRegions()
	gateways := map[netip.Addr]perigee.RegionInfo{}
	v := world(func(nodes map[perigee.NodeID]*perigee.Peer) {
		clear(nodes)
		for i, info := range regions.All() {
			for j := range 2 {
				id := perigee.NodeID(string(info.Code) + "-" + string(rune('1'+j)))
				addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(2*i + j)})
				gateways[addr] = info
				nodes[id] = &perigee.Peer{NodeClaims: perigee.NodeClaims{ID: id, Region: info.Code}, State: perigee.NodeAlive,
					Row: perigee.Row{HTTPS: "[::]:443", Addr: netip.AddrPortFrom(addr, 7443)}}
			}
		}
	})
	s := &Server{conf: Config{View: func() *perigee.View { return v }, Choose: choose(locator.Locate, nil), Zones: []string{"fn.example.com"}, Servers: []string{"ns1.example.com"}}}
	asked, wrong := 0, 0
	for _, p := range prefixes {
		place := locator.Locate(p.Addr())
		if place.Point == nil {
			continue
		}
		near := math.Inf(1)
		for _, info := range gateways {
			near = min(near, place.Point.DistanceKm(info.Point))
		}
		bits := min(p.Bits(), 24)
		if p.Addr().Is6() {
			bits = min(p.Bits(), 48)
		}
		client := netip.PrefixFrom(p.Addr(), bits).Masked()
		asked++
		first := first(s.reply(question("hello.fn.example.com", dns.TypeA, client.String()), netip.MustParseAddr("127.0.0.1")))
		if info, ok := gateways[first]; !ok || place.Point.DistanceKm(info.Point) > near+1 {
			wrong++
		}
		within := first4(s.reply(question("law.fn.example.com", dns.TypeA, client.String()), netip.MustParseAddr("127.0.0.1")))
		for _, a := range within {
			if !slices.Contains(gateways[a].Groups, "eu") {
				t.Fatalf("a client in %s is sent to %s for a host that lives in the EU", p, gateways[a].Code)
			}
		}
		if len(within) == 0 {
			t.Fatalf("a client in %s gets no gateway", p)
		}
	}
	pct := 100 * float64(wrong) / float64(asked)
	if pct > 1 || asked < 1000 {
		t.Errorf("%d of %d clients are sent to another region than the nearest", wrong, asked)
	}
	if !figures {
		return
	}
	packed, err := question("hello.fn.example.com", dns.TypeA, "198.51.100.0/24").Pack()
	if err != nil {
		t.Fatal(err)
	}
	big := thousand()
	cost := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			req := new(dns.Msg)
			if err := req.Unpack(packed); err != nil {
				b.Fatal(err)
			}
			m := big.reply(req, netip.MustParseAddr("127.0.0.1"))
			if _, err := m.Pack(); err != nil {
				b.Fatal(err)
			}
		}
	})
	t.Logf("\nFIGURE dns_answer_us %.1f\nFIGURE dns_wrong_region_pct %.3f\nFIGURE dns_wrong_region_pct_trials %d",
		float64(cost.NsPerOp())/1000, pct, asked)
}

func first4(m *dns.Msg) (list []netip.Addr) {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A.To4())
			list = append(list, addr)
		}
	}
	return list
}

func first(m *dns.Msg) netip.Addr {
	if list := first4(m); len(list) > 0 {
		return list[0]
	}
	return netip.Addr{}
}

// embedded returns the networks of the embedded table of countries.
func embedded(t *testing.T) (list []netip.Prefix) {
	t.Helper()
	packed, err := os.ReadFile("../geo/fallback.mmdb.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	db, err := maxminddb.OpenBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	for n := range db.Networks() {
		list = append(list, n.Prefix())
	}
	return list
}
