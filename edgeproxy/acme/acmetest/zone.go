package acmetest

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Zone is a name server for one zone. All names in it lead to one address; TXT records come and go by updates that are
// signed with its key, and by nothing else.
type Zone struct {
	Name  string // fully qualified, for example "shop.example."
	Key   string // as acme_dns_key has it: NAME:ALGORITHM:SECRET
	Addr  string // where it listens
	Leads net.IP // where all names lead

	mu      sync.Mutex // guards the rest
	txt     []*dns.TXT
	updates int
	refused int
}

const zoneTTL = 1

// NewZone serves a zone until the test ends, on an address of loopback, for example "127.0.0.1:0".
func NewZone(t testing.TB, name, addr string, leads net.IP) *Zone {
	t.Helper()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	const keyName, secret = "perigee.", "c2VjcmV0IG9mIGEgdGVzdA=="
	z := &Zone{Name: dns.Fqdn(name), Key: keyName + ":hmac-sha256:" + secret, Addr: udp.LocalAddr().String(), Leads: leads}
	for _, s := range []*dns.Server{{PacketConn: udp}, {Listener: tcp}} {
		s.Handler, s.TsigSecret = z, map[string]string{keyName: secret}
		s.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept } // the default takes no updates
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = s.ActivateAndServe() // until Shutdown
		}()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-ended
		})
	}
	return z
}

// Updates returns how many updates were taken and refused, and how many records they left.
func (z *Zone) Updates() (taken, refused, left int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.updates, z.refused, len(z.txt)
}

// ServeDNS implements dns.Handler.
func (z *Zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r := new(dns.Msg).SetReply(q)
	r.Authoritative = true
	switch sig := q.IsTsig(); {
	case len(q.Question) != 1:
		r.Rcode = dns.RcodeFormatError
	case !dns.IsSubDomain(z.Name, strings.ToLower(q.Question[0].Name)):
		r.Rcode = dns.RcodeRefused
	case q.Opcode == dns.OpcodeUpdate:
		r.Rcode = z.update(q, sig != nil && w.TsigStatus() == nil)
		if sig != nil && w.TsigStatus() == nil {
			r.SetTsig(sig.Hdr.Name, sig.Algorithm, 300, time.Now().Unix())
		}
	default:
		z.answer(r, q.Question[0])
	}
	_ = w.WriteMsg(r) // a client that is gone
}

func (z *Zone) update(q *dns.Msg, signed bool) (rcode int) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !signed {
		z.refused++
		return dns.RcodeNotAuth
	}
	z.updates++
	for _, rr := range q.Ns {
		txt, ok := rr.(*dns.TXT)
		if !ok {
			continue
		}
		z.txt = slices.DeleteFunc(z.txt, func(old *dns.TXT) bool { return old.Hdr.Name == txt.Hdr.Name && slices.Equal(old.Txt, txt.Txt) })
		if rr.Header().Class == dns.ClassINET {
			z.txt = append(z.txt, txt)
		}
	}
	return dns.RcodeSuccess
}

func (z *Zone) answer(r *dns.Msg, q dns.Question) {
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: zoneTTL}
	}
	soa := &dns.SOA{Hdr: dns.RR_Header{Name: z.Name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: zoneTTL}, Ns: "ns." + z.Name, Mbox: "ops." + z.Name, Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: zoneTTL}
	apex := strings.EqualFold(q.Name, z.Name)
	switch {
	case q.Qtype == dns.TypeSOA && apex:
		r.Answer = append(r.Answer, soa)
	case q.Qtype == dns.TypeNS && apex:
		r.Answer = append(r.Answer, &dns.NS{Hdr: head(dns.TypeNS), Ns: "ns." + z.Name})
	case q.Qtype == dns.TypeA:
		r.Answer = append(r.Answer, &dns.A{Hdr: head(dns.TypeA), A: z.Leads})
	case q.Qtype == dns.TypeTXT:
		z.mu.Lock()
		defer z.mu.Unlock()
		for _, txt := range z.txt {
			if strings.EqualFold(txt.Hdr.Name, q.Name) {
				r.Answer = append(r.Answer, txt)
			}
		}
	}
	if len(r.Answer) == 0 {
		r.Ns = append(r.Ns, soa)
	}
}
