package edgeproxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
)

// A client may give up requests that it made, but not make them in order to give them up: more than
// goneBurst at once, or goneRate a second, end its connection. A browser gives up a page's requests
// when its reader leaves, which are 100 at most on one connection. A request whose form is refused counts as
// goneMalformed of them: it costs its client little, and us to read it.
const (
	goneBurst     = 200
	goneRate      = 20
	goneMalformed = 10
)

// proxyTime is for the PROXY header of a load balancer, which sends it at once.
const proxyTime = 5 * time.Second

// session is one connection of a client, which may carry many requests.
type session struct {
	end  func() // ends the connection, whatever is under way
	gone *rate.Limiter
	used atomic.Bool
	toll toll // HTTP/2

	armedWrite time.Time // HTTP/1: when the write deadline was moved; of the request under way
	from       atomic.Pointer[remote]

	passed bool               // by another gateway, over the mesh
	by     perigee.NodeClaims // which
}

type sessionKey struct{}

func withSession(ctx context.Context, end func()) (context.Context, *session) {
	s := &session{end: end, gone: rate.NewLimiter(goneRate, goneBurst)}
	return context.WithValue(ctx, sessionKey{}, s), s
}

// sessionOf returns the connection of a request; nil = not known, as in tests. The methods below may be called on
// nil.
func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

// remote is where a connection comes from.
type remote struct {
	said string     // as the server says it; "" = not from there
	ip   netip.Addr // not valid = not known
	text string     // of ip; "" = not known
}

// remote reads the address of a request, which is mostly that of the request before.
func (s *session) remote(r *http.Request) *remote {
	if s != nil {
		if a := s.from.Load(); a != nil && a.said == r.RemoteAddr {
			return a
		}
	}
	a := &remote{said: r.RemoteAddr}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		a.ip = at.Addr().Unmap().WithZone("")
		a.text = a.ip.String()
	}
	if s != nil {
		s.from.Store(a)
	}
	return a
}

// passedFrom returns the gateway that passed the connection on to this one, if one did.
func (s *session) passedFrom() (by perigee.NodeClaims, passed bool) {
	if s == nil {
		return by, false
	}
	return s.by, s.passed
}

// first reports whether this is the first request: what is said of the server as a whole need not be said again.
func (s *session) first() bool {
	return s == nil || !s.used.Load() && s.used.CompareAndSwap(false, true)
}

// wasted is told of each request that its client gave up, and with goneMalformed of each that was refused for its
// form.
func (s *session) wasted(n int) {
	if s != nil && !s.gone.AllowN(time.Now(), n) {
		s.end()
	}
}

// tollOf returns what the client of a request pays; nil = nothing.
func (s *session) tollOf(r *http.Request) *toll {
	if s == nil || r.ProtoMajor != 2 {
		return nil
	}
	return &s.toll
}

// frontListener accepts the connections of clients over TCP: it counts them, and takes the address of
// those that come through a load balancer from the PROXY header (versions 1 and 2) that this must send.
type frontListener struct {
	net.Listener
	census  *census
	refused func()
	measure func(client netip.Addr, rtt time.Duration)
	proxies []netip.Prefix // those that send the header, and must
}

// Accept returns the next connection within the bounds. Others are closed without an answer.
func (l *frontListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.census.enter() {
			l.refused()
			conn.Close()
			continue
		}
		c := &frontConn{Conn: conn, census: l.census, refused: l.refused, measure: l.measure}
		from := addrOf(conn.RemoteAddr())
		if within(l.proxies, from) {
			c.behind = true
			c.Conn = proxyproto.NewConn(conn, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyTime))
			return c, nil
		}
		if c.count(from); c.counted {
			return c, nil
		}
	}
}

// frontConn is a connection that is counted.
type frontConn struct {
	net.Conn
	census  *census
	refused func()
	measure func(client netip.Addr, rtt time.Duration) // nil = nobody wants to know
	behind  bool                                       // its client is behind a load balancer
	ask     sync.Once                                  // for that client's address, which is read from the connection

	mu      sync.Mutex // guards the rest
	host    netip.Prefix
	counted bool // as one of host's
	over    bool
}

// RemoteAddr returns the client's address. net/http asks for it first, on a goroutine of the
// connection's own: for a client behind a load balancer it is read here, and the connection counted.
func (c *frontConn) RemoteAddr() net.Addr {
	addr := c.Conn.RemoteAddr()
	if c.behind {
		c.ask.Do(func() { c.count(addrOf(addr)) })
	}
	return addr
}

// count counts the connection as one of its client, or closes it.
func (c *frontConn) count(a netip.Addr) {
	c.mu.Lock()
	if !c.over {
		c.host = clientOf(a)
		c.counted = c.census.enterHost(c.host)
	}
	counted := c.counted
	c.mu.Unlock()
	if !counted {
		c.refused()
		c.Close()
	}
}

// Close ends the connection, and its being counted.
func (c *frontConn) Close() error {
	c.mu.Lock()
	if !c.over {
		c.over = true
		c.census.leave()
		if c.counted {
			c.census.leaveHost(c.host)
			if rtt := tcpRTT(c.Conn); rtt > 0 && c.measure != nil {
				c.measure(addrOf(c.Conn.RemoteAddr()), rtt)
			}
		}
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// within reports whether an address is in one of the networks.
func within(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
