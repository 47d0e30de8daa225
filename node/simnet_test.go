package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// ipHeader is what IPv4 and UDP add to a datagram.
const ipHeader = 28

// simWorld is a network in memory and in fake time, with real QUIC, real certificates and real
// membership on it, and none of what a node has beside its mesh and its state.
type simWorld struct {
	simnet.PerfectRouter
	t       *testing.T
	net     *simnet.Simnet
	carried atomic.Int64 // bytes of IP packets
	blocked atomic.Pointer[func(from, to net.Addr) bool]

	cluster  perigee.ClusterID
	ca       *identity.Authority
	operator ed25519.PrivateKey
	genesis  []byte
	hlc      record.HLC
	nodes    []*simNode
}

type simNode struct {
	*gossip.Gossip
	id   perigee.NodeID
	addr netip.AddrPort
}

// SendPacket implements simnet.Router.
func (w *simWorld) SendPacket(p simnet.Packet) error {
	w.carried.Add(int64(len(p.Data)) + ipHeader)
	if f := w.blocked.Load(); f != nil && (*f)(p.From, p.To) {
		return nil
	}
	return w.PerfectRouter.SendPacket(p)
}

// newSimWorld starts nodes that join through the first; it returns what ends them.
func newSimWorld(t *testing.T, size int) (*simWorld, func()) {
	t.Helper()
	w := &simWorld{t: t, cluster: identity.NewClusterID()}
	w.net = &simnet.Simnet{Router: w}
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.ca, err = identity.NewRoot(w.cluster, time.Now())
	must()
	w.operator, err = identity.NewKey()
	must()
	w.hlc = record.HLCAt(time.Now())
	_, w.genesis, err = record.Sign(w.operator, w.cluster, 1, w.hlc, nil, &record.Genesis{
		Cluster: w.cluster, Domain: "fn.example.com", Operator: w.operator.Public().(ed25519.PublicKey), Root: w.ca.Cert().Raw, WebRoot: []byte{1},
	})
	must()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	regions := []perigee.Region{"fra", "wdc", "syd", "tok", "lon", "dal", "tor", "mad", "osa", "sao"}[:min(10, max(2, size/3))]
	var links []*peerlink.Link
	for i := range size {
		region := regions[i%len(regions)]
		n := &simNode{id: perigee.NodeID(fmt.Sprintf("%s-%d", region, i/len(regions)+1)), addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 1)}), 7443)}
		key, keyErr := identity.NewKey()
		err = keyErr
		must()
		chain, issueErr := w.ca.IssueNode(w.cluster, perigee.NodeClaims{ID: n.id, Region: region}, key.Public().(ed25519.PublicKey), time.Now())
		err = issueErr
		must()
		self, selfErr := identity.NewNode(w.cluster, w.ca.Cert(), key, chain)
		err = selfErr
		must()
		logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
		control := http.NewServeMux()
		link, linkErr := peerlink.New(peerlink.Config{
			Socket: w.net.NewEndpoint(net.UDPAddrFromAddrPort(n.addr), simnet.NodeBiDiLinkSettings{Latency: 40 * time.Millisecond}), Identity: self,
			Allow: func(perigee.NodeClaims) error { return nil },
			Addr: func(id perigee.NodeID) (netip.AddrPort, bool) {
				p := n.View().Observed.Nodes[id]
				if p == nil {
					return netip.AddrPort{}, false
				}
				return p.Addr, true
			},
			Hops: http.NotFoundHandler(), Control: control, Logger: logger,
		})
		err = linkErr
		must()
		n.Gossip, err = gossip.New(gossip.Config{
			Identity: self, Genesis: w.genesis, Dir: "/state", FS: simdisk.New(), Mesh: mesh{link, func(error) {}}, Peer: peerOf, Advertise: n.addr,
			Seeds: func() (first []netip.AddrPort) {
				for _, n := range w.nodes[:min(len(w.nodes), 1)] {
					first = append(first, n.addr)
				}
				return first
			},
			CheckManifest: func(*perigee.Manifest) error { return nil }, GossipKey: bytes.Repeat([]byte{7}, 32), Row: perigee.Row{Version: "test"}, Logger: logger,
		})
		must()
		control.Handle("/gossip/", n.Handler())
		w.nodes, links = append(w.nodes, n), append(links, link)
	}
	err = w.net.Start()
	must()
	for i, n := range w.nodes {
		wg.Go(func() { _ = links[i].Run(ctx) })
		wg.Go(func() { _ = n.Run(ctx) })
	}
	return w, func() {
		cancel()
		wg.Wait()
		_ = w.net.Close()
		time.Sleep(time.Minute) // membership's probes under way, and QUIC's last timers
	}
}

// within waits until ok holds for a time.
func (w *simWorld) within(limit time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			w.t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

func (w *simWorld) whole() bool {
	for _, n := range w.nodes {
		for _, m := range w.nodes {
			if p := n.View().Observed.Nodes[m.id]; p == nil || p.State != perigee.NodeAlive {
				return false
			}
		}
	}
	return true
}

func (w *simWorld) equal(nodes ...*simNode) bool {
	for _, n := range nodes {
		if n.View().Desired.Digest != nodes[0].View().Desired.Digest {
			return false
		}
	}
	return true
}

// deploy submits a revision of a function and its pointer to a node.
func (w *simWorld) deploy(n *simNode, function string) {
	w.t.Helper()
	sign := func(p record.Payload, parents []perigee.Digest) []byte {
		w.hlc = max(w.hlc, n.Now()).Next(time.Now())
		_, b, err := record.Sign(w.operator, w.cluster, 1, w.hlc, parents, p)
		if err != nil {
			w.t.Fatal(err)
		}
		return b
	}
	rev := sign(&record.Revision{Manifest: perigee.Manifest{Name: function, Wasm: "a.wasm"}, Bundle: perigee.Digest{1}, Size: 5}, nil)
	if _, err := n.Submit(w.t.Context(), rev, sign(&record.Pointer{Function: function, Revision: record.ID(rev)}, n.Heads(function))); err != nil {
		w.t.Fatal(err)
	}
}

// TestSimnetPartition cuts a cluster of real meshes in two, deploys on both sides, and heals it.
func TestSimnetPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, stop := newSimWorld(t, 6)
		defer stop()
		t.Logf("all see all after %s", w.within(time.Minute, "all see all", w.whole))
		w.deploy(w.nodes[1], "both")
		t.Logf("a deploy is everywhere after %s", w.within(5*time.Second, "a deploy is everywhere", func() bool { return w.equal(w.nodes...) }))

		left := func(a net.Addr) bool { return a.(*net.UDPAddr).IP.To4()[3]%2 == 1 }
		cut := func(from, to net.Addr) bool { return left(from) != left(to) }
		w.blocked.Store(&cut)
		sides := [2][]*simNode{{w.nodes[0], w.nodes[2], w.nodes[4]}, {w.nodes[1], w.nodes[3], w.nodes[5]}}
		time.Sleep(10 * time.Second)
		for i, side := range sides {
			w.deploy(side[0], "both")
			w.deploy(side[1], fmt.Sprintf("side%d", i))
			w.within(20*time.Second, "the side agrees", func() bool { return w.equal(side...) })
		}
		if w.equal(w.nodes...) {
			t.Fatal("the sides are not apart")
		}
		time.Sleep(time.Minute)
		w.blocked.Store(nil)
		t.Logf("all hold the same %s after the heal", w.within(30*time.Second, "all hold the same", func() bool { return w.equal(w.nodes...) }))
		w.within(time.Minute, "all see all again", w.whole)
		for _, n := range w.nodes {
			d := n.View().Desired
			if len(d.Functions) != 3 || len(d.Functions["both"].Conflicts) != 1 || d.Functions["both"].Head != w.nodes[0].View().Desired.Functions["both"].Head {
				t.Errorf("%s has %d functions, %+v", n.id, len(d.Functions), d.Functions["both"])
			}
		}
	})
}

// TestIdleBytes counts the IP bytes of nodes that do nothing: membership, comparisons, rows,
// keep-alives, acknowledgements. A packet counts for its sender and for its receiver.
func TestIdleBytes(t *testing.T) {
	if os.Getenv("PERIGEE_FIGURES") == "" {
		t.Skip("a figure of make bench-cluster: PERIGEE_FIGURES is not set")
	}
	const size, span = 100, 5 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		w, stop := newSimWorld(t, size)
		defer stop()
		t.Logf("all see all after %s", w.within(2*time.Minute, "all see all", w.whole))
		time.Sleep(6 * time.Minute) // connections that nobody needs any more are closed
		before := w.carried.Load()
		time.Sleep(span)
		kbps := float64(2*8*(w.carried.Load()-before)) / size / span.Seconds() / 1000
		fmt.Printf("FIGURE idle_node_kbps %.1f\n", kbps)
	})
}
