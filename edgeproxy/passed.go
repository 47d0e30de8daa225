package edgeproxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// passedListener gives the server of HTTPS the connections that other gateways passed on to this one. They
// reach TLS at once: what was passed on is never passed on again.
type passedListener struct {
	addr  net.Addr
	conns chan net.Conn // never closed
	ctx   context.Context
	stop  context.CancelFunc
}

func newPassedListener(addr net.Addr) *passedListener {
	l := &passedListener{addr: addr, conns: make(chan net.Conn)}
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// Accept returns the next connection.
func (l *passedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends Accept. Connections go on.
func (l *passedListener) Close() error { l.stop(); return nil }

// Addr returns that of HTTPS.
func (l *passedListener) Addr() net.Addr { return l.addr }

// servePass takes a connection that another gateway passes on, and returns when it is over. The sender may
// see none of what it carries, and this node must be one that may.
func (p *Proxy) servePass(w hopResponder, r *http.Request) {
	from, client, code := p.mayTake(r)
	if code != "" {
		p.metrics.taken.WithLabelValues(string(code)).Inc()
		w.Refuse(code, perigee.Load{}, "")
		return
	}
	defer p.hops.leave() // mayTake entered
	c := newPassedConn(w, r.Body, client, p.passed.addr, from)
	front := &frontConn{Conn: c, census: p.census, refused: p.metrics.refusedConns.Inc}
	if front.count(client.Addr()); !front.counted {
		p.metrics.taken.WithLabelValues(string(perigee.RefusedOverloaded)).Inc()
		w.Refuse(perigee.RefusedOverloaded, perigee.Load{}, "")
		return
	}
	p.metrics.taken.WithLabelValues(passedOn).Inc()
	w.Accept(perigee.Load{})
	w.WriteHeader(http.StatusOK)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	var pump sync.WaitGroup
	pump.Go(c.pump)
	defer pump.Wait()
	defer front.Close()
	select {
	case p.passed.conns <- front:
	case <-p.passed.ctx.Done():
		return
	case <-r.Context().Done():
		return
	}
	select {
	case <-c.closed:
	case <-r.Context().Done():
	}
}

// mayTake checks a connection with what this node believes itself. It returns the node that passes it on
// and its client, or why not. If the code is empty, the caller must leave the gate of hops, and the census
// has counted a connection.
func (p *Proxy) mayTake(r *http.Request) (from perigee.NodeClaims, client netip.AddrPort, code perigee.RefuseCode) {
	v := p.cfg.View()
	if p.cfg.Peer != nil {
		from, _ = p.cfg.Peer(r)
	}
	said := r.Header[hopPass]
	if len(said) == 1 {
		client, _ = netip.ParseAddrPort(said[0])
	}
	host := canonicalHost(r.Host)
	_, mine := p.terminates(v, host)
	switch {
	case from.ID == "" || from.ID == p.cfg.Self || !client.IsValid() || !mine:
		p.log.Warn("connection passed on that may not be", "peer", from.ID, "host", shorten(host))
		return from, client, perigee.RefusedNotAllowed
	case p.passed == nil || !v.Desired.HasHost(host):
		return from, client, perigee.RefusedNotHere
	case p.draining.Load():
		return from, client, perigee.RefusedDraining
	case !p.census.enter():
		p.metrics.refusedConns.Inc()
		return from, client, perigee.RefusedOverloaded
	case !p.hops.enter():
		p.census.leave()
		return from, client, perigee.RefusedDraining
	}
	return from, client, ""
}

// passedConn is a connection that another gateway passes on: a net.Conn over a request's body and its
// response.
type passedConn struct {
	net.Conn // the near end of a pipe: what the client sent, with the deadlines of reading
	far      net.Conn
	w        hopResponder
	body     io.ReadCloser
	client   net.Addr
	local    net.Addr
	from     perigee.NodeClaims

	once   sync.Once
	closed chan struct{} // closed by Close
}

func newPassedConn(w hopResponder, body io.ReadCloser, client netip.AddrPort, local net.Addr, from perigee.NodeClaims) *passedConn {
	c := &passedConn{w: w, body: body, client: net.TCPAddrFromAddrPort(client), local: local, from: from, closed: make(chan struct{})}
	c.Conn, c.far = net.Pipe()
	return c
}

// pump moves what the client sends to where Read finds it, until either ends.
func (c *passedConn) pump() {
	_, _ = io.Copy(c.far, c.body) // a connection that breaks ends like one that is closed: TLS tells them apart
	c.far.Close()
}

// Write sends to the client.
func (c *passedConn) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if err == nil {
		err = http.NewResponseController(c.w).Flush()
	}
	return n, err
}

// Close ends the connection. What was written still reaches the client.
func (c *passedConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		_ = c.Conn.Close() // those of a pipe never fail
		_ = c.body.Close()
	})
	return nil
}

// LocalAddr returns where this node serves HTTPS.
func (c *passedConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the client's address, as the other gateway saw it.
func (c *passedConn) RemoteAddr() net.Addr { return c.client }

// SetDeadline implements net.Conn.
func (c *passedConn) SetDeadline(t time.Time) error {
	_ = c.SetWriteDeadline(t)
	return c.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *passedConn) SetWriteDeadline(t time.Time) error {
	return http.NewResponseController(c.w).SetWriteDeadline(t)
}

// passedBy returns the gateway that passed a connection of HTTPS on to this one, if one did.
func passedBy(c net.Conn) (perigee.NodeClaims, bool) {
	if t, ok := c.(*tls.Conn); ok {
		if f, ok := t.NetConn().(*frontConn); ok {
			if passed, ok := f.Conn.(*passedConn); ok {
				return passed.from, true
			}
		}
	}
	return perigee.NodeClaims{}, false
}
