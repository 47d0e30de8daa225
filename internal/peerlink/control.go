package peerlink

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee"
)

// Control returns a round tripper to a node's control handler. Bodies stream both ways. It closes
// the request's body, also after an error.
func (l *Link) Control(id perigee.NodeID) http.RoundTripper {
	return controlTripper{l, poolKey{proto: protoControl, node: id}}
}

// ControlAddr is like Control for whichever node of the cluster has the address.
func (l *Link) ControlAddr(addr netip.AddrPort) http.RoundTripper {
	return controlTripper{l, controlKey(addr)}
}

func controlKey(addr netip.AddrPort) poolKey {
	return poolKey{proto: protoControl, addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())}
}

type controlTripper struct {
	l   *Link
	key poolKey
}

// RoundTrip implements http.RoundTripper.
func (t controlTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	head, err := newRequestHead(r, 0)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	var x *exchange
	err = t.l.onControl(r.Context(), t.key, func(c *conn) (err error) {
		x, err = startExchange(r.Context(), c, head, time.Time{})
		return err
	})
	if err != nil {
		closeBody(r)
		return nil, err
	}
	x.send(r)
	resp, err := x.response(r)
	if isMoved(err) {
		x.conn.retire()
	}
	return resp, err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// onControl opens something on a control connection: on a new one if the pooled one turns out to be dead.
func (l *Link) onControl(ctx context.Context, key poolKey, open func(*conn) error) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	p := l.pool(key)
	var err error
	for range 3 {
		var c *conn
		if c, err = l.get(ctx, p); err != nil {
			return err
		}
		if err = open(c); err == nil || ctx.Err() != nil || !isConnErr(err) {
			break
		}
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return streamErr(err)
}
