package edgeproxy

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
)

// quicMesh is the real mesh over loopback, so that what the fake one promises is held against it.
type quicMesh struct{ link *peerlink.Link }

func (m quicMesh) RoundTrip(_ context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	resp, err := m.link.RoundTripHop(to, r)
	if err != nil {
		return nil, perigee.Load{}, err
	}
	load, _ := peerlink.LoadOf(resp)
	return resp, load, nil
}

func (m quicMesh) RTT(id perigee.NodeID) (time.Duration, bool) { return m.link.RTT(id) }

// newQUIC starts one link per node, the first of which sends; hops serves the others.
func newQUIC(t *testing.T, ids []perigee.NodeID, hops http.Handler) quicMesh {
	t.Helper()
	cluster := identity.NewClusterID()
	ca, err := identity.NewRoot(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	addrs := map[perigee.NodeID]netip.AddrPort{}
	var links []*peerlink.Link
	for _, id := range ids {
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := ca.IssueNode(cluster, perigee.NodeClaims{ID: id, Region: perigee.Region(id[:3])}, key.Public().(ed25519.PublicKey), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		node, err := identity.NewNode(cluster, ca.Cert(), key, chain)
		if err != nil {
			t.Fatal(err)
		}
		socket, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[id] = socket.LocalAddr().(*net.UDPAddr).AddrPort()
		link, err := peerlink.New(peerlink.Config{
			Socket: socket, Identity: node, Hops: hops, Logger: slog.New(slog.DiscardHandler),
			Allow:       func(perigee.NodeClaims) error { return nil },
			Addr:        func(id perigee.NodeID) (netip.AddrPort, bool) { a, ok := addrs[id]; return a, ok },
			AcceptFloor: 20 * time.Second, // a busy machine is no silent peer
		})
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, link)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, len(links))
	for _, l := range links {
		go func() { done <- l.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range links {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return quicMesh{links[0]}
}

// peerOf is what node gives the proxy as Config.Peer.
func peerOf(r *http.Request) (perigee.NodeClaims, bool) { return peerlink.PeerFrom(r.Context()) }
