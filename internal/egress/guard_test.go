package egress

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/perigee-edge/perigee/internal/origin"
)

func networks(t testing.TB, list ...string) []origin.Network {
	t.Helper()
	n, err := origin.ParseNetworks(list)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// rules has an address for each rule, at both ends of its range.
var rules = []struct{ addr, rule string }{
	{"0.0.0.0", "unspecified"}, {"0.255.255.255", "unspecified"}, {"::", "unspecified"},
	{"127.0.0.1", "loopback"}, {"127.255.255.255", "loopback"}, {"::1", "loopback"},
	{"169.254.0.1", "link-local"}, {"169.254.255.255", "link-local"}, {"fe80::1", "link-local"}, {"febf::1", "link-local"},
	{"169.254.169.254", "cloud-metadata"}, {"169.254.170.2", "cloud-metadata"}, {"100.100.100.200", "cloud-metadata"},
	{"168.63.129.16", "cloud-metadata"}, {"192.0.0.192", "cloud-metadata"}, {"fd00:ec2::254", "cloud-metadata"},
	{"fd20:ce::254", "cloud-metadata"}, {"fd00:42::42", "cloud-metadata"},
	{"10.0.0.0", "private"}, {"10.255.255.255", "private"}, {"172.16.0.0", "private"}, {"172.31.255.255", "private"},
	{"192.168.0.0", "private"}, {"192.168.255.255", "private"}, {"fc00::", "unique-local"}, {"fdff::1", "unique-local"},
	{"100.64.0.0", "carrier-grade-nat"}, {"100.127.255.255", "carrier-grade-nat"},
	{"198.18.0.0", "benchmarking"}, {"198.19.255.255", "benchmarking"}, {"2001:2::1", "benchmarking"},
	{"192.0.2.1", "documentation"}, {"198.51.100.1", "documentation"}, {"203.0.113.1", "documentation"},
	{"2001:db8::1", "documentation"}, {"3fff::1", "documentation"},
	{"192.0.0.1", "protocol-assignments"}, {"192.88.99.1", "6to4-relay"},
	{"224.0.0.1", "multicast"}, {"239.255.255.255", "multicast"}, {"ff02::1", "multicast"},
	{"255.255.255.255", "broadcast"}, {"240.0.0.1", "reserved"}, {"255.255.255.254", "reserved"},
	{"fec0::1", "site-local"}, {"100::1", "discard"}, {"2001:10::1", "orchid"}, {"2001:20::1", "orchid"},
	{"::8.8.8.8", "ipv4-compatible"}, {"::127.0.0.1", "ipv4-compatible"},
	{"::ffff:127.0.0.1", "loopback"}, {"::ffff:10.0.0.1", "private"}, {"::ffff:169.254.169.254", "cloud-metadata"},
	{"64:ff9b::127.0.0.1", "loopback"}, {"64:ff9b::a9fe:a9fe", "cloud-metadata"}, {"64:ff9b::10.1.2.3", "private"},
	{"64:ff9b:1::8.8.8.8", "local-nat64"}, {"64:ff9b:1:ffff::10.0.0.1", "local-nat64"},
	{"2002:7f00:1::", "loopback"}, {"2002:a00:1::1", "private"}, {"2002:a9fe:a9fe::1", "cloud-metadata"},
	{"2001:0:808:808::80ff:fffe", "loopback"}, {"2001:0:a00:1::f7f7:f7f7", "private"},
	{"4000::1", "not-global"}, {"5f00::1", "not-global"}, {"1::1", "not-global"}, {"64:ff9b:2::1", "not-global"}, {"::fffe:0:0", "not-global"},
	{"fe80::1%eth0", "zone"}, {"2606:4700::1%1", "zone"},
}

func TestGuardRules(t *testing.T) {
	var g Guard
	for _, tt := range rules {
		err := g.Check(netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 443))
		var denied *DeniedError
		if !errors.As(err, &denied) || denied.Rule != tt.rule || !denied.Denied() {
			t.Errorf("%s: got %v, want the rule %q", tt.addr, err, tt.rule)
		}
	}
	for _, f := range forbidden { // every row decides something
		if g.rule(netip.AddrPortFrom(f.prefix.Addr(), 1)) == "" {
			t.Errorf("%s is reachable", f.prefix)
		}
	}
	if g.Check(netip.AddrPort{}) == nil {
		t.Error("no address at all is reachable")
	}
	if g.control("tcp", "localhost:80", nil) == nil {
		t.Error("a name reached the dialer")
	}
}

// legal is public addresses: those of well-known services, and the neighbours of all forbidden ranges.
func legal() []string {
	list := []string{
		"1.1.1.1", "8.8.8.8", "9.9.9.9", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
		"168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255",
		"192.0.1.0", "192.0.1.255", "192.0.3.0", "192.31.196.1", "192.52.193.1", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0",
		"192.175.48.1", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "1.0.0.0",
		"2606:4700:4700::1111", "2001:4860:4860::8888", "2620:fe::fe", "2000::", "2001:200::", "2001:db7:ffff::1", "2001:db9::1",
		"2400:cb00::1", "2a00:1450:4001:800::200e", "3ffe::1", "3fff:1000::1", "2003::1", "2001:4:112::1",
		"::ffff:8.8.8.8", "::ffff:1.1.1.1", "64:ff9b::8.8.8.8", "64:ff9b::101:101", "2002:808:808::1", "2002:101:101::", "2001:0:4136:e378:8000:63bf:f7f7:f7f7",
	}
	for i := byte(1); len(list) < 130; i++ {
		list = append(list, netip.AddrFrom4([4]byte{i%9 + 1, i, 255 - i, i ^ 0x55}).String())
	}
	return list
}

func TestGuardAllowsPublicAddresses(t *testing.T) {
	var g Guard
	for _, a := range legal() {
		if err := g.Check(netip.AddrPortFrom(netip.MustParseAddr(a), 443)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestGuardPolicy(t *testing.T) {
	own := netip.MustParseAddrPort("10.1.0.9:7443")
	ownPublic := netip.MustParseAddrPort("8.8.4.4:443")
	g := Guard{
		Allow: networks(t, "10.1.0.0/16", "192.168.1.1:8080", "10.1.0.9:9443", "10.3.0.0/16", "8.8.4.4:80"),
		Deny:  networks(t, "10.1.66.0/24", "1.1.1.1", "10.3.0.1:22"),
		Own: func(a netip.AddrPort) bool {
			return a == own || a == ownPublic || a == netip.MustParseAddrPort("10.1.0.9:9443")
		},
	}
	for addr, want := range map[string]string{
		"10.1.0.1:80":               "",
		"[::ffff:10.1.0.1]:80":      "",
		"10.2.0.1:80":               "private",
		"10.1.66.1:80":              "outbound_deny",
		"1.1.1.1:443":               "outbound_deny",
		"[::ffff:1.1.1.1]:443":      "outbound_deny",
		"[64:ff9b::1.1.1.1]:443":    "outbound_deny",
		"10.3.0.1:22":               "outbound_deny",
		"10.3.0.1:23":               "",
		"192.168.1.1:8080":          "",
		"192.168.1.1:80":            "private",
		"10.1.0.9:7443":             "own-cluster", // in an allowed range, and still the node's
		"[::ffff:10.1.0.9]:7443":    "own-cluster",
		"10.1.0.9:9443":             "", // exactly named
		"8.8.4.4:443":               "own-cluster",
		"[64:ff9b::8.8.4.4]:443":    "own-cluster",
		"8.8.4.4:80":                "",
		"[64:ff9b::10.1.0.1]:80":    "private", // what is allowed is the address, not what leads to it
		"[2002:a01:1::1]:80":        "private",
		"9.9.9.9:443":               "",
		"[2606:4700:4700::1111]:53": "",
	} {
		a := netip.MustParseAddrPort(addr)
		if got := g.rule(a); got != want {
			t.Errorf("%s: rule %q, want %q", addr, got, want)
		}
	}
}

// FuzzGuard: an address and its mapped form are judged alike, and what is judged public is.
func FuzzGuard(f *testing.F) {
	for _, tt := range rules {
		b := netip.MustParseAddr(tt.addr).As16()
		f.Add(b[:], uint16(80))
	}
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		if len(b) < 16 {
			return
		}
		var g Guard
		a := netip.AddrFrom16([16]byte(b[:16]))
		err := g.Check(netip.AddrPortFrom(a, port))
		if mapped := g.Check(netip.AddrPortFrom(a.Unmap(), port)); (err == nil) != (mapped == nil) {
			t.Fatalf("%s: %v, and unmapped %v", a, err, mapped)
		}
		if u := a.Unmap(); err == nil && (u.IsLoopback() || u.IsPrivate() || u.IsLinkLocalUnicast() || u.IsMulticast() || u.IsUnspecified()) {
			t.Fatalf("%s is reachable", a)
		}
	})
}
