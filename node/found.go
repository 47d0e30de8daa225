package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// FoundConfig says what the first node of a new cluster is.
type FoundConfig struct {
	Dir    Dir
	ID     perigee.NodeID // "" = <region>-1
	Region perigee.Region
	Zone   string
	Labels map[string]string
	Domain string // functions answer at <name>.<Domain>; "" = "perigee.internal"
}

// Founded is what the operator must keep.
type Founded struct {
	Cluster  perigee.ClusterID
	Node     perigee.NodeID
	Genesis  []byte
	Operator ed25519.PrivateKey
	Root     []byte // PEM of the root CA: certificate and key; needed again only to make an intermediate
}

// DefaultDomain is the domain of a cluster that has none of its own: a name that public DNS never has.
const DefaultDomain = "perigee.internal"

// Found makes a new cluster with one node, this directory's, and starts nothing.
func Found(cfg FoundConfig) (*Founded, error) { return found(cfg, time.Now()) }

func found(cfg FoundConfig, now time.Time) (*Founded, error) {
	if cfg.ID == "" {
		cfg.ID = perigee.NodeID(cfg.Region) + "-1"
	}
	if cfg.Domain == "" {
		cfg.Domain = DefaultDomain
	}
	if err := perigee.CheckHost(cfg.Domain); err != nil {
		return nil, fmt.Errorf("cluster domain: %w", err)
	}
	if err := perigee.CheckLabel(string(cfg.ID)); err != nil {
		return nil, fmt.Errorf("node id: %w", err)
	}
	if err := checkRegion(cfg.Region, perigee.BuiltinRegions()); err != nil {
		return nil, err
	}
	c, err := newCluster(cfg, now)
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	rootPEM, err := c.root.Marshal()
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	if err := os.MkdirAll(string(cfg.Dir), 0o700); err != nil {
		return nil, err
	}
	unlock, err := lock(cfg.Dir.path(fileLock))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := cfg.Dir.found(c.first); err != nil {
		return nil, err
	}
	return &Founded{Cluster: c.id, Node: cfg.ID, Genesis: c.first.genesisRecord, Operator: c.operator, Root: rootPEM}, nil
}

// newborn is a cluster before anything of it is on a disk.
type newborn struct {
	id       perigee.ClusterID
	operator ed25519.PrivateKey
	root     *identity.Authority
	first    *membership // of the first node
}

func newCluster(cfg FoundConfig, now time.Time) (c newborn, err error) {
	c.id = identity.NewClusterID()
	if c.operator, err = identity.NewKey(); err != nil {
		return c, err
	}
	if c.root, err = identity.NewRoot(c.id, now); err != nil {
		return c, err
	}
	c.first = &membership{gossipKey: make([]byte, gossipKeySize)}
	rand.Read(c.first.gossipKey)
	if c.first.web, err = identity.NewWebRoot(c.id, now); err != nil {
		return c, err
	}
	if c.first.signer, err = c.root.NewIntermediate(now); err != nil {
		return c, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return c, err
	}
	claims := perigee.NodeClaims{ID: cfg.ID, Region: cfg.Region, Zone: cfg.Zone, Labels: cfg.Labels, Roles: []perigee.Role{perigee.RoleSigner, perigee.RoleIssuer}}
	chain, err := c.first.signer.IssueNode(c.id, claims, key.Public().(ed25519.PublicKey), now)
	if err != nil {
		return c, err
	}
	if c.first.identity, err = identity.NewNode(c.id, c.root.Cert(), key, chain); err != nil {
		return c, err
	}
	_, c.first.genesisRecord, err = record.Sign(c.operator, c.id, 1, record.HLCAt(now), nil, &record.Genesis{
		Cluster: c.id, Domain: cfg.Domain, Operator: c.operator.Public().(ed25519.PublicKey),
		Root: c.root.Cert().Raw, WebRoot: c.first.web.Cert().Raw,
	})
	return c, err
}

func checkRegion(r perigee.Region, regions *perigee.Regions) error {
	if err := perigee.CheckLabel(string(r)); err != nil {
		return fmt.Errorf("region: %w", err)
	}
	if _, ok := regions.Lookup(r); !ok {
		return fmt.Errorf("region %q is not in the catalogue: use one that `perigee region ls` lists, or add it with `perigee region add %s --at LAT,LON`", r, r)
	}
	return nil
}
