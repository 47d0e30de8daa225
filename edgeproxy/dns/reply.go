package dns

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// reply makes the answer to a message from a client or its resolver.
func (s *Server) reply(req *dns.Msg, from netip.Addr) *dns.Msg {
	m := new(dns.Msg)
	if len(req.Question) != 1 {
		return m.SetRcodeFormatError(req)
	}
	m.SetReply(req)
	m.Authoritative = true
	m.RecursionAvailable = false
	subnet, rcode := readEDNS(req, m)
	if rcode != dns.RcodeSuccess {
		return fail(m, rcode)
	}
	q := req.Question[0]
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return fail(m, dns.RcodeNotImplemented)
	case q.Qclass != dns.ClassINET || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		return fail(m, dns.RcodeRefused)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	zone := s.zoneOf(name)
	if zone == "" {
		return fail(m, dns.RcodeRefused)
	}
	s.answer(m, q, name, zone, from, subnet)
	return m
}

// fail turns the answer into an error, which is about nothing in our zones.
func fail(m *dns.Msg, rcode int) *dns.Msg {
	m.Rcode = rcode
	m.Authoritative = false
	return m
}

// answer fills in the records of a name in a zone.
func (s *Server) answer(m *dns.Msg, q dns.Question, name, zone string, from netip.Addr, subnet *dns.EDNS0_SUBNET) {
	head := func(t uint16, d time.Duration) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: uint32(d / time.Second)}
	}
	view := s.conf.View()
	host := view.Desired.HasHost(name)
	switch {
	case q.Qtype == dns.TypeANY && (host || name == zone):
		m.Answer = append(m.Answer, &dns.HINFO{Hdr: head(dns.TypeHINFO, zoneTTL), Cpu: "RFC8482"})
	case q.Qtype == dns.TypeSOA && name == zone:
		m.Answer = append(m.Answer, s.soa(zone, q.Name))
	case q.Qtype == dns.TypeNS && name == zone:
		for _, server := range s.conf.Servers {
			m.Answer = append(m.Answer, &dns.NS{Hdr: head(dns.TypeNS, zoneTTL), Ns: dns.Fqdn(server)})
		}
	case host && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA):
		client := from
		if subnet != nil {
			client, _ = netip.AddrFromSlice(subnet.Address)
			subnet.SourceScope = min(subnet.SourceNetmask, scope(client))
		}
		list := s.conf.Choose(view, name, client.Unmap())
		for _, a := range list {
			switch {
			case q.Qtype == dns.TypeA && a.Is4():
				m.Answer = append(m.Answer, &dns.A{Hdr: head(dns.TypeA, ttl), A: net.IP(a.AsSlice())})
			case q.Qtype == dns.TypeAAAA && a.Is6():
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: head(dns.TypeAAAA, ttl), AAAA: net.IP(a.AsSlice())})
			}
		}
		if len(list) == 0 { // the host exists; resolvers may go on with what they had (RFC 8767)
			m.Rcode = dns.RcodeServerFailure
		}
	case !host && name != zone && !s.exists(view.Desired, name):
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 && m.Rcode != dns.RcodeServerFailure {
		m.Ns = append(m.Ns, s.soa(zone, dns.Fqdn(zone)))
	}
}

// scope is how much of an address the choice depends on: clients of one such network get one answer.
func scope(a netip.Addr) uint8 {
	if a.Unmap().Is4() {
		return 24
	}
	return 48
}

// soa is the zone's. Nobody may transfer it, so its serial never changes.
func (s *Server) soa(zone, owner string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: uint32(zoneTTL / time.Second)},
		Ns:  dns.Fqdn(s.conf.Servers[0]), Mbox: "hostmaster." + dns.Fqdn(zone), Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: uint32(negativeTTL / time.Second),
	}
}

// readEDNS reads the options of a question and prepares those of its answer. It returns the client's
// network, if the question names one; the scope is filled in later.
func readEDNS(req, m *dns.Msg) (*dns.EDNS0_SUBNET, int) {
	opt := req.IsEdns0()
	if opt == nil {
		return nil, dns.RcodeSuccess
	}
	m.SetEdns0(maxUDP, false)
	if opt.Version() != 0 {
		return nil, dns.RcodeBadVers
	}
	for _, o := range opt.Option {
		in, ok := o.(*dns.EDNS0_SUBNET)
		if !ok {
			continue
		}
		if !validSubnet(in) {
			return nil, dns.RcodeFormatError
		}
		if in.SourceNetmask == 0 { // the client wants to stay unknown
			continue
		}
		out := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: in.Family, SourceNetmask: in.SourceNetmask, Address: in.Address}
		m.IsEdns0().Option = append(m.IsEdns0().Option, out)
		return out, dns.RcodeSuccess
	}
	return nil, dns.RcodeSuccess
}

// validSubnet holds an option against RFC 7871, section 7.1.2.
func validSubnet(o *dns.EDNS0_SUBNET) bool {
	addr, ok := netip.AddrFromSlice(o.Address)
	if !ok || o.SourceScope != 0 {
		return false
	}
	switch {
	case o.Family == 1:
		addr = addr.Unmap()
		ok = addr.Is4()
	case o.Family == 2:
		ok = addr.Is6()
	default:
		return o.Family == 0 && o.SourceNetmask == 0
	}
	p, err := addr.Prefix(int(o.SourceNetmask))
	return ok && err == nil && p.Addr() == addr
}
