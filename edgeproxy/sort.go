package edgeproxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// sorter is the listener of HTTPS. Before a connection gets a server, its ClientHello is read: those for
// hosts whose TLS may not end here are passed on (pass.go), and never reach this node's TLS.
//
// Accept starts a goroutine for accepting and one for each connection until it has a server, or is passed
// on and over. Close ends the first, and the others that still wait for a hello; wait waits for all.
type sorter struct {
	net.Listener
	p     *Proxy
	limit time.Duration // for the hello

	start  sync.Once
	sorted chan net.Conn // never closed
	failed chan error    // of accepting; never closed
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

func newSorter(l net.Listener, p *Proxy) *sorter {
	s := &sorter{Listener: l, p: p, limit: headerTimeout, sorted: make(chan net.Conn), failed: make(chan error)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Accept returns the next connection whose TLS ends here.
func (s *sorter) Accept() (net.Conn, error) {
	s.start.Do(func() { s.wg.Go(s.accept) })
	select {
	case c := <-s.sorted:
		return c, nil
	case err := <-s.failed:
		return nil, err
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (s *sorter) accept() {
	for {
		conn, err := s.Listener.Accept()
		switch {
		case err == nil:
			s.wg.Go(func() { s.sort(conn) })
		case s.ctx.Err() != nil:
			return
		default:
			select { // until the server has heard of it, and has waited if it likes to
			case s.failed <- err:
			case <-s.ctx.Done():
				return
			}
		}
	}
}

func (s *sorter) sort(conn net.Conn) {
	conn.RemoteAddr() // a load balancer's PROXY header comes before the hello
	_ = conn.SetReadDeadline(time.Now().Add(s.limit))
	watch := context.AfterFunc(s.ctx, func() { conn.Close() })
	host, read, ok, err := readHello(conn)
	if !watch() || err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if ok && s.p.passes(conn, host, read) {
		return
	}
	select { // what is no hello, crypto/tls knows how to answer
	case s.sorted <- &readAgain{conn, read}:
	case <-s.ctx.Done():
		conn.Close()
	}
}

// Close ends accepting. Connections that are passed on go on.
func (s *sorter) Close() error {
	s.stop()
	return s.Listener.Close()
}
