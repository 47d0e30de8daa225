package measured

import (
	"net/netip"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	tab := New()
	addr := netip.MustParseAddr
	for range 2 {
		tab.Observe(addr("198.51.100.7"), 20*time.Millisecond, now)
	}
	if f := tab.Figures(now); len(f) != 0 {
		t.Errorf("after two measurements: %v", f)
	}
	tab.Observe(addr("::ffff:198.51.100.200"), 40*time.Millisecond, now)
	net := netip.MustParsePrefix("198.51.100.0/24")
	if f := tab.Figures(now); f[net] != 25_000 {
		t.Errorf("20, 20, 40 ms: %v", f)
	}
	for _, a := range []string{"10.1.2.3", "127.0.0.1", "fe80::1", "0.0.0.0"} {
		for range least {
			tab.Observe(addr(a), time.Millisecond, now)
		}
	}
	for range least {
		tab.Observe(addr("2001:db8:1:2::1"), time.Millisecond, now)
		tab.Observe(addr("203.0.113.1"), time.Minute, now)
	}
	if f := tab.Figures(now); len(f) != 2 || f[netip.MustParsePrefix("2001:db8:1::/48")] != 1000 {
		t.Errorf("networks: %v", f)
	}
	if f := tab.Figures(now.Add(lasts + 1)); len(f) != 0 {
		t.Errorf("long after: %v", f)
	}
	tab.Observe(addr("198.51.100.7"), 90*time.Millisecond, now.Add(lasts+1))
	if e, _ := tab.nets.Peek(net); e.rtt != 90*time.Millisecond || e.count != 1 {
		t.Errorf("a network that comes back: %+v", e)
	}
}

// TestBounded: a flood from many networks neither grows the table nor pushes out who comes often.
func TestBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	tab := New()
	regular := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(i), 1}) }
	for i := range 200 {
		for range 5 {
			tab.Observe(regular(i), time.Millisecond, now)
		}
	}
	for i := range 100_000 {
		tab.Observe(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}).Next(), time.Millisecond, now.Add(time.Second))
		tab.Observe(netip.AddrFrom4([4]byte{byte(30 + i>>16), byte(i >> 8), byte(i), 1}), time.Millisecond, now.Add(time.Second))
	}
	if tab.nets.Len() > maxNetworks {
		t.Errorf("%d networks", tab.nets.Len())
	}
	left := 0
	for i := range 200 {
		n, _ := Network(regular(i))
		if _, ok := tab.nets.Peek(n); ok {
			left++
		}
	}
	if left < 200 {
		t.Errorf("%d of 200 regular networks are left", left)
	}
}
