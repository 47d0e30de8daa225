package peerlink

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
)

// guestStreams is how many streams a joiner or a person may have open at once on one connection.
const guestStreams = 64

// inbound is a connection that another side dialled, with who that is.
type inbound struct {
	*conn
	handler http.Handler
	addr    string // of the other side
	tls     tls.ConnectionState
	person  ed25519.PublicKey // nil unless the protocol is admin
	credits credits
}

type inboundKey struct{}

// PeerFrom returns the node that sent the request of a handler's context, false for joiners and persons.
func PeerFrom(ctx context.Context) (perigee.NodeClaims, bool) {
	in, ok := ctx.Value(inboundKey{}).(*inbound)
	if !ok || !in.proto.betweenNodes() {
		return perigee.NodeClaims{}, false
	}
	return in.claims, true
}

// PersonFrom returns the key of the person that sent the request, false for nodes and joiners. The
// person has proved to own it; what it may do is for the caller to decide.
func PersonFrom(ctx context.Context) (ed25519.PublicKey, bool) {
	in, ok := ctx.Value(inboundKey{}).(*inbound)
	if !ok || in.person == nil {
		return nil, false
	}
	return in.person, true
}

// TLSFrom returns the state of the connection that carries the request, for its exporter.
func TLSFrom(ctx context.Context) (tls.ConnectionState, bool) {
	in, ok := ctx.Value(inboundKey{}).(*inbound)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return in.tls, true
}

// handler returns what serves a protocol. Raw streams need none.
func (l *Link) handler(p protocol) http.Handler {
	return [...]http.Handler{protoPeer: l.cfg.Hops, protoControl: l.cfg.Control, protoJoin: l.cfg.Join, protoAdmin: l.cfg.Admin}[p]
}

func (l *Link) offers(p protocol) bool { return p == protoControl || l.handler(p) != nil }

// serverTLS picks the configuration of the protocol that a client offers. The configurations differ
// in whom they let in, so each names its own protocol only.
func (l *Link) serverTLS() *tls.Config {
	var offered []string
	for p := range protocol(len(alpns)) {
		if l.offers(p) {
			offered = append(offered, p.alpn())
		}
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: offered,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			for p := range protocol(len(alpns)) {
				if l.offers(p) && slices.Contains(hello.SupportedProtos, p.alpn()) {
					return l.protocolTLS(p), nil
				}
			}
			// The handshake fails with "no application protocol", whatever the client's certificate.
			return l.cfg.Identity.PeerServerTLS(offered, l.cfg.Allow), nil
		},
	}
}

func (l *Link) protocolTLS(p protocol) *tls.Config {
	switch p {
	case protoJoin:
		return l.cfg.Identity.JoinServerTLS(p.alpn())
	case protoAdmin:
		return l.cfg.Identity.AdminServerTLS(p.alpn())
	}
	return l.cfg.Identity.PeerServerTLS([]string{p.alpn()}, l.cfg.Allow)
}

// accept takes connections whose handshake is complete. It returns when the socket fails or Run ends.
func (l *Link) accept(ln *quic.Listener) error {
	for {
		q, err := ln.Accept(l.life)
		if err != nil {
			return err
		}
		l.spawn(func() { l.serveConn(q) })
	}
}

// serveConn identifies the other side and takes its streams until the connection ends.
func (l *Link) serveConn(q *quic.Conn) {
	in, err := l.identify(q)
	if err == nil {
		err = l.register(in.conn)
	}
	if err != nil {
		_ = q.CloseWithError(closeRefused, err.Error()) // unless register closed it already
		l.log.Debug("connection refused", "addr", q.RemoteAddr().String(), "err", err)
		return
	}
	defer l.forget(in.conn)
	batch := creditBatch(l.cfg.MaxStreams)
	for {
		st, err := q.AcceptStream(q.Context())
		if err != nil {
			return
		}
		in.useStream()
		if !in.proto.betweenNodes() && in.streams.Load() > guestStreams {
			resetStream(st, ResetOverloaded)
			in.closeStream()
			in.credits.end(st, batch)
			continue
		}
		l.wg.Go(func() { // this goroutine is one that Run waits for, so that the count is not zero
			defer in.credits.end(st, batch)
			defer in.closeStream()
			l.serveStream(in, st)
		})
	}
}

func (l *Link) identify(q *quic.Conn) (*inbound, error) {
	in := &inbound{tls: q.ConnectionState().TLS, addr: q.RemoteAddr().String()}
	p := slices.Index(alpns[:], in.tls.NegotiatedProtocol)
	if p < 0 {
		return nil, errors.New("no protocol of this package was agreed on")
	}
	in.conn = newConn(q, protocol(p), false)
	in.handler = l.handler(in.proto)
	var ok bool
	switch in.proto {
	case protoJoin:
		return in, nil
	case protoAdmin:
		if in.person, ok = identity.PersonKey(in.tls); !ok {
			return nil, errors.New("no person's key")
		}
	default:
		if in.claims, ok = identity.PeerClaims(in.tls); !ok {
			return nil, errors.New("no node certificate")
		}
	}
	return in, nil
}
