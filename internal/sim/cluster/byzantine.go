package cluster

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// Attack is what a node with a valid certificate sends to another, which must not fall for it.
type Attack struct {
	Name    string
	Records [][]byte
	Rows    [][]byte
	// Kept says that the records are well-formed ones of a key that exists, without the right to what
	// they say: they may be held, but must change nothing. All others must not be held at all.
	Kept bool
}

// stage has what attacks need: a cluster with keys of all sorts, and a victim.
type stage struct {
	now      time.Time
	cluster  perigee.ClusterID
	root, ca *identity.Authority
	genesis  []byte
	hlc      record.HLC
	good     [][]byte // the victim's records
	goodRows [][]byte
	err      error
}

// key returns the key of this name, the same each time.
func (s *stage) key(name string) ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func (s *stage) pub(name string) ed25519.PublicKey { return s.key(name).Public().(ed25519.PublicKey) }

func (s *stage) must(err error) { s.err = errors.Join(s.err, err) }

// sign makes a record that is one tick later than the one before.
func (s *stage) sign(who string, p record.Payload, parents ...perigee.Digest) []byte {
	s.hlc = s.hlc.Next(s.now)
	return s.signAt(who, s.hlc, p, parents...)
}

func (s *stage) signAt(who string, at record.HLC, p record.Payload, parents ...perigee.Digest) []byte {
	_, b, err := record.Sign(s.key(who), s.cluster, 1, at, parents, p)
	s.must(err)
	return b
}

// altered decodes a record, changes it, and encodes it with the old signature.
func (s *stage) altered(raw []byte, change func(*record.Record)) []byte {
	r, err := record.Decode(raw)
	s.must(err)
	change(r)
	b, err := record.Marshal(r)
	s.must(err)
	return b
}

func (s *stage) chain(c perigee.NodeClaims, key string, at time.Time) [][]byte {
	chain, err := s.ca.IssueNode(s.cluster, c, s.pub(key), at)
	s.must(err)
	return chain
}

func (s *stage) row(id perigee.NodeID, key string, change func(*perigee.Row)) []byte {
	return s.rowWith(id, key, s.chain(perigee.NodeClaims{ID: id, Region: "fra"}, key, s.now), change)
}

func (s *stage) rowWith(id perigee.NodeID, key string, chain [][]byte, change func(*perigee.Row)) []byte {
	r := perigee.Row{Node: id, Incarnation: 5, Seq: 2, Addr: netip.MustParseAddrPort("192.0.2.1:7443"), Version: "x"}
	if change != nil {
		change(&r)
	}
	b, err := record.SignRow(s.key(key), chain, r)
	s.must(err)
	return b
}

func (s *stage) token(name string, kind record.TokenKind, signer perigee.NodeID, scope record.Scope) *record.Token {
	t := &record.Token{Kind: kind, Public: s.pub(name), Signer: signer, Expires: s.now.Add(time.Hour).Unix(), Scope: scope}
	if kind == record.TokenNode {
		t.Region = "fra"
	}
	return t
}

func (s *stage) redeem(token, who string, node, signer perigee.NodeID, roles ...perigee.Role) *record.Redeem {
	return &record.Redeem{
		Token: record.KeyIDOf(s.pub(token)), Public: s.pub(who), Node: node,
		Chain: s.chain(perigee.NodeClaims{ID: signer, Region: "fra", Roles: roles}, string(signer), s.now),
		Proof: ed25519.Sign(s.key(token), record.RedeemMessage(s.cluster, s.pub(who), node)),
	}
}

func manifest(name, host string) perigee.Manifest {
	m := perigee.Manifest{Name: name, Wasm: "main.wasm"}
	if host != "" {
		m.Routes = []perigee.Route{{Host: host}}
	}
	return m
}

func revision(m perigee.Manifest) *record.Revision {
	return &record.Revision{Manifest: m, Bundle: perigee.Digest{1}, Size: 5}
}

func newStage(now time.Time) (*stage, error) {
	s := &stage{now: now, cluster: "00112233445566aa", hlc: record.HLCAt(now.Add(-time.Minute))}
	var err error
	if s.root, err = identity.NewRoot(s.cluster, now.AddDate(-1, 0, 0)); err != nil {
		return nil, err
	}
	if s.ca, err = s.root.NewIntermediate(now.AddDate(0, -3, 0)); err != nil {
		return nil, err
	}
	s.genesis = s.signAt("operator", s.hlc, &record.Genesis{
		Cluster: s.cluster, Domain: "fn.example.com", Operator: s.pub("operator"), Root: s.root.Cert().Raw, WebRoot: []byte{1},
	})
	op := func(p record.Payload) { s.good = append(s.good, s.sign("operator", p)) }
	sg := func(p record.Payload) { s.good = append(s.good, s.sign("fra-1", p)) }
	for who, scope := range map[string]record.Scope{"dep": {Functions: []string{"hello*"}, Hosts: []string{"*.ok.com"}}, "gone": {}} {
		op(s.token("token of "+who, record.TokenDeploy, "fra-1", scope))
		sg(s.redeem("token of "+who, who, "", "fra-1", perigee.RoleSigner))
	}
	op(s.token("used", record.TokenNode, "fra-1", record.Scope{}))
	sg(s.redeem("used", "bound-1", "bound-1", "fra-1", perigee.RoleSigner))
	op(s.token("quiet", record.TokenNode, "fra-1", record.Scope{}))
	sg(s.redeem("quiet", "quiet-1", "quiet-1", "fra-1", perigee.RoleSigner))
	op(s.token("unused", record.TokenNode, "fra-1", record.Scope{}))
	old := s.token("old", record.TokenNode, "fra-1", record.Scope{})
	old.Expires = now.Add(-30 * time.Second).Unix()
	op(old)
	op(&record.Revoke{Key: record.KeyIDOf(s.pub("gone"))})
	op(&record.Revoke{Node: "revoked-1"})
	rev := s.sign("dep", revision(manifest("hello", "www.ok.com")))
	s.good = append(s.good, rev, s.sign("dep", &record.Pointer{Function: "hello", Revision: record.ID(rev)}))
	s.goodRows = [][]byte{s.row("syd-1", "syd-1", nil), s.row("bound-1", "bound-1", nil)}
	return s, s.err
}

// attacks lists what a node named evil-1, which the cluster admitted, can try.
func (s *stage) attacks() []Attack {
	var list []Attack
	add := func(name string, records ...[]byte) { list = append(list, Attack{Name: name, Records: records}) }
	kept := func(name string, records ...[]byte) {
		list = append(list, Attack{Name: name, Records: records, Kept: true})
	}
	liveRev := record.ID(s.good[len(s.good)-2])
	payloads := []struct {
		name string
		p    record.Payload
	}{
		{"token", s.token("new", record.TokenOperator, "evil-1", record.Scope{})},
		{"redemption", s.redeem("unused", "evil-2", "evil-2", "evil-1")},
		{"revocation of a node", &record.Revoke{Node: "syd-1"}},
		{"revocation of a key", &record.Revoke{Key: record.KeyIDOf(s.pub("dep"))}},
		{"region", &record.Region{Info: perigee.RegionInfo{Code: "zrh", Groups: []string{"eu"}}}},
		{"revision", revision(manifest("hello", "www.ok.com"))},
		{"pointer", &record.Pointer{Function: "hello", Revision: liveRev}},
		{"removal", &record.Pointer{Function: "hello"}},
		{"web certificate", &record.Web{}},
	}
	for _, p := range payloads {
		add(p.name+" signed by a node's key", s.sign("evil-1", p.p))
		add(p.name+" in the operator's name, signed by a node", s.altered(s.sign("evil-1", p.p), func(r *record.Record) { r.Key = record.KeyIDOf(s.pub("operator")) }))
		add(p.name+" of the operator with another payload", s.altered(s.sign("operator", p.p), func(r *record.Record) {
			r.Payload = slices.Clone(r.Payload)
			r.Payload[len(r.Payload)-1] ^= 1
		}))
		add(p.name+" of the operator stamped anew", s.altered(s.sign("operator", p.p), func(r *record.Record) { r.HLC++ }))
	}
	rec := s.sign("operator", &record.Revoke{Node: "x-1"})
	add("of another epoch", s.altered(rec, func(r *record.Record) { r.Epoch = 2 }))
	add("of another cluster", func() []byte {
		_, b, err := record.Sign(s.key("operator"), "ffffffffffffffff", 1, s.hlc, nil, &record.Revoke{Node: "x-1"})
		s.must(err)
		return b
	}())
	add("another genesis", s.signAt("evil-1", s.hlc, &record.Genesis{Cluster: s.cluster, Operator: s.pub("evil-1"), Root: s.root.Cert().Raw, WebRoot: []byte{1}}))
	add("a signature of zeros", s.altered(rec, func(r *record.Record) { r.Signature = make([]byte, ed25519.SignatureSize) }))
	add("an unknown kind", s.altered(rec, func(r *record.Record) { r.Kind = "king" }))
	add("a later format", s.altered(rec, func(r *record.Record) { r.Version++ }))
	add("cut short", rec[:len(rec)-1])
	add("with bytes behind", append(slices.Clone(rec), 0))
	add("larger than a record may be", bytes.Repeat([]byte{0x89}, record.MaxSize+1))
	add("nested ten thousand deep", bytes.Repeat([]byte{0x81}, 10_000))
	add("an array that claims four billion entries", []byte{0x9a, 0xff, 0xff, 0xff, 0xff})
	add("nothing", []byte{})
	add("too many parents", s.altered(rec, func(r *record.Record) { r.Parents = make([]perigee.Digest, 10_000) }))
	add("a deploy that names too many pointers as replaced", s.sign("dep", &record.Pointer{Function: "hello", Past: make([]perigee.Digest, record.MaxPast+1)}))
	kept("a deploy beyond a key's scope that names what is live as replaced", s.sign("dep", &record.Pointer{Function: "other", Past: []perigee.Digest{record.ID(s.good[len(s.good)-1])}}))
	future := record.HLCAt(s.now.AddDate(10, 0, 0))
	add("a deploy ten years ahead", s.signAt("dep", future, &record.Pointer{Function: "hello", Revision: liveRev}))
	add("a revocation ten years ahead", s.signAt("operator", future, &record.Revoke{Node: "syd-1"}))
	add("a deploy at the end of time", s.signAt("dep", 1<<63-1, &record.Pointer{Function: "hello"}))
	add("a redemption of a token for another signer", s.sign("evil-1", s.redeem("unused", "evil-2", "evil-2", "evil-1", perigee.RoleSigner)))
	add("a redemption with the bearer's proof for another key", func() []byte {
		r := s.redeem("unused", "bound-2", "bound-2", "fra-1", perigee.RoleSigner)
		r.Public = s.pub("evil-1")
		return s.sign("fra-1", r)
	}())
	add("a redemption with another signer's certificate", s.sign("evil-1", s.redeem("unused", "evil-2", "evil-2", "fra-1", perigee.RoleSigner)))
	kept("a second redemption of a token", s.sign("fra-1", s.redeem("used", "evil-1", "evil-2", "fra-1", perigee.RoleSigner)))
	kept("a redemption of a token whose time is over", s.sign("fra-1", s.redeem("old", "evil-1", "evil-2", "fra-1", perigee.RoleSigner)))
	kept("a redemption for a name that is bound to another key", s.sign("fra-1", s.redeem("unused", "evil-1", "bound-1", "fra-1", perigee.RoleSigner)))
	kept("a deploy of a key that was revoked", s.sign("gone", &record.Pointer{Function: "hello"}))
	kept("a revision of a key that was revoked, stamped before", s.signAt("gone", record.HLCAt(s.now.Add(-30*time.Second)), revision(manifest("zzz", ""))))
	kept("a function beyond a key's scope", s.sign("dep", revision(manifest("other", ""))))
	kept("a host beyond a key's scope", s.sign("dep", revision(manifest("hello", "www.other.com"))))
	kept("a removal beyond a key's scope", s.sign("dep", &record.Pointer{Function: "other"}))
	kept("a pointer to nothing", s.sign("dep", &record.Pointer{Function: "hello", Revision: perigee.Digest{9}}))
	add("a token of a deploy key", s.sign("dep", s.token("new", record.TokenOperator, "fra-1", record.Scope{})))
	add("a region of a deploy key", s.sign("dep", &record.Region{Info: perigee.RegionInfo{Code: "zrh"}}))
	add("a revocation of a deploy key", s.sign("dep", &record.Revoke{Node: "syd-1"}))
	add("replays of all that the victim holds", s.good...)
	return append(list, s.rowAttacks()...)
}

func (s *stage) rowAttacks() (list []Attack) {
	add := func(name string, rows ...[]byte) { list = append(list, Attack{Name: "row: " + name, Rows: rows}) }
	evil := perigee.NodeClaims{ID: "evil-1", Region: "fra"}
	own := s.chain(evil, "evil-1", s.now)
	signed, _, err := record.DecodeRow(s.goodRows[0])
	s.must(err)
	later := func(r *perigee.Row) { r.Incarnation = 1 << 60 }
	tampered := func(change func(*record.SignedRow)) []byte {
		c := signed
		c.Row, c.Signature = slices.Clone(c.Row), slices.Clone(c.Signature)
		change(&c)
		b, err := record.Marshal(c)
		s.must(err)
		return b
	}
	body := func(change func(*perigee.Row)) []byte {
		_, row, _ := record.DecodeRow(s.goodRows[0])
		change(&row)
		b, err := record.Marshal(row)
		s.must(err)
		return b
	}
	other, err := newOther()
	s.must(err)
	add("in another's name with the own certificate", s.rowWith("syd-1", "evil-1", own, later))
	add("in another's name with the other's certificate", s.rowWith("syd-1", "evil-1", signed.Chain, later))
	add("in the name of a node that nobody knows yet", s.rowWith("new-1", "evil-1", own, later))
	add("a name that is bound to another key", s.row("bound-1", "evil-1", later))
	add("a name that is bound to another key, of a node that never spoke", s.row("quiet-1", "evil-1", later))
	add("the victim's name", s.row("victim-1", "evil-1", later))
	add("a certificate for the name with another key", s.row("syd-1", "evil-1", later))
	add("of a revoked node", s.row("revoked-1", "revoked-1", later))
	add("a certificate that ran out", s.rowWith("evil-1", "evil-1", s.chain(evil, "evil-1", s.now.AddDate(0, -2, 0)), later))
	add("a certificate of another cluster", other)
	add("no certificate", s.rowWith("evil-1", "evil-1", nil, later))
	add("another's, numbered anew", tampered(func(r *record.SignedRow) { r.Row = body(later) }))
	add("another's, at another address", tampered(func(r *record.SignedRow) {
		r.Row = body(func(r *perigee.Row) { r.Seq++; r.Addr = netip.MustParseAddrPort("203.0.113.66:1") })
	}))
	add("another's, drained", tampered(func(r *record.SignedRow) { r.Row = body(func(r *perigee.Row) { r.Seq++; r.Draining = true }) }))
	add("another's goodbye", tampered(func(r *record.SignedRow) { r.Row = body(func(r *perigee.Row) { r.Seq = 1<<64 - 1 }) }))
	add("another's, a bit of the signature flipped", tampered(func(r *record.SignedRow) { r.Row = body(func(r *perigee.Row) { r.Seq++ }); r.Signature[0] ^= 1 }))
	add("another's, from before", s.row("syd-1", "syd-1", func(r *perigee.Row) { r.Seq = 1 }))
	add("another's, once more", s.goodRows[0])
	add("without an address", s.rowWith("evil-1", "evil-1", own, func(r *perigee.Row) { r.Addr = netip.AddrPort{} }))
	add("with a text that is too long", s.rowWith("evil-1", "evil-1", own, func(r *perigee.Row) { r.Version = strings.Repeat("x", 1000) }))
	add("with a warmth that does not exist", s.rowWith("evil-1", "evil-1", own, func(r *perigee.Row) { r.Revisions = map[perigee.RevisionID]perigee.Warmth{"a": 200} }))
	add("larger than a row may be", bytes.Repeat([]byte{0xa1}, record.MaxRow+1))
	add("garbage", []byte("garbage"))
	return list
}

// newOther returns a row of another cluster.
func newOther() ([]byte, error) {
	s := &stage{now: time.Now(), cluster: "ffffffffffffffff"}
	var err error
	if s.root, err = identity.NewRoot(s.cluster, s.now); err != nil {
		return nil, err
	}
	if s.ca, err = s.root.NewIntermediate(s.now); err != nil {
		return nil, err
	}
	b := s.row("evil-1", "evil-1", nil)
	return b, s.err
}

// victim makes a node that holds what is good, and checks everything, as real nodes do.
func (s *stage) victim() (*gossip.Core, error) {
	core, err := gossip.NewCore(gossip.CoreConfig{
		Self: "victim-1", Region: "fra", Cluster: s.cluster, Root: s.root.Cert(), Genesis: s.genesis, Max: maxState,
		CheckManifest: func(*perigee.Manifest) error { return nil }, Chance: rand.New(rand.NewPCG(1, 1)),
	})
	if err != nil {
		return nil, err
	}
	if opaque, err := core.Load(s.now, nil, s.good); err != nil || len(opaque) > 0 {
		return nil, fmt.Errorf("%d good records have no effect: %w", len(opaque), errors.Join(err, errors.ErrUnsupported))
	}
	tell(core, s.now, "syd-1", nil, s.goodRows)
	return core, nil
}

// tell pushes something to a node, from a peer, and stores what it wants stored.
func tell(core *gossip.Core, now time.Time, from perigee.NodeID, records, rows [][]byte) {
	store(core, now, core.Step(now, gossip.Asked{From: from, Number: 1, Message: gossip.NewPush(records, rows, gossip.ReachAll)}))
}

func store(core *gossip.Core, now time.Time, out gossip.Effects) {
	for _, b := range out.Store {
		store(core, now, core.Step(now, gossip.Stored{Number: b.Number}))
	}
}

// state writes down all that a node believes that an attack could change.
func state(core *gossip.Core) (string, error) {
	d := core.Desired()
	b, err := json.Marshal(struct {
		Functions map[string]*perigee.Function
		Regions   []perigee.RegionInfo
		Revoked   map[perigee.NodeID]bool
		Web       int
		Rows      map[perigee.NodeID]perigee.Row
		Rights    []gossip.Person
	}{d.Functions, d.Regions.All(), d.Revoked, len(d.Web), core.Rows(), core.Rights()})
	return string(b), err
}

// Byzantine tries every attack on a victim of its own and returns the names of all, and of those that
// succeeded: at once, or within a quarter of an hour, since some records wait for their time.
func Byzantine(now time.Time) (tried, accepted []string, err error) {
	s, err := newStage(now)
	if err != nil {
		return nil, nil, fmt.Errorf("set the stage: %w", err)
	}
	attacks := s.attacks()
	if s.err != nil {
		return nil, nil, fmt.Errorf("make attacks: %w", s.err)
	}
	for _, a := range attacks {
		core, err := s.victim()
		if err != nil {
			return nil, nil, err
		}
		before, err := state(core)
		if err != nil {
			return nil, nil, err
		}
		held := map[perigee.Digest]bool{}
		for _, raw := range a.Records {
			held[record.ID(raw)] = core.Holds(record.ID(raw))
		}
		store(core, now, core.Step(now, gossip.Start{}))
		tell(core, now, "evil-1", a.Records, a.Rows)
		for t := now; t.Before(now.Add(15 * time.Minute)); t = t.Add(10 * time.Second) {
			store(core, t, core.Step(t, gossip.Tick{}))
		}
		after, err := state(core)
		if err != nil {
			return nil, nil, err
		}
		fell := after != before
		for _, raw := range a.Records {
			fell = fell || !a.Kept && core.Holds(record.ID(raw)) != held[record.ID(raw)]
		}
		tried = append(tried, a.Name)
		if fell {
			accepted = append(accepted, a.Name)
		}
	}
	return tried, accepted, nil
}
