package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/peerlink"
)

// mesh is the mesh as gossip sees it.
type mesh struct {
	link   *peerlink.Link
	failed func(error) // sees what calls fail with
}

const maxControlReply = 16 << 20

func (m mesh) Call(ctx context.Context, to perigee.NodeID, path string, body []byte) ([]byte, error) {
	return m.call(ctx, m.link.Control(to), path, body)
}

func (m mesh) CallAddr(ctx context.Context, addr netip.AddrPort, path string, body []byte) ([]byte, error) {
	return m.call(ctx, m.link.ControlAddr(addr), path, body)
}

func (m mesh) call(ctx context.Context, rt http.RoundTripper, path string, body []byte) ([]byte, error) {
	b, err := call(ctx, rt, path, body)
	if err != nil {
		m.failed(err)
	}
	return b, err
}

func call(ctx context.Context, rt http.RoundTripper, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://perigee"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxControlReply+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxControlReply:
		return nil, fmt.Errorf("%s answered with more than %d bytes", path, maxControlReply)
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s: %s: %.200s", path, resp.Status, b)
	}
	return b, nil
}

func (m mesh) WritePacket(b []byte, to netip.AddrPort) error { return m.link.WritePacket(b, to) }

func (m mesh) ReadPacket(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	return m.link.ReadPacket(ctx, b)
}

func (m mesh) DialStream(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	c, err := m.link.DialRaw(ctx, to)
	if err != nil {
		m.failed(err)
	}
	return c, err
}

func (m mesh) AcceptStream(ctx context.Context) (net.Conn, error) {
	c, _, err := m.link.AcceptRaw(ctx)
	return c, err
}

// hops is the mesh as edgeproxy sees it.
type hops struct{ link *peerlink.Link }

func (h hops) RoundTrip(_ context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	resp, err := h.link.RoundTripHop(to, r)
	if err != nil {
		return nil, perigee.Load{}, err
	}
	load, _ := peerlink.LoadOf(resp)
	return resp, load, nil
}

func (h hops) RTT(id perigee.NodeID) (time.Duration, bool) { return h.link.RTT(id) }
