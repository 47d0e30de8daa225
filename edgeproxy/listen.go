package edgeproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"

	"github.com/perigee-edge/perigee/edgeproxy/acme"
	_ "github.com/perigee-edge/perigee/edgeproxy/xconnect" // WebSockets over HTTP/2
)

// The limits of connections. Bodies and responses have no limit of time or size here: they may
// stream for ever, but must move (stall.go).
const (
	maxHeader     = 16 << 10
	headerTimeout = 10 * time.Second // TLS handshakes too
	maxStreams    = 100              // per connection (h2)
	streamWindow  = 256 << 10        // bytes a client may send ahead of the guest (h2)
	frameSize     = 16 << 10         // the longest frame that a client may send (h2), which is the least that it may be
	connWindow    = 1 << 20
	pingAfter     = 30 * time.Second // of silence (h2)
	pingTimeout   = 15 * time.Second
	altSvcAge     = 24 * time.Hour // how long clients remember that there is HTTP/3
)

func (p *Proxy) newServer(withTLS bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server := &http.Server{
		Handler:           p,
		Protocols:         &protocols,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       p.cfg.IdleTimeout,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              frameSize,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              p.cfg.StallTimeout,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			ctx, s := withSession(ctx, func() { c.Close() })
			s.by, s.passed = passedBy(c)
			return ctx
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" gets an answer with a receipt too
		ErrorLog:                     slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	if withTLS {
		p.takeToll(server)
		server.TLSConfig = p.withTickets(&tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.certs.get, NextProtos: []string{"h2", "http/1.1", acme.Protocol}})
	}
	return server
}

// takeToll has the clients of HTTP/2 pay for frames.
func (p *Proxy) takeToll(server *http.Server) {
	//lint:ignore SA1019 http.Server lets nobody see the frames
	h2 := &http2.Server{}
	//lint:ignore SA1019 as above
	if err := http2.ConfigureServer(server, h2); err != nil {
		panic(err) // of a TLS configuration, and there is none yet
	}
	server.TLSNextProto["h2"] = func(s *http.Server, c *tls.Conn, h http.Handler) {
		ctx := h.(interface{ BaseContext() context.Context }).BaseContext() // as x/net's own function does
		paying := newTollConn(c, p.cfg.StallTimeout, &sessionOf(ctx).toll, p.metrics.flooded.Inc)
		//lint:ignore SA1019 as above
		h2.ServeConn(paying, &http2.ServeConnOpts{Context: ctx, Handler: h, BaseConfig: s})
	}
}

// listen serves one listener until it is closed.
func (p *Proxy) listen(l listener) error {
	var err error
	if l.tls {
		err = l.server.ServeTLS(l.Listener, "", "")
	} else {
		err = l.server.Serve(l.Listener)
	}
	if errors.Is(err, http.ErrServerClosed) || p.draining.Load() && errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.Addr(), err)
}
