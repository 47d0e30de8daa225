// Package dns answers for the cluster's zones: it tells a client the addresses of the gateways that
// are best for it. Any node may answer; what it says follows from the View, so that a node that
// drains or dies is no longer named once the others know, and a function is found once it is live.
//
// A client is where its address is, as EDNS Client Subnet (RFC 7871) or else its resolver's address
// says. It gets the gateways of the nearest region, and those of others that are about as near; see
// package gateways. A gateway outside the residency of a host is never named for it.
//
// The server is authoritative (RFC 1034, RFC 2308), refuses everything outside its zones, recursion
// and transfers, answers ANY in short (RFC 8482), and limits the rate of a client's network, since
// UDP sources can be forged. It keeps nothing and signs nothing (no DNSSEC).
//
// Run owns all goroutines.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/perigee-edge/perigee"
)

// Config says what a Server answers for. It is not changed after New.
type Config struct {
	View func() *perigee.View // what this node believes; called once per question
	// Choose returns the addresses of the gateways for a client at a host, best first; none = no gateway that may
	// serve it is in service.
	Choose  func(v *perigee.View, host string, client netip.Addr) []netip.Addr
	Listen  string       // UDP and TCP address; required
	Zones   []string     // lower-case names, such as "fn.example.com"; at least one
	Servers []string     // names of the zones' name servers, as the parent zone delegates to them; at least one
	Rate    int          // answers a second for the clients of one network over UDP; 0 = 200
	Logger  *slog.Logger // nil = slog.Default()
	Metrics *Metrics     // nil = not exported
}

const (
	ttl         = 20 * time.Second // of addresses: a client follows a failure about so fast
	negativeTTL = 5 * time.Second  // of names that do not exist, since they may be deployed any moment
	zoneTTL     = time.Hour        // of SOA and NS

	defaultRate = 200
	maxUDP      = 1232 // bytes of an answer over UDP (DNS flag day 2020)
	maxTCP      = 256  // connections at once
	tcpTime     = 5 * time.Second
)

// Server answers questions. Its methods are safe for concurrent use.
type Server struct {
	conf   Config
	udp    net.PacketConn
	tcp    net.Listener
	limit  *limiter
	below  atomic.Pointer[ancestors]
	logger *slog.Logger
}

// New opens the sockets; it starts nothing.
func New(conf Config) (*Server, error) {
	if conf.View == nil || conf.Choose == nil || len(conf.Zones) == 0 || len(conf.Servers) == 0 {
		return nil, errors.New("set up DNS: View, Choose, Zones and Servers are required")
	}
	if conf.Rate == 0 {
		conf.Rate = defaultRate
	}
	if conf.Logger == nil {
		conf.Logger = slog.Default()
	}
	if conf.Metrics == nil {
		conf.Metrics = NewMetrics(nil)
	}
	s := &Server{conf: conf, limit: newLimiter(conf.Rate), logger: conf.Logger}
	var err error
	for range 10 { // with port 0, the one that UDP gets may be taken for TCP
		if err = s.listen(); err == nil || !strings.HasSuffix(conf.Listen, ":0") {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	return s, nil
}

func (s *Server) listen() (err error) {
	if s.udp, err = net.ListenPacket("udp", s.conf.Listen); err != nil {
		return err
	}
	if s.tcp, err = net.Listen("tcp", s.udp.LocalAddr().String()); err != nil {
		s.udp.Close()
	}
	return err
}

// Addr returns the address of the sockets.
func (s *Server) Addr() string { return s.udp.LocalAddr().String() }

// Close closes the sockets of a Server that does not run.
func (s *Server) Close() { s.udp.Close(); s.tcp.Close() }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	servers := []*dns.Server{
		{PacketConn: s.udp, Handler: dns.HandlerFunc(s.serveUDP), UDPSize: maxUDP, MsgAcceptFunc: accept},
		{Listener: &capped{s.tcp, make(chan struct{}, maxTCP)}, Handler: dns.HandlerFunc(s.serveTCP), ReadTimeout: tcpTime, WriteTimeout: tcpTime,
			IdleTimeout: func() time.Duration { return tcpTime }, MaxTCPQueries: 100, MsgAcceptFunc: accept},
	}
	errs := make(chan error, len(servers))
	var started sync.WaitGroup
	for _, d := range servers {
		started.Add(1)
		d.NotifyStartedFunc = started.Done
		go func() { errs <- d.ActivateAndServe() }()
	}
	var err error
	pending := len(servers)
	select {
	case <-ctx.Done():
	case err = <-errs: // one never started, or failed
		pending--
	}
	if err == nil {
		started.Wait()
	}
	for _, d := range servers {
		_ = d.Shutdown() // fails if it does not run
	}
	s.Close()
	for range pending {
		if e := <-errs; err == nil && ctx.Err() == nil {
			err = e
		}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("answer DNS: %w", err)
	}
	return nil
}

// accept lets every question through to reply, which knows how to refuse, and drops answers, so that
// two servers never talk to each other.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	if h.Bits&response != 0 {
		return dns.MsgIgnore
	}
	return dns.MsgAccept
}

func (s *Server) serveUDP(w dns.ResponseWriter, req *dns.Msg) {
	from := addrOf(w.RemoteAddr())
	switch s.limit.take(from, time.Now()) {
	case drop:
		s.conf.Metrics.Answers.WithLabelValues("dropped").Inc()
		return
	case slip: // a real client asks again over TCP, whose source can't be forged
		m := new(dns.Msg).SetReply(req)
		m.Truncated = true
		s.write(w, m, "truncated")
		return
	}
	m := s.reply(req, from)
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	m.Truncate(size)
	s.write(w, m, label(m))
}

func (s *Server) serveTCP(w dns.ResponseWriter, req *dns.Msg) {
	m := s.reply(req, addrOf(w.RemoteAddr()))
	s.write(w, m, label(m))
}

func (s *Server) write(w dns.ResponseWriter, m *dns.Msg, result string) {
	s.conf.Metrics.Answers.WithLabelValues(result).Inc()
	if err := w.WriteMsg(m); err != nil {
		s.logger.Debug("dns answer not sent", "err", err)
	}
}

// label names the outcome in the metrics.
func label(m *dns.Msg) string {
	switch {
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		return "answered"
	case m.Rcode == dns.RcodeSuccess:
		return "empty"
	case m.Rcode == dns.RcodeNameError:
		return "unknown"
	case m.Rcode == dns.RcodeServerFailure:
		return "failed"
	}
	return "refused"
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// capped is a listener with a bounded number of open connections; more wait in the kernel.
type capped struct {
	net.Listener
	room chan struct{} // has one value for each open connection; never closed
}

func (l *capped) Accept() (net.Conn, error) {
	l.room <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &cappedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

type cappedConn struct {
	net.Conn
	leave func()
}

func (c *cappedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// zoneOf returns the zone that a name belongs to; "" if none.
func (s *Server) zoneOf(name string) string {
	best := ""
	for _, z := range s.conf.Zones {
		if (name == z || strings.HasSuffix(name, "."+z)) && len(z) > len(best) {
			best = z
		}
	}
	return best
}

// ancestors is the names that have a host below them, such as "b.example" for "a.b.example": they
// exist without records.
type ancestors struct {
	of    *perigee.Desired
	names map[string]bool
}

// exists reports whether some host is below the name. The answer is made once for each new state.
func (s *Server) exists(d *perigee.Desired, name string) bool {
	a := s.below.Load()
	if a == nil || a.of != d {
		a = &ancestors{d, map[string]bool{}}
		for host := range d.Hosts() {
			for {
				_, parent, ok := strings.Cut(host, ".")
				if !ok || a.names[parent] {
					break
				}
				a.names[parent] = true
				host = parent
			}
		}
		s.below.Store(a)
	}
	return a.names[name]
}
