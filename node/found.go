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
	Epoch    uint32 // of the cluster: 1, and one more after each restore
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
	if cfg.Domain == "" {
		cfg.Domain = DefaultDomain
	}
	if err := perigee.CheckHost(cfg.Domain); err != nil {
		return nil, fmt.Errorf("cluster domain: %w", err)
	}
	operator, err := identity.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	c := newborn{id: identity.NewClusterID(), epoch: 1, operator: operator}
	return cfg.bear(&c, perigee.BuiltinRegions(), now, func(*newborn) error { return nil })
}

// bear makes a cluster of what c says, or a new epoch of it, and writes its first node's directory. fill puts
// into the directory, before it counts as a member's, what the node is to start with.
func (cfg FoundConfig) bear(c *newborn, regions *perigee.Regions, now time.Time, fill func(*newborn) error) (*Founded, error) {
	if cfg.ID == "" {
		cfg.ID = perigee.NodeID(cfg.Region) + "-1"
	}
	if err := perigee.CheckLabel(string(cfg.ID)); err != nil {
		return nil, fmt.Errorf("node id: %w", err)
	}
	if err := checkRegion(cfg.Region, regions); err != nil {
		return nil, err
	}
	if err := c.make(cfg, now); err != nil {
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
	if cfg.Dir.Member() {
		return nil, cfg.Dir.errMember()
	}
	if err := fill(c); err != nil {
		return nil, err
	}
	if err := cfg.Dir.found(c.first); err != nil {
		return nil, err
	}
	return &Founded{Cluster: c.id, Epoch: c.epoch, Node: cfg.ID, Genesis: c.first.genesisRecord, Operator: c.operator, Root: rootPEM}, nil
}

// newborn is a cluster, or a new epoch of one, before anything of it is on a disk.
type newborn struct {
	id       perigee.ClusterID
	epoch    uint32
	before   []byte     // the genesis record of the epoch before; nil = there was none
	until    record.HLC // and its last stamp
	operator ed25519.PrivateKey
	root     *identity.Authority
	first    *membership // of the first node
}

// make makes the CAs, the first node's keys and the genesis record.
func (c *newborn) make(cfg FoundConfig, now time.Time) (err error) {
	if c.root, err = identity.NewRoot(c.id, now); err != nil {
		return err
	}
	c.first = &membership{gossipKey: make([]byte, gossipKeySize)}
	rand.Read(c.first.gossipKey)
	if c.first.web, err = identity.NewWebRoot(c.id, now); err != nil {
		return err
	}
	if c.first.signer, err = c.root.NewIntermediate(now); err != nil {
		return err
	}
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	claims := perigee.NodeClaims{ID: cfg.ID, Region: cfg.Region, Zone: cfg.Zone, Labels: cfg.Labels, Roles: []perigee.Role{perigee.RoleSigner, perigee.RoleIssuer}}
	chain, err := c.first.signer.IssueNode(c.id, claims, key.Public().(ed25519.PublicKey), now)
	if err != nil {
		return err
	}
	if c.first.identity, err = identity.NewNode(c.id, c.root.Cert(), key, chain); err != nil {
		return err
	}
	_, c.first.genesisRecord, err = record.Sign(c.operator, c.id, c.epoch, c.until.Next(now), nil, &record.Genesis{
		Cluster: c.id, Domain: cfg.Domain, Operator: c.operator.Public().(ed25519.PublicKey),
		Root: c.root.Cert().Raw, WebRoot: c.first.web.Cert().Raw, Before: c.before, Until: c.until,
	})
	return err
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
