package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxAnswers is how many addresses of a name are tried.
const maxAnswers = 8

// dial connects to a host. Each address of the host passes the guard, as late as can be: when its socket
// is about to connect.
func (t *Transport) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.egress.limits.DialTime, errDialTime)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := t.egress.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	if err := t.place(ctx); err != nil {
		return nil, err
	}
	conn, err := t.egress.connect(ctx, network, addrs, port)
	if err != nil {
		<-t.conns
		return nil, err
	}
	t.egress.metrics.conns.Inc()
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() {
		<-t.conns
		t.egress.metrics.conns.Dec()
	})}, nil
}

var errDialTime = timeoutError("no connection in time")

type timeoutError string

func (e timeoutError) Error() string { return string(e) }
func (timeoutError) Timeout() bool   { return true }

// lookup returns the addresses of a host, which may be one itself.
func (e *Egress) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	addrs, err := e.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", shorten(host), err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("look up %s: it has no address", shorten(host))
	}
	return addrs[:min(len(addrs), maxAnswers)], nil
}

// place takes a place for a connection. When all are taken, idle connections give up theirs.
func (t *Transport) place(ctx context.Context) error {
	select {
	case t.conns <- struct{}{}:
		return nil
	default:
	}
	t.http.CloseIdleConnections()
	select {
	case t.conns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &LimitError{fmt.Sprintf("the function has %d connections open on this node", cap(t.conns))}
	}
}

// connect tries addresses in turn. Each gets its share of the time that is left. If none is allowed, the
// error is the guard's; else it is that of the last one that was.
func (e *Egress) connect(ctx context.Context, network string, addrs []netip.Addr, port string) (net.Conn, error) {
	var failed, denied error
	for i, a := range addrs {
		d := net.Dialer{
			Control:  e.guard.control,
			Deadline: share(ctx, len(addrs)-i),
		}
		conn, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		var no *DeniedError
		if errors.As(err, &no) {
			denied = err
		} else {
			failed = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, denied
}

// share returns when an address must have answered, of those that are left.
func share(ctx context.Context, left int) time.Time {
	end, ok := ctx.Deadline()
	if !ok || left < 2 {
		return end
	}
	return time.Now().Add(max(time.Until(end)/time.Duration(left), time.Second))
}

// countedConn gives its place back when it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// Distance measures the way to a host ("name:port"): how long a TCP connection takes to open, without
// the lookup of its name. The guard judges the address, as for any connection.
func (e *Egress) Distance(ctx context.Context, host string) (time.Duration, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return 0, err
	}
	addrs, err := e.lookup(ctx, name)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	conn, err := e.connect(ctx, "tcp", addrs[:1], port)
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, conn.Close()
}
