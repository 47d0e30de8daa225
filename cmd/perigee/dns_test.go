package main

import (
	"net/netip"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/node"
)

func TestMissingRecords(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	gateways := addrs("203.0.113.7", "2001:db8::7")
	for _, c := range []struct {
		found []netip.Addr
		want  string
	}{
		{nil, "a.example.com does not exist in the DNS yet; add there:\n  a.example.com.  A     203.0.113.7\n  a.example.com.  AAAA  2001:db8::7\n"},
		{addrs("192.0.2.1"), "a.example.com leads to [192.0.2.1], which is not this cluster; replace that in the DNS by:\n  a.example.com.  A     203.0.113.7\n  a.example.com.  AAAA  2001:db8::7\n"},
		{addrs("192.0.2.1", "203.0.113.7"), ""},
	} {
		if got := missingRecords("a.example.com", gateways, c.found); got != c.want {
			t.Errorf("got\n%swant\n%s", got, c.want)
		}
	}
	peer := func(addr, https string, state perigee.NodeState) node.NodeStatus {
		return node.NodeStatus{Peer: perigee.Peer{Row: perigee.Row{Addr: netip.MustParseAddrPort(addr), HTTPS: https}, State: state}}
	}
	got := gatewaysOf([]node.NodeStatus{
		peer("203.0.113.9:7443", ":443", perigee.NodeAlive), peer("203.0.113.7:7443", ":443", perigee.NodeAlive), peer("203.0.113.7:7444", ":443", perigee.NodeAlive),
		peer("203.0.113.8:7443", "", perigee.NodeAlive), peer("203.0.113.10:7443", ":443", perigee.NodeDead), peer("10.0.0.1:7443", ":443", perigee.NodeAlive), peer("127.0.0.1:7443", ":443", perigee.NodeAlive),
	})
	if len(got) != 2 || got[0] != netip.MustParseAddr("203.0.113.7") || got[1] != netip.MustParseAddr("203.0.113.9") {
		t.Errorf("gateways: %v", got)
	}
}
