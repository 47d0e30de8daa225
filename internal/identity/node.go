package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
)

// Node is this machine's identity: its key, its certificate chain and the root it trusts. It is
// safe for concurrent use; the chain can be replaced on renewal, and new connections then use the
// new one. Printing or logging one does not show the key.
type Node struct {
	cluster perigee.ClusterID
	root    *x509.Certificate
	key     ed25519.PrivateKey
	current atomic.Pointer[credential]
}

// credential is one certificate of the node, immutable.
type credential struct {
	claims   perigee.NodeClaims
	leaf     *x509.Certificate
	chain    [][]byte
	plain    *tls.Certificate // what peers get, who know the root
	withRoot *tls.Certificate // what joiners get, who do not
}

// NewNode checks that the parts fit: the root is that of the cluster, the chain leads to it, and
// the key is the leaf's. The age of the leaf is not checked, so that a node which was off for long
// can start and renew; see Expires.
func NewNode(cluster perigee.ClusterID, root *x509.Certificate, key ed25519.PrivateKey, chain [][]byte) (*Node, error) {
	if err := checkRoot(root, cluster); err != nil {
		return nil, fmt.Errorf("set up node identity: %w", err)
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("set up node identity: key of %d bytes: want an Ed25519 key of %d", len(key), ed25519.PrivateKeySize)
	}
	n := &Node{cluster: cluster, root: root, key: slices.Clone(key)}
	c, err := n.credential(chain)
	if err != nil {
		return nil, fmt.Errorf("set up node identity: %w", err)
	}
	n.current.Store(c)
	return n, nil
}

func (n *Node) credential(chain [][]byte) (*credential, error) {
	claims, leaf, err := VerifyNode(n.root, n.cluster, chain, time.Time{})
	if err != nil {
		return nil, err
	}
	if !n.key.Public().(ed25519.PublicKey).Equal(leaf.PublicKey) {
		return nil, fmt.Errorf("the certificate of node %s is for another key than this machine's", claims.ID)
	}
	own := make([][]byte, len(chain))
	for i, der := range chain {
		own[i] = slices.Clone(der)
	}
	return &credential{
		claims: claims, leaf: leaf, chain: own,
		plain:    &tls.Certificate{Certificate: own, PrivateKey: n.key, Leaf: leaf},
		withRoot: &tls.Certificate{Certificate: append(slices.Clone(own), n.root.Raw), PrivateKey: n.key, Leaf: leaf},
	}, nil
}

// SetChain replaces the certificate by a renewed one: for the same key and the same node name.
// Region, zone, labels and roles may differ.
func (n *Node) SetChain(chain [][]byte) error {
	c, err := n.credential(chain)
	if err != nil {
		return fmt.Errorf("replace node certificate: %w", err)
	}
	if old := n.Claims().ID; c.claims.ID != old {
		return fmt.Errorf("replace node certificate: it names node %s, this is %s", c.claims.ID, old)
	}
	n.current.Store(c)
	return nil
}

// Cluster returns the cluster that the node belongs to.
func (n *Node) Cluster() perigee.ClusterID { return n.cluster }

// Root returns the root certificate of the cluster's mesh.
func (n *Node) Root() *x509.Certificate { return n.root }

// Key returns the node's private key. It must not be changed.
func (n *Node) Key() ed25519.PrivateKey { return n.key }

// Chain returns the certificate chain, leaf first, without the root. It must not be changed.
func (n *Node) Chain() [][]byte { return n.current.Load().chain }

// Claims returns what the certificate says about the node. Its map and slice must not be changed.
func (n *Node) Claims() perigee.NodeClaims { return n.current.Load().claims }

// Expires returns the end of the certificate's life, which may be in the past.
func (n *Node) Expires() time.Time { return n.current.Load().leaf.NotAfter }

// String names the node. It does not show the key.
func (n *Node) String() string { return fmt.Sprintf("node %s of cluster %s", n.Claims().ID, n.cluster) }

// Format writes String for every verb, so that no verb shows the key.
func (n *Node) Format(f fmt.State, _ rune) { fmt.Fprint(f, n.String()) }

// LogValue returns String.
func (n *Node) LogValue() slog.Value { return slog.StringValue(n.String()) }
