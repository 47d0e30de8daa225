package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// dialTime is how long one node is given to answer.
const dialTime = 4 * time.Second

// Person acts on a cluster with a key: it signs records, which never leaves the person's side, and
// hands them to a node. It is safe for concurrent use.
type Person struct {
	*Client
	Key     ed25519.PrivateKey
	Cluster perigee.ClusterID
	Epoch   uint32 // that Genesis began; what the person signs is of it
	Genesis perigee.Digest
	Root    *x509.Certificate // of the CA that certifies nodes
}

// NewPerson returns somebody who acts through c; genesis is the cluster's first record.
func NewPerson(c *Client, key ed25519.PrivateKey, genesis []byte) (*Person, error) {
	epochs, err := record.OpenGenesis(genesis)
	if err != nil {
		return nil, err
	}
	now := epochs[len(epochs)-1]
	root, err := x509.ParseCertificate(now.Genesis.Root)
	if err != nil {
		return nil, err
	}
	return &Person{Client: c, Key: key, Cluster: now.Genesis.Cluster, Epoch: now.Number, Genesis: now.ID, Root: root}, nil
}

// Dial connects to one of a cluster's nodes over the mesh port, with a person's key. Each address is
// given a few seconds; the first that answers is used until close is called.
func Dial(ctx context.Context, addrs []string, key ed25519.PrivateKey, genesis []byte) (p *Person, close func(), err error) {
	p, err = NewPerson(nil, key, genesis)
	if err != nil {
		return nil, nil, err
	}
	conf, err := identity.PersonClientTLS(peerlink.ALPNAdmin, key, p.Root, p.Cluster)
	if err != nil {
		return nil, nil, err
	}
	errs := []error{fmt.Errorf("no node of cluster %s answers", p.Cluster)}
	for _, addr := range addrs {
		dctx, cancel := context.WithTimeout(ctx, dialTime)
		c, err := peerlink.Dial(dctx, addr, conf)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		p.Client = NewClient(c, addr)
		return p, func() { c.Close() }, nil
	}
	return nil, nil, errors.Join(errs...)
}

// TokenSpec says what a token makes of its bearer.
type TokenSpec struct {
	Kind   record.TokenKind
	TTL    time.Duration // 0 = one hour
	Region perigee.Region
	Zone   string
	Labels map[string]string
	Roles  []perigee.Role
	Scope  record.Scope
}

const (
	defaultTTL = time.Hour
	maxTTL     = 30 * 24 * time.Hour
)

// CreateToken makes a token, tells the cluster its public half, and returns the whole.
func (p *Person) CreateToken(ctx context.Context, spec TokenSpec) (t identity.Token, err error) {
	if spec.TTL == 0 {
		spec.TTL = defaultTTL
	}
	if spec.TTL < time.Second || spec.TTL > maxTTL {
		return t, fmt.Errorf("create token: life of %v: use between 1s and %v", spec.TTL, maxTTL)
	}
	status, err := p.Status(ctx)
	if err != nil {
		return t, err
	}
	signer, addrs, err := p.signer(ctx, status)
	if err != nil {
		return t, err
	}
	if t, err = identity.NewToken(spec.Kind, p.Genesis, signer, addrs); err != nil {
		return t, err
	}
	_, b, err := record.Sign(p.Key, p.Cluster, p.Epoch, status.Now, nil, &record.Token{
		Kind: spec.Kind, Public: t.Key().Public().(ed25519.PublicKey), Signer: signer, Expires: status.Now.Time().Add(spec.TTL).Unix(),
		Region: spec.Region, Zone: spec.Zone, Labels: spec.Labels, Roles: spec.Roles, Scope: spec.Scope,
	})
	if err != nil {
		return t, err
	}
	_, err = p.Submit(ctx, b)
	return t, err
}

// signer chooses the node that will redeem a token: the one asked if it can, else any that is up.
func (p *Person) signer(ctx context.Context, s Status) (id perigee.NodeID, addrs []string, err error) {
	nodes, err := p.Nodes(ctx)
	if err != nil {
		return "", nil, err
	}
	var first string
	for _, n := range nodes {
		if n.State != perigee.NodeAlive {
			continue
		}
		if n.HasRole(perigee.RoleSigner) && (id == "" || n.ID == s.Node) {
			id, first = n.ID, n.Addr.String()
		}
	}
	if id == "" {
		return "", nil, errors.New("create token: no signer node is up, and only a signer can redeem it: start one (`perigee node ls` shows the roles)")
	}
	addrs = []string{first}
	for _, n := range nodes {
		if a := n.Addr.String(); n.State == perigee.NodeAlive && a != first && len(addrs) < 3 {
			addrs = append(addrs, a)
		}
	}
	return id, addrs, nil
}

// Deployed is the outcome of a deploy.
type Deployed struct {
	Revision perigee.RevisionID `json:"revision"`
	Stored   []perigee.NodeID   `json:"stored,omitempty"` // nodes with the records on disk
	Changed  bool               `json:"changed"`          // false: this very revision was live already
}

// DeployOptions change how a deploy is made.
type DeployOptions struct {
	// If is the revision that must be live now, NoRevision that none is; "" = whatever is.
	If perigee.RevisionID
	// Placement says whose placement counts where one was set apart from the manifest: PlacementKeep for
	// the one that holds now, or PlacementManifest for the manifest's. "" is PlacementKeep where a revision
	// becomes live again, and for a deploy whose manifest says of placement what the live one's does; a
	// deploy with another refuses to choose.
	Placement string
	// Rollout is placement.RolloutAll to skip the stages; "" = one node, a region, all.
	Rollout string
}

// NoRevision is the value of DeployOptions.If that wants a function's name to be free.
const NoRevision perigee.RevisionID = "none"

// The values of DeployOptions.Placement.
const (
	PlacementManifest = "manifest"
	PlacementKeep     = "keep"
)

// Deploy is DeployWith without options.
func (p *Person) Deploy(ctx context.Context, m *perigee.Manifest, bundle perigee.Digest, size perigee.Bytes, archive io.Reader, progress func(DeployEvent)) (Deployed, error) {
	return p.DeployWith(ctx, DeployOptions{}, m, bundle, size, archive, progress)
}

// DeployWith makes a manifest and its bundle the live revision of the function it names. Nothing is
// sent when they are live already.
func (p *Person) DeployWith(ctx context.Context, opt DeployOptions, m *perigee.Manifest, bundle perigee.Digest, size perigee.Bytes, archive io.Reader, progress func(DeployEvent)) (Deployed, error) {
	live, old, err := p.Function(ctx, m.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Deployed{}, err
	}
	policy, err := opt.Apart(m, live)
	if err != nil {
		return Deployed{}, fmt.Errorf("deploy %s: nothing was changed: %w", m.Name, err)
	}
	if live != nil && live.Live.Bundle == bundle && len(old.Heads) == 1 && sameJSON(&live.Live.Manifest, m) && sameJSON(live.Placement, policy) {
		return Deployed{Revision: live.Live.ID}, nil
	}
	status, err := p.Status(ctx)
	if err != nil {
		return Deployed{}, err
	}
	rev, revBytes, err := record.Sign(p.Key, p.Cluster, p.Epoch, status.Now, nil, &record.Revision{Manifest: *m, Bundle: bundle, Size: size})
	if err != nil {
		return Deployed{}, err
	}
	_, ptrBytes, err := record.Sign(p.Key, p.Cluster, p.Epoch, rev.HLC+1, old.Heads, &record.Pointer{Function: m.Name, Revision: record.ID(revBytes), Placement: policy, Rollout: opt.Rollout, Past: old.Past})
	if err != nil {
		return Deployed{}, err
	}
	last, err := p.Client.Deploy(ctx, revBytes, ptrBytes, archive, progress)
	return Deployed{Revision: last.Revision, Stored: last.Stored, Changed: true}, err
}

// Apart holds the function against what the person expects of it, and returns the placement that stays
// apart from the manifest that is deployed; nil = the manifest's holds. live is the function as it is; nil
// = there is none. Whoever changes the function between this look and the deploy is found by the node,
// since the new pointer does not name theirs.
func (o DeployOptions) Apart(m *perigee.Manifest, live *FunctionStatus) (*perigee.Policy, error) {
	id := NoRevision
	if live != nil {
		id = live.Live.ID
	}
	if o.If != "" && o.If != id {
		return nil, fmt.Errorf("revision %s is live, not %s: see `perigee show %s`", id, o.If, m.Name)
	}
	if live == nil || live.Placement == nil || o.Placement == PlacementManifest {
		return nil, nil
	}
	apart := keptApart(live.Function, &m.Placement)
	if apart != nil && o.Placement != PlacementKeep && !sameJSON(&live.Live.Manifest.Placement, &m.Placement) {
		return nil, errors.New("its placement was set apart from the manifest, whose own has changed: choose with --placement keep or --placement manifest (`perigee placement show " + m.Name + "` says what holds)")
	}
	return apart, nil
}

// keptApart returns the placement that stays in force when a manifest with the policy next becomes live;
// nil = that of the manifest. A placement that a person set apart stays whole. Else the hard rules of now
// stay, which may have outlived the manifest that they came with.
func keptApart(fn *perigee.Function, next *perigee.Policy) *perigee.Policy {
	kept := next.WithHard(fn.Policy())
	if fn.Placement != nil {
		if outlived := fn.Live.Manifest.Placement.WithHard(fn.Placement); !sameJSON(&outlived, fn.Placement) {
			kept = *fn.Placement
		}
	}
	if sameJSON(&kept, next) {
		return nil
	}
	return &kept
}

// Promote makes a revision that the cluster knows the live one, in the place of all that is live or in
// conflict.
func (p *Person) Promote(ctx context.Context, name string, id perigee.RevisionID, opt DeployOptions) (Deployed, error) {
	fn, old, err := p.Function(ctx, name)
	if err != nil {
		return Deployed{}, err
	}
	at := slices.IndexFunc(fn.Revisions, func(r RevisionStatus) bool { return r.ID == id })
	if at < 0 {
		return Deployed{}, fmt.Errorf("%s has no revision %s: `perigee show %s` lists those it has", name, id, name)
	}
	rev := &fn.Revisions[at]
	ptr := &record.Pointer{Function: name, Revision: rev.Record, Rollout: opt.Rollout, Past: old.Past}
	if opt.Placement != PlacementManifest {
		ptr.Placement = keptApart(fn.Function, &rev.Placement)
	}
	switch {
	case opt.If != "" && opt.If != fn.Live.ID:
		return Deployed{}, fmt.Errorf("nothing was changed: revision %s is live, not %s: see `perigee show %s`", fn.Live.ID, opt.If, name)
	case id == fn.Live.ID && len(old.Heads) == 1 && sameJSON(fn.Placement, ptr.Placement) && fn.Function.Rollout == ptr.Rollout:
		return Deployed{Revision: id}, nil
	case len(rev.Nodes) == 0:
		return Deployed{}, fmt.Errorf("no node that is up has the bundle of revision %s any more: deploy it again from its sources", id)
	}
	ack, err := p.write(ctx, old.Heads, ptr)
	return Deployed{Revision: id, Stored: ack.Stored, Changed: true}, err
}

// Rollback promotes the revision that served before the live one.
func (p *Person) Rollback(ctx context.Context, name string, opt DeployOptions) (Deployed, error) {
	fn, _, err := p.Function(ctx, name)
	if err != nil {
		return Deployed{}, err
	}
	for _, r := range fn.Kept {
		if !slices.ContainsFunc(fn.Conflicts, func(c perigee.Conflict) bool { return c.Revision == r.ID }) {
			return p.Promote(ctx, name, r.ID, opt)
		}
	}
	return Deployed{}, fmt.Errorf("revision %s is the first of %s that served: there is nothing to go back to", fn.Live.ID, name)
}

// sameJSON compares what two values say; absent and empty are the same.
func sameJSON(a, b any) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// Remove removes a function; its bundles are let go of everywhere.
func (p *Person) Remove(ctx context.Context, name string) (Ack, error) {
	_, old, err := p.Function(ctx, name)
	if err != nil {
		return Ack{}, err
	}
	return p.write(ctx, old.Heads, &record.Pointer{Function: name, Past: old.Past})
}

// Revoke ends a node's membership or a key's rights, for ever.
func (p *Person) Revoke(ctx context.Context, r record.Revoke) (Ack, error) {
	return p.write(ctx, nil, &r)
}

// Purge has all gateways drop what they have stored that matches.
func (p *Person) Purge(ctx context.Context, m perigee.PurgeMatch) (Ack, error) {
	return p.write(ctx, nil, &record.Purge{PurgeMatch: m})
}

// AddRegion adds a region to the catalogue, or replaces one.
func (p *Person) AddRegion(ctx context.Context, info perigee.RegionInfo) (Ack, error) {
	return p.write(ctx, nil, &record.Region{Info: info})
}

func (p *Person) write(ctx context.Context, parents []perigee.Digest, payload record.Payload) (Ack, error) {
	s, err := p.Status(ctx)
	if err != nil {
		return Ack{}, err
	}
	_, b, err := record.Sign(p.Key, p.Cluster, p.Epoch, s.Now, parents, payload)
	if err != nil {
		return Ack{}, err
	}
	return p.Submit(ctx, b)
}
