package gossip

import (
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// Bounds on what the payload of a record may say, beyond the size of the record itself.
const (
	maxListed = 64  // roles, labels, scope patterns, groups, certificates of a chain
	maxText   = 256 // bytes of a name, a pattern, a label

	rolloutAll = "all"
)

// parser turns encoded records into entries. All of its checks are about one record alone, so that
// they mean the same on every node and at any time. It is safe for concurrent use.
type parser struct {
	cluster perigee.ClusterID
	epochs  []epoch                       // the present one last
	check   func(*perigee.Manifest) error // the manifest's own rules
}

// epoch is the time between two restores of the cluster.
type epoch struct {
	record.Epoch
	root *x509.Certificate // of the nodes that lived in it
}

// newParser returns the parser of the cluster that a genesis record describes.
func newParser(genesis []byte, check func(*perigee.Manifest) error) (*parser, error) {
	epochs, err := record.OpenGenesis(genesis)
	if err != nil {
		return nil, err
	}
	p := &parser{cluster: epochs[0].Genesis.Cluster, check: check}
	for _, e := range epochs {
		if d := e.Genesis.Domain; d != "" {
			if err := perigee.CheckHost(d); err != nil {
				return nil, fmt.Errorf("genesis record: domain: %w", err)
			}
		}
		root, err := x509.ParseCertificate(e.Genesis.Root)
		if err != nil {
			return nil, fmt.Errorf("genesis record: root certificate: %w", err)
		}
		p.epochs = append(p.epochs, epoch{e, root})
	}
	return p, nil
}

// present returns the epoch in which the cluster lives.
func (p *parser) present() epoch { return p.epochs[len(p.epochs)-1] }

// geneses returns the records that began the epochs.
func (p *parser) geneses() (entries []*entry, err error) {
	for _, ep := range p.epochs {
		e, err := p.parse(ep.Raw)
		if err != nil {
			return nil, fmt.Errorf("genesis record: %w", err)
		}
		e.author = ep.Genesis.Operator // OpenGenesis verified it
		entries = append(entries, e)
	}
	return entries, nil
}

// parse checks the form of one record; signatures of people are checked by authority. A record
// that makes a checker panic is refused like any other bad one: it must not end every node it reaches.
func (p *parser) parse(raw []byte) (e *entry, err error) {
	id := record.ID(raw)
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, refuse(RuleShape, "reading the record broke the reader: %v", r).of(id)
		}
	}()
	rec, err := record.Decode(raw)
	if err != nil {
		return nil, refuse(RuleShape, "not a record of this release").because(err).of(id)
	}
	e = &entry{id: id, raw: raw, rec: rec}
	if err := p.fill(e); err != nil {
		return nil, err.of(id)
	}
	return e, nil
}

func (p *parser) fill(e *entry) *RefusedError {
	rec := e.rec
	if rec.Cluster != p.cluster {
		return refuse(RuleShape, "the record belongs to cluster %.40q, this is %s", rec.Cluster, p.cluster)
	}
	if err := p.checkEpoch(rec); err != nil {
		return err
	}
	body, err := rec.Open()
	if err != nil {
		return refuse(RuleShape, "the record's payload can't be read").because(err)
	}
	e.body = body
	if rec.Kind != record.KindPointer && len(rec.Parents) > 0 {
		return refuse(RuleShape, "a %s record has %d parents; only pointers have parents", rec.Kind, len(rec.Parents))
	}
	switch b := body.(type) {
	case *record.Genesis:
		if e.id != p.epochs[rec.Epoch-1].ID {
			return refuse(RuleRight, "a cluster has one genesis record, this is another")
		}
	case *record.Token:
		err = shapeToken(b)
	case *record.Redeem:
		err = p.fillRedeem(e, b)
	case *record.Revoke:
		err = shapeRevoke(b)
	case *record.Region:
		err = shapeRegion(b)
	case *record.Revision:
		err = p.fillRevision(e, b)
	case *record.Pointer:
		err = p.fillPointer(e, b)
	case *record.Web:
		err = p.fillWeb(e, b)
	case *record.Secret:
		err = shapeSecret(b)
	case *record.Purge:
		err = shapePurge(b)
	}
	if err != nil {
		return refuse(RuleShape, "the %s record says something impossible", rec.Kind).because(err)
	}
	return nil
}

// checkEpoch: after a restore, what an earlier epoch wrote counts as far as the backup goes, but for what was
// sealed to its nodes, which nobody can open any more.
func (p *parser) checkEpoch(rec *record.Record) *RefusedError {
	if rec.Epoch < 1 || int(rec.Epoch) > len(p.epochs) {
		return refuse(RuleShape, "the record is of epoch %d, the cluster is in epoch %d", rec.Epoch, len(p.epochs))
	}
	if end := p.epochs[rec.Epoch-1].End; rec.HLC > end {
		return refuse(RuleEpoch, "the record is of epoch %d and stamped %s, later than the backup of %s from which the cluster was restored",
			rec.Epoch, timeText(rec.HLC.Time()), timeText(end.Time()))
	}
	if sealed := rec.Kind == record.KindSecret || rec.Kind == record.KindWeb; sealed && int(rec.Epoch) < len(p.epochs) {
		return refuse(RuleEpoch, "the record is sealed to nodes of epoch %d, and the cluster was restored since, without them", rec.Epoch)
	}
	return nil
}

func shapeToken(t *record.Token) error {
	switch t.Kind {
	case record.TokenNode:
		if err := perigee.CheckLabel(string(t.Region)); err != nil {
			return fmt.Errorf("region of the new node: %w", err)
		}
	case record.TokenDeploy, record.TokenOperator:
	default:
		return fmt.Errorf("token kind %.40q: want node, deploy or operator", t.Kind)
	}
	if len(t.Public) != ed25519.PublicKeySize {
		return fmt.Errorf("token key of %d bytes, want %d", len(t.Public), ed25519.PublicKeySize)
	}
	if t.Expires <= 0 {
		return fmt.Errorf("expires at second %d of the Unix clock, which is long over", t.Expires)
	}
	if err := perigee.CheckLabel(string(t.Signer)); err != nil {
		return fmt.Errorf("signer: %w", err)
	}
	if n := max(len(t.Labels), len(t.Roles), len(t.Scope.Functions), len(t.Scope.Hosts), len(t.Scope.Placements)); n > maxListed {
		return fmt.Errorf("a list of %d entries, the limit is %d", n, maxListed)
	}
	for _, pattern := range slices.Concat(t.Scope.Functions, t.Scope.Hosts, t.Scope.Placements) {
		if _, err := path.Match(pattern, ""); err != nil || len(pattern) > maxText {
			return fmt.Errorf("scope pattern %.80q is malformed", pattern)
		}
	}
	return nil
}

func (p *parser) fillRedeem(e *entry, r *record.Redeem) error {
	if len(r.Public) != ed25519.PublicKeySize || len(r.Proof) != ed25519.SignatureSize || len(r.Chain) > maxListed {
		return fmt.Errorf("key of %d, proof of %d bytes, chain of %d certificates", len(r.Public), len(r.Proof), len(r.Chain))
	}
	if r.Node != "" {
		if err := perigee.CheckLabel(string(r.Node)); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	return p.fillSigner(e, r.Chain)
}

// fillSigner finds out which node signed, as its certificate proves.
func (p *parser) fillSigner(e *entry, chain [][]byte) error {
	claims, leaf, err := identity.VerifyNode(p.epochs[e.rec.Epoch-1].root, p.cluster, chain, e.rec.HLC.Time())
	if err != nil {
		return fmt.Errorf("certificate of the signer: %w", err)
	}
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return fmt.Errorf("certificate of the signer has a %T, want an Ed25519 key", leaf.PublicKey)
	}
	e.signer, e.signerKey = claims, key
	return nil
}

func (p *parser) fillWeb(e *entry, w *record.Web) error {
	host := w.Name
	switch w.Item {
	case perigee.WebCertificate, perigee.WebOrders:
		if err := perigee.CheckHost(strings.TrimPrefix(host, "*.")); err != nil {
			return err
		}
	case perigee.WebAccount:
		if len(w.Name) > maxText {
			return fmt.Errorf("a CA with a name of %d bytes", len(w.Name))
		}
	case perigee.WebTickets:
		if host != perigee.AllHosts {
			if err := perigee.CheckHost(host); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("item %.40q: want certificate, orders, account or tickets", w.Item)
	}
	if w.Expires < 0 || len(w.Chain) > maxListed {
		return fmt.Errorf("expires at second %d, chain of %d certificates", w.Expires, len(w.Chain))
	}
	if _, err := identity.ParseEnvelope(w.Sealed); err != nil {
		return err
	}
	return p.fillSigner(e, w.Chain)
}

func shapeRevoke(r *record.Revoke) error {
	if (r.Node == "") == (r.Key == "") {
		return fmt.Errorf("node %.80q and key %.80q: want one of them", r.Node, r.Key)
	}
	if len(r.Key) > maxText {
		return fmt.Errorf("key name of %d bytes", len(r.Key))
	}
	if r.Node != "" {
		return perigee.CheckLabel(string(r.Node))
	}
	return nil
}

func shapeRegion(r *record.Region) error {
	info := r.Info
	if err := perigee.CheckLabel(string(info.Code)); err != nil {
		return err
	}
	for _, g := range info.Groups {
		if err := perigee.CheckLabel(g); err != nil {
			return fmt.Errorf("group: %w", err)
		}
	}
	if len(info.Groups) > maxListed || len(info.City) > maxText || len(info.Country) > maxText {
		return fmt.Errorf("region %s: a list or a text is too long", info.Code)
	}
	// A comparison with NaN is false, so that NaN is refused too.
	if !(math.Abs(info.Point.Lat) <= 90 && math.Abs(info.Point.Lon) <= 180) {
		return fmt.Errorf("region %s is at latitude %v, longitude %v, which is nowhere on earth", info.Code, info.Point.Lat, info.Point.Lon)
	}
	return nil
}

func (p *parser) fillRevision(e *entry, r *record.Revision) error {
	if err := perigee.CheckLabel(r.Manifest.Name); err != nil {
		return err
	}
	if r.Size < 0 || r.Bundle.IsZero() {
		return fmt.Errorf("bundle %s of %d bytes", r.Bundle, r.Size)
	}
	e.broken = p.check(&r.Manifest)
	e.revision = &perigee.Revision{
		ID: record.RevisionID(e.id), Manifest: r.Manifest, Bundle: r.Bundle, Size: r.Size,
		Author: e.rec.Key, Created: e.rec.HLC.Time().UTC(),
	}
	return nil
}

// fillPointer holds a placement against the rules of manifests, by one that says nothing else.
func (p *parser) fillPointer(e *entry, ptr *record.Pointer) error {
	if err := perigee.CheckLabel(ptr.Function); err != nil {
		return err
	}
	if ptr.Rollout != "" && ptr.Rollout != rolloutAll {
		return fmt.Errorf("rollout %.40q: want %q or none", ptr.Rollout, rolloutAll)
	}
	if len(ptr.Past) > record.MaxPast {
		return fmt.Errorf("%d names of earlier pointers: want %d at most", len(ptr.Past), record.MaxPast)
	}
	if ptr.Placement == nil {
		return nil
	}
	if ptr.Revision.IsZero() {
		return fmt.Errorf("a removal with a placement")
	}
	e.broken = p.check(&perigee.Manifest{
		Name: ptr.Function, Wasm: "unused.wasm", Placement: *ptr.Placement,
		Limits: perigee.Limits{Memory: perigee.DefaultMemory, Timeout: perigee.DefaultTimeout},
	})
	return nil
}

func shapePurge(p *record.Purge) error {
	if p.Function != "" {
		if err := perigee.CheckLabel(p.Function); err != nil {
			return err
		}
	}
	if p.Host != "" {
		if err := perigee.CheckHost(p.Host); err != nil {
			return err
		}
	}
	if len(p.Tag) > maxText {
		return fmt.Errorf("a tag of %d bytes: the limit is %d", len(p.Tag), maxText)
	}
	return nil
}

func shapeSecret(s *record.Secret) error {
	if err := perigee.CheckLabel(s.Function); err != nil {
		return err
	}
	if err := perigee.CheckEnvName(s.Name); err != nil {
		return err
	}
	if len(s.Sealed) == 0 {
		return nil
	}
	_, err := identity.ParseEnvelope(s.Sealed)
	return err
}
