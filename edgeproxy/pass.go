package edgeproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	passTries   = 3                // gateways, before the client is refused
	passSilence = 30 * time.Minute // without a byte either way; the other end has limits of its own, and closes
	drainQuiet  = 5 * time.Second  // the same while this node drains
	passLinger  = time.Second      // for a client to take note of the end
	passChunk   = 32 << 10
)

// The outcomes of a connection that was to be passed on.
const (
	passedOn    = "ok"
	passNowhere = "no-gateway" // none that may end its TLS took it
	passBroken  = "broken"     // lost on the way
	passSilent  = "silent"     // nothing came for too long
)

// terminates reports whether this node may end the TLS of a host, and the rule if not.
func (p *Proxy) terminates(v *perigee.View, host string) (rule string, ok bool) {
	return placement.Terminates(v.Desired, host, p.claims(v))
}

// claims are what this node's certificate says.
func (p *Proxy) claims(v *perigee.View) perigee.NodeClaims {
	if self := v.Observed.Nodes[p.cfg.Self]; self != nil {
		return self.NodeClaims
	}
	return perigee.NodeClaims{ID: p.cfg.Self, Region: p.cfg.Region}
}

// passes passes a connection on if the TLS of the host may not end here, and returns when it is over. What
// was read of it already goes first.
func (p *Proxy) passes(conn net.Conn, host string, read []byte) bool {
	v := p.cfg.View()
	if _, ok := p.terminates(v, host); ok {
		return false
	}
	defer conn.Close()
	outcome := passNowhere
	if p.passing.enter() {
		defer p.passing.leave()
		outcome = p.pass(v, conn, host, read)
	}
	p.metrics.passed.WithLabelValues(outcome).Inc()
	p.log.LogAttrs(p.life, slog.LevelDebug, "connection passed on", slog.String("host", host), slog.String("outcome", outcome))
	return true
}

// pass finds the nearest gateway that takes the connection. Until one has, no byte of it has left.
func (p *Proxy) pass(v *perigee.View, conn net.Conn, host string, read []byte) (outcome string) {
	ctx, cancel := context.WithCancel(p.life)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	x := &passage{conn: conn, first: read}
	x.moved()
	for i, id := range placement.Terminators(v, p.claims(v), host, p.cfg.Hops.RTT) {
		if i == passTries {
			break
		}
		r := (&http.Request{
			Method: http.MethodPost, URL: &url.URL{Path: "/"}, Host: host, ContentLength: -1, Body: x,
			Header: http.Header{hopPass: {conn.RemoteAddr().String()}},
		}).WithContext(ctx)
		resp, _, err := p.cfg.Hops.RoundTrip(ctx, id, r)
		if errors.As(err, new(*perigee.HopError)) {
			p.log.Debug("gateway does not take a connection", "peer", id, "host", host, "err", err)
			continue
		}
		if err != nil {
			return passBroken
		}
		p.metrics.passing.Inc()
		defer p.metrics.passing.Dec()
		return p.relay(x, resp.Body, cancel)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(passLinger))
	_, _ = conn.Write(alertInternal) // a client that is gone is told nothing
	return passNowhere
}

// alertInternal is the TLS record (RFC 8446, section 6) that ends a handshake with internal_error: this
// node can say nothing that is signed for the host.
var alertInternal = []byte{21, 3, 3, 0, 2, 2, 80}

// relay copies what comes back until the connection ends. What goes there, the mesh reads from x.
func (p *Proxy) relay(x *passage, back io.ReadCloser, cancel context.CancelFunc) string {
	defer back.Close()
	done := make(chan struct{})
	defer close(done)
	go p.watch(x, cancel, done)
	buf := make([]byte, passChunk)
	for {
		n, err := back.Read(buf)
		if n > 0 {
			x.moved()
			_ = x.conn.SetWriteDeadline(time.Now().Add(p.cfg.StallTimeout))
			if _, werr := x.conn.Write(buf[:n]); werr != nil {
				return passedOn // the client left
			}
			x.moved()
		}
		switch {
		case err == io.EOF:
			x.finish()
			return passedOn
		case x.silent.Load():
			return passSilent
		case err != nil && x.ended.Load():
			return passedOn // the client left first
		case err != nil:
			return passBroken
		}
	}
}

// watch ends a connection on which nothing moves.
func (p *Proxy) watch(x *passage, cancel context.CancelFunc, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case now := <-tick.C:
			limit := passSilence
			if p.draining.Load() {
				limit = drainQuiet
			}
			if now.Sub(time.Unix(0, x.last.Load())) > limit {
				x.silent.Store(true)
				cancel()
				return
			}
		}
	}
}

// passage is a client's connection as the body of a request: what the client sends.
type passage struct {
	conn   net.Conn
	first  []byte       // was read already
	last   atomic.Int64 // when a byte last moved, in nanoseconds of Unix time
	ended  atomic.Bool  // the client sends no more
	silent atomic.Bool  // ended by watch
}

func (x *passage) moved() { x.last.Store(time.Now().UnixNano()) }

// Read returns what the client sends.
func (x *passage) Read(b []byte) (int, error) {
	if len(x.first) > 0 {
		n := copy(b, x.first)
		x.first = x.first[n:]
		return n, nil
	}
	n, err := x.conn.Read(b)
	if x.moved(); err != nil {
		x.ended.Store(true)
	}
	return n, err
}

// Close ends reading: the other end needs no more. What comes back goes on.
func (x *passage) Close() error { return x.conn.SetReadDeadline(time.Unix(1, 0)) }

// finish tells the client that nothing more comes, and gives it a moment to close too: what it sends
// into a closed socket would make the system drop what it has not read yet.
func (x *passage) finish() {
	if c := halfOf(x.conn); c == nil || c.CloseWrite() != nil {
		return
	}
	_ = x.conn.SetReadDeadline(time.Now().Add(passLinger))
	_, _ = io.Copy(io.Discard, x.conn)
}

type halfCloser interface{ CloseWrite() error }

// halfOf returns what closes one direction of a client's connection; nil = nothing does.
func halfOf(c net.Conn) halfCloser {
	for {
		switch in := c.(type) {
		case halfCloser:
			return in
		case *frontConn:
			c = in.Conn
		case *proxyproto.Conn:
			c = in.Raw()
		default:
			return nil
		}
	}
}
