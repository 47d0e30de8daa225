package node

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/perigee-edge/perigee"
)

// TestDNS asks a real node for one of its functions, and for one that nobody deployed.
func TestDNS(t *testing.T) {
	s := newSingle(t)
	s.Close()
	conf := singleConfig(t, s.dir)
	conf.HTTPS, conf.DNS, conf.DNSServers = "127.0.0.1:0", "127.0.0.1:0", []string{"ns1.example.com"}
	n, err := New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s.Node = n
	stop := s.run()
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	ask := func(name string) *dns.Msg {
		t.Helper()
		m, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), n.DNSAddr())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	s.deploy(s.pack("there", guest("1"), perigee.Policy{}))
	if m := ask("there.localhost."); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "127.0.0.1" {
		t.Errorf("a function's host: %s", m)
	}
	n.setDraining()
	wait(t, 10*time.Second, "the only gateway drains: no answer names it", func() bool {
		return ask("there.localhost.").Rcode == dns.RcodeServerFailure
	})
	for name, want := range map[string]int{"hello.localhost.": dns.RcodeNameError, "localhost.": dns.RcodeSuccess, "example.com.": dns.RcodeRefused} {
		if m := ask(name); m.Rcode != want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[m.Rcode], dns.RcodeToString[want])
		}
	}
	if p := n.locator.Locate(netip.MustParseAddr("193.0.6.139")); p.Country != "NL" {
		t.Errorf("without a database of its own, the node locates an address in Amsterdam at %+v", p)
	}
}
