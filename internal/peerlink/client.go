package peerlink

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// The times of a Client: those of a Link's defaults, and a handshake may take longer, since a person waits.
const (
	clientDialTimeout = 5 * time.Second
	clientIdle        = 15 * time.Second
	clientKeepAlive   = 5 * time.Second
)

// Client is one connection to a node for those who are not nodes: the command line and machines
// that want to join. It is an http.RoundTripper, safe for concurrent use.
type Client struct {
	addr    string
	conn    *conn
	tr      *quic.Transport
	socket  net.PacketConn // to close; nil if the caller owns it
	tcp     *quic.Transport
	tunnels *tunnels     // its socket
	port    net.Listener // the mesh port over TCP, which answers probes meanwhile; nil if there is none

	probed atomic.Int64 // probes answered

	once   sync.Once
	cancel context.CancelFunc
	wg     sync.WaitGroup // the packet reader
}

// Dial connects to a node at host:port from a port of its own and waits for the handshake. tlsConf
// is one of package identity's client configurations. In TLS 1.3 a node judges the client's
// certificate after that: if it refuses, mostly the first RoundTrip fails, with ErrIdentityRefused.
func Dial(ctx context.Context, addr string, tlsConf *tls.Config) (*Client, error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c, err := dialOn(ctx, socket, addr, tlsConf, true)
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	c.socket = socket
	return c, nil
}

// DialOn is like Dial with the caller's socket, which Close leaves open, to be given to New later.
// Until Close the socket answers probes, so that the node can try whether the joiner's advertised
// address works before it lets it in. So does port, which listens on the same port over TCP: nil if there
// is none, and then only UDP is tried.
func DialOn(ctx context.Context, socket net.PacketConn, port net.Listener, addr string, tlsConf *tls.Config) (*Client, error) {
	c, err := dialOn(ctx, socket, addr, tlsConf, port != nil)
	if err == nil && port != nil {
		c.port = port
		c.wg.Go(c.answerStreams)
	}
	return c, err
}

func dialOn(ctx context.Context, socket net.PacketConn, addr string, tlsConf *tls.Config, tcp bool) (*Client, error) {
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c := &Client{addr: addr, tr: newTransport(socket, nil, [4]byte{})}
	if tcp {
		c.tunnels = newTunnels(socket.LocalAddr(), clientIdle, func() {})
		c.tcp = newTransport(c.tunnels, nil, [4]byte{})
	}
	startPackets(c.tr)
	var errs []error
	for _, a := range addrs {
		q, err := c.connect(ctx, a, tlsConf)
		if err == nil {
			c.conn = newConn(q, protocol(max(0, slices.Index(alpns[:], q.ConnectionState().TLS.NegotiatedProtocol))), true)
			c.answerProbes()
			return c, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	_ = c.closeTransports() // the dial's errors say more
	c.wg.Wait()
	return nil, fmt.Errorf("connect to %s: %w", addr, errors.Join(errs...))
}

func (c *Client) connect(ctx context.Context, addr netip.AddrPort, tlsConf *tls.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, clientDialTimeout)
	defer cancel()
	conf := clientQUIC(clientIdle, clientKeepAlive)
	udp := func(ctx context.Context) (*quic.Conn, error) {
		return c.tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, conf)
	}
	if c.tcp == nil {
		q, err := udp(ctx)
		return q, connErr(err)
	}
	var t *tunnel
	q, on, err := race(ctx, overUDP, overTCP, map[way]attempt{
		overUDP: udp,
		overTCP: func(ctx context.Context) (_ *quic.Conn, err error) {
			if t, err = openTunnel(ctx, c.tunnels, addr, tlsConf); err != nil {
				return nil, err
			}
			c.wg.Go(t.run)
			return c.tcp.Dial(ctx, t, tlsConf, tunnelQUIC(conf))
		},
	}, headStart)
	if t != nil && on != overTCP {
		t.close()
	}
	return q, connErr(err)
}

// closeTransports ends all that the sockets carry, and what reads them.
func (c *Client) closeTransports() error {
	err := c.tr.Close()
	if c.tcp != nil {
		err = errors.Join(err, c.tcp.Close())
	}
	return err
}

// resolve returns the addresses of a host:port.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{ap}, nil
	}
	host, portName, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portName, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number from 0 to 65535", portName)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return addrs, nil
}

// newTransport returns the QUIC use of a socket. A nil key means a random one.
func newTransport(socket net.PacketConn, resetKey *[32]byte, mark [4]byte) *quic.Transport {
	if resetKey == nil {
		resetKey = new([32]byte)
		_, _ = rand.Read(resetKey[:]) // never fails
	}
	return &quic.Transport{Conn: socket, ConnectionIDGenerator: connIDs(mark), StatelessResetKey: (*quic.StatelessResetKey)(resetKey)}
}

// connIDs makes connection ids: the mark of the process, by which packets find it while another takes
// over its port, and 8 bytes by chance.
type connIDs [4]byte

func (m connIDs) ConnectionIDLen() int { return len(m) + 8 }

func (m connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	b := make([]byte, m.ConnectionIDLen())
	_, _ = rand.Read(b[copy(b, m[:]):]) // never fails
	return quic.ConnectionIDFromBytes(b), nil
}

// answerProbes answers probes until Close.
func (c *Client) answerProbes() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	p := newProber(c.tr.WriteTo, func() { c.probed.Add(1) })
	c.wg.Go(func() {
		b := make([]byte, MaxPacket)
		for {
			n, from, err := c.tr.ReadNonQUICPacket(ctx, b)
			if err != nil {
				return
			}
			if isProbe(b[:n]) {
				p.handle(b[:n], from)
			}
		}
	})
}

// deadliner is a listener whose Accept can be ended without closing it, as all of TCP are.
type deadliner interface{ SetDeadline(time.Time) error }

// answerStreams answers probes over TCP until Close. Whatever else comes is turned away: there is no node yet.
func (c *Client) answerStreams() {
	d, ok := c.port.(deadliner)
	if !ok {
		return
	}
	defer func() { _ = d.SetDeadline(time.Time{}) }()
	p := newProber(nil, func() { c.probed.Add(1) })
	for {
		conn, err := c.port.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(probeWait)) // its failure is that of Read
		_, _, _ = p.isStream(conn)                      // who asks notices
		_ = conn.Close()
	}
}

// Probed reports whether a probe came to the socket since the dial. A node that says it reached nothing here
// although one did waited too short.
func (c *Client) Probed() bool { return c.probed.Load() > 0 }

// RoundTrip sends a request to the node. It closes the request's body, also after an error.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	head, err := newRequestHead(r, 0)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	x, err := startExchange(ctx, c.conn, head, time.Time{})
	if err != nil {
		closeBody(r)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.explain(streamErr(err))
	}
	x.send(r)
	resp, err := x.response(r)
	return resp, c.explain(err)
}

// explain puts a refusal of this side's identity before all else that is known about the failure.
func (c *Client) explain(err error) error {
	if err != nil && errors.Is(err, ErrIdentityRefused) {
		return fmt.Errorf("%s: %w", c.addr, ErrIdentityRefused)
	}
	return err
}

// OverTCP reports whether UDP did not get through to the node. It does not see the port of the caller's socket then.
func (c *Client) OverTCP() bool { return tunnelOf(c.conn.q) != nil }

// TLS returns the state of the connection, for its exporter and the node's certificate.
func (c *Client) TLS() tls.ConnectionState { return c.conn.q.ConnectionState().TLS }

// Close ends the connection and requests under way, and releases the socket. Further calls do nothing.
func (c *Client) Close() (err error) {
	c.once.Do(func() {
		c.conn.close(closeUnused, "done")
		if t := tunnelOf(c.conn.q); t != nil {
			t.close()
		}
		c.cancel()
		if d, ok := c.port.(deadliner); ok {
			_ = d.SetDeadline(time.Now()) // ends answerStreams; the port stays open
		}
		c.wg.Wait()
		err = c.closeTransports()
		if c.socket != nil {
			err = errors.Join(err, c.socket.Close())
		}
	})
	return err
}
