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
	addr   string
	conn   *conn
	tr     *quic.Transport
	socket net.PacketConn // to close; nil if the caller owns it

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
	c, err := DialOn(ctx, socket, addr, tlsConf)
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	c.socket = socket
	return c, nil
}

// DialOn is like Dial with the caller's socket, which Close leaves open, to be given to New later.
// Until Close the socket answers probes, so that the node can try whether the joiner's advertised
// address works before it lets it in.
func DialOn(ctx context.Context, socket net.PacketConn, addr string, tlsConf *tls.Config) (*Client, error) {
	addrs, err := resolve(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c := &Client{addr: addr, tr: newTransport(socket, nil, [4]byte{})}
	startPackets(c.tr)
	var errs []error
	for _, a := range addrs {
		q, err := dialClient(ctx, c.tr, a, tlsConf)
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
	_ = c.tr.Close() // the dial's errors say more
	return nil, fmt.Errorf("connect to %s: %w", addr, errors.Join(errs...))
}

func dialClient(ctx context.Context, tr *quic.Transport, addr netip.AddrPort, tlsConf *tls.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, clientDialTimeout)
	defer cancel()
	q, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConf, clientQUIC(clientIdle, clientKeepAlive))
	return q, connErr(err)
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

// TLS returns the state of the connection, for its exporter and the node's certificate.
func (c *Client) TLS() tls.ConnectionState { return c.conn.q.ConnectionState().TLS }

// Close ends the connection and requests under way, and releases the socket. Further calls do nothing.
func (c *Client) Close() (err error) {
	c.once.Do(func() {
		c.conn.close(closeUnused, "done")
		c.cancel()
		c.wg.Wait()
		err = c.tr.Close()
		if c.socket != nil {
			err = errors.Join(err, c.socket.Close())
		}
	})
	return err
}
