package edgeproxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/time/rate"
)

// The limits of HTTP/3 that are not those of listen.go.
const (
	uniStreams     = 8               // per connection: control, two of QPACK, and some that mean nothing
	handshakeTime  = 5 * time.Second // without a packet; twice that in all
	handshakeRate  = 500             // a second; beyond, clients must prove their address first (Retry)
	drainLinger    = time.Second     // for clients to notice that a connection ends, before it does
	quicPacketSize = 1200            // of the first packets: what every path carries
)

// h3 serves HTTP/3 on one UDP socket. It accepts connections and streams by itself, where quic-go's
// server would wait for ever for the head of a request, and run as many as come.
//
// A drain refuses each new request with H3_REQUEST_REJECTED, which tells the client that it may repeat
// it on another connection.
type h3 struct {
	p         *Proxy
	socket    net.PacketConn
	shakes    *handshakes
	transport *quic.Transport
	server    *http3.Server
	headTime  time.Duration // for the head of a request
	shakeTime time.Duration // for a handshake without a packet

	draining  chan struct{} // closed by drain
	drainOnce sync.Once
	running   chan struct{} // closed when run has ended
	conns     sync.WaitGroup
}

func newH3(p *Proxy, socket net.PacketConn) *h3 {
	shake := rate.NewLimiter(handshakeRate, handshakeRate)
	h := &h3{p: p, socket: socket, shakes: newHandshakes(), headTime: headerTimeout, shakeTime: handshakeTime, draining: make(chan struct{}), running: make(chan struct{})}
	h.conns.Add(1) // the loop of run, which adds the others
	h.transport = &quic.Transport{
		Conn: socket, ConnectionIDGenerator: connIDs(p.cfg.Mark),
		VerifySourceAddress: func(a net.Addr) bool { return h.shakes.crowded(addrOf(a)) || !shake.Allow() },
		ConnContext: func(ctx context.Context, client *quic.ClientInfo) (context.Context, error) {
			if p.census.full() { // the address may not be proven yet, so it is not counted
				return nil, errors.New("too many connections")
			}
			ctx, err := h.shakes.begin(ctx, client)
			if err != nil {
				p.metrics.refusedConns.Inc()
			}
			return ctx, err
		},
	}
	h.server = &http3.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if s, ok := w.(interface{ SetReadDeadline(time.Time) error }); ok {
				_ = s.SetReadDeadline(time.Time{}) // that of the head; never fails
			}
			p.ServeHTTP(w, r)
		}),
		MaxHeaderBytes: maxHeader,
		IdleTimeout:    p.cfg.IdleTimeout,
		ConnContext: func(ctx context.Context, c *quic.Conn) context.Context {
			ctx, _ = withSession(ctx, func() {
				_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "too many requests given up")
			})
			return ctx
		},
	}
	return h
}

func (h *h3) quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout: h.shakeTime, MaxIdleTimeout: h.p.cfg.IdleTimeout + closeWait, // an idle WebSocket is told to go first
		MaxIncomingStreams: maxStreams, MaxIncomingUniStreams: uniStreams,
		InitialStreamReceiveWindow: streamWindow, MaxStreamReceiveWindow: streamWindow,
		InitialConnectionReceiveWindow: connWindow, MaxConnectionReceiveWindow: connWindow,
		InitialPacketSize: quicPacketSize,
		Allow0RTT:         false, // what is sent in it can be sent again by anybody who saw it
	}
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

// run serves until ctx ends, and cuts off what is under way then.
func (h *h3) run(ctx context.Context) error {
	defer close(h.running)
	defer h.socket.Close()
	defer h.conns.Wait()
	defer h.transport.Close() // reports what closing the socket reports
	l, err := h.transport.Listen(h.p.withTickets(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{http3.NextProtoH3}, GetCertificate: h.p.certs.get,
	}), h.quicConfig())
	if err != nil {
		return fmt.Errorf("serve HTTP/3 on %s: %w", h.socket.LocalAddr(), err)
	}
	accepting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(accepting, func() { _ = l.Close() })() // handshakes under way are refused; connections go on
	h.conns.Go(func() {
		select {
		case <-h.draining:
			stop()
		case <-accepting.Done():
		}
	})
	err = h.accept(ctx, accepting, l)
	h.conns.Done()
	if err != nil {
		return fmt.Errorf("serve HTTP/3 on %s: %w", h.socket.LocalAddr(), err)
	}
	<-ctx.Done()
	return nil
}

// accept accepts connections until accepting ends.
func (h *h3) accept(ctx, accepting context.Context, l *quic.Listener) error {
	for {
		conn, err := l.Accept(accepting)
		if err != nil {
			if accepting.Err() == nil {
				return err
			}
			return nil
		}
		h.shakes.finished(conn.Context())
		h.conns.Go(func() { h.admit(ctx, conn) })
	}
}

// drain tells connections to go, and waits until they have, or ctx ends.
func (h *h3) drain(ctx context.Context) error {
	h.drainOnce.Do(func() { close(h.draining) })
	gone := make(chan struct{})
	go func() { h.conns.Wait(); close(gone) }()
	select {
	case <-gone:
		return nil
	case <-h.running:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// admit serves a connection within the bounds. Its client has proven its address.
func (h *h3) admit(ctx context.Context, conn *quic.Conn) {
	census, host := h.p.census, clientOf(addrOf(conn.RemoteAddr()))
	if census.enter() {
		if census.enterHost(host) {
			h.serve(ctx, conn)
			h.p.cfg.Measured(addrOf(conn.RemoteAddr()), conn.ConnectionStats().SmoothedRTT)
			census.leaveHost(host)
			census.leave()
			return
		}
		census.leave() // before its client hears
	}
	h.p.metrics.refusedConns.Inc()
	_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "too many connections")
}

// serve serves one connection until it ends.
func (h *h3) serve(ctx context.Context, conn *quic.Conn) {
	raw, err := h.server.NewRawServerConn(conn)
	if err != nil {
		return // the connection has ended
	}
	var streams sync.WaitGroup
	defer streams.Wait()
	streams.Go(func() {
		for {
			s, err := conn.AcceptUniStream(conn.Context())
			if err != nil {
				return
			}
			streams.Go(func() { raw.HandleUnidirectionalStream(s) })
		}
	})
	accepting, drained := context.WithCancel(conn.Context())
	defer drained()
	slots := make(chan struct{}, maxStreams)
	streams.Go(func() { h.endDrained(ctx, conn, raw, slots, drained) })
	for {
		s, err := conn.AcceptStream(accepting)
		if err != nil {
			break
		}
		if h.isDraining() || !take(slots) {
			s.ReleaseStreamCredit()
			s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
			s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestRejected))
			continue
		}
		_ = s.SetReadDeadline(time.Now().Add(h.headTime)) // never fails
		streams.Go(func() {
			defer func() { <-slots }()
			raw.HandleRequestStream(s)
		})
	}
}

// endDrained ends a connection of a draining node when no request is under way.
func (h *h3) endDrained(ctx context.Context, conn *quic.Conn, raw *http3.RawServerConn, slots chan struct{}, drained func()) {
	select {
	case <-conn.Context().Done():
		return
	case <-h.draining:
	}
	linger := time.NewTimer(drainLinger)
	defer linger.Stop()
	for range cap(slots) { // once all are taken, none is in use
		select {
		case slots <- struct{}{}:
		case <-conn.Context().Done():
			return
		}
	}
	select {
	case <-linger.C:
	case <-conn.Context().Done():
		return
	case <-ctx.Done():
	}
	drained()
	_ = raw.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "the node goes")
}

func (h *h3) isDraining() bool {
	select {
	case <-h.draining:
		return true
	default:
		return false
	}
}

func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}
