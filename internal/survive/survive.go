// Package survive tries what a node's disk promises: that what was acknowledged is there after a power cut,
// a kill or a full disk, and that a bit that flipped is neither served nor fatal. Its tests run some hundreds
// of trials, `make bench-cluster` runs the campaigns of docs/bench.md. It is for tests only.
package survive

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// World is a cluster of one node that talks to nobody, and the key of its operator.
type World struct {
	began    time.Time
	cluster  perigee.ClusterID
	operator ed25519.PrivateKey
	genesis  []byte
	self     *identity.Node
	logger   *slog.Logger
}

// NewWorld makes one. What its node warns of goes to log.
func NewWorld(log io.Writer) (*World, error) {
	now := time.Now()
	w := &World{began: now, cluster: identity.NewClusterID(), logger: slog.New(slog.NewTextHandler(log, nil))}
	var err error
	if w.operator, err = identity.NewKey(); err != nil {
		return nil, err
	}
	root, err := identity.NewRoot(w.cluster, now)
	if err != nil {
		return nil, err
	}
	web, err := identity.NewWebRoot(w.cluster, now)
	if err != nil {
		return nil, err
	}
	signer, err := root.NewIntermediate(now)
	if err != nil {
		return nil, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	claims := perigee.NodeClaims{ID: "fra-1", Region: "fra", Roles: []perigee.Role{perigee.RoleSigner}}
	chain, err := signer.IssueNode(w.cluster, claims, key.Public().(ed25519.PublicKey), now)
	if err != nil {
		return nil, err
	}
	if w.self, err = identity.NewNode(w.cluster, root.Cert(), key, chain); err != nil {
		return nil, err
	}
	_, w.genesis, err = record.Sign(w.operator, w.cluster, 1, record.HLCAt(now), nil, &record.Genesis{
		Cluster: w.cluster, Domain: "perigee.internal", Operator: w.operator.Public().(ed25519.PublicKey),
		Root: root.Cert().Raw, WebRoot: web.Cert().Raw,
	})
	return w, err
}

const (
	stateDir  = "/node/state"
	bundleDir = "/node/bundles"
)

// open starts the parts of the node that have a disk.
func (w *World) open(disk vfs.FS) (*gossip.Gossip, *bundle.Store, error) {
	g, err := gossip.New(gossip.Config{
		Identity: w.self, Genesis: w.genesis, Dir: stateDir, FS: disk, Mesh: nobody{}, Logger: w.logger,
		Peer:          func(*http.Request) (perigee.NodeClaims, bool) { return perigee.NodeClaims{}, false },
		CheckManifest: func(m *perigee.Manifest) error { return bundle.CheckManifest(m, nil) },
		Advertise:     netip.MustParseAddrPort("127.0.0.1:7443"), GossipKey: make([]byte, 32),
	})
	if err != nil {
		return nil, nil, err
	}
	s, err := bundle.OpenStore(disk, bundleDir)
	return g, s, err
}

// nobody is a mesh without peers.
type nobody struct{}

var errNobody = errors.New("there is nobody else")

func (nobody) Call(context.Context, perigee.NodeID, string, []byte) ([]byte, error) {
	return nil, errNobody
}
func (nobody) CallAddr(context.Context, netip.AddrPort, string, []byte) ([]byte, error) {
	return nil, errNobody
}
func (nobody) WritePacket([]byte, netip.AddrPort) error                     { return errNobody }
func (nobody) DialStream(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errNobody }
func (nobody) ReadPacket(context.Context, []byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, errNobody
}
func (nobody) AcceptStream(context.Context) (net.Conn, error) { return nil, errNobody }
