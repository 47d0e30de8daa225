package gossip

import (
	"cmp"
	"crypto/ed25519"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// An author is a kind of key.
type author string

const (
	operator author = "operator"
	deployer author = "deploy"
	signer   author = "signer"
	issuer   author = "issuer"
)

// mayWrite is the table of rights: which kind of key may write which kind of record. Within its
// cell a deploy key is further bound by its scope, and a signer to redemptions of its own tokens.
// The genesis record is in nobody's cell, since a node gets it with its identity and takes no other.
func mayWrite(a author, k record.Kind) bool {
	switch k {
	case record.KindToken, record.KindRevoke, record.KindRegion:
		return a == operator
	case record.KindRevision, record.KindPointer, record.KindSecret, record.KindPurge:
		return a == operator || a == deployer
	case record.KindRedeem:
		return a == signer
	case record.KindWeb:
		return a == issuer
	}
	return false
}

// stamp is a place in the order of records.
type stamp struct {
	hlc record.HLC
	id  perigee.Digest
}

func stampOf(e *entry) stamp { return stamp{e.rec.HLC, e.id} }

func (s stamp) compare(o stamp) int {
	return cmp.Or(cmp.Compare(s.hlc, o.hlc), compareDigests(s.id, o.id))
}

func (s stamp) before(e *entry) bool {
	return s.hlc < e.rec.HLC || s.hlc == e.rec.HLC && compareDigests(s.id, e.id) < 0
}

// before reports whether e comes before a place in the order.
func (e *entry) before(s stamp) bool { return stampOf(e) != s && !s.before(e) }

// grant is a right that one redemption gave to a key. The key stands here in full, since people
// choose their keys, and could choose two of the same short name.
type grant struct {
	public  ed25519.PublicKey
	as      author
	scope   record.Scope
	inForce bool // false: the redemption has no effect, for example since the token was used before
}

// authority is what the governing records say together: who may write what. It is the result of
// replaying them in the order of their clocks, so it does not depend on the order of arrival. It is
// not changed after newAuthority.
//
// It answers two questions. admits: may this record be kept? That depends only on records being
// there, never on their absence, so that nodes which hold the same records agree, whatever came
// first. And allows: does it have an effect? That depends on revocations as well: a record written
// after its key was revoked is kept, on all nodes alike, and means nothing.
type authority struct {
	genesis  *record.Genesis
	epoch    uint32                    // the present one
	grants   map[perigee.KeyID][]grant // in the order of redemption, whether or not in force
	tokens   map[perigee.KeyID]*tokenEntry
	nodes    map[perigee.NodeID]ed25519.PublicKey
	keyEnd   map[perigee.KeyID]stamp
	nodeEnd  map[perigee.NodeID]stamp
	verdicts map[perigee.Digest]*RefusedError // of the governing records; nil = has its effect
}

type tokenEntry struct {
	entry    *entry // the token record in force; nil if none is
	token    *record.Token
	all      []*entry // in force or not
	redeemed *entry
}

// newAuthority replays the governing records, which must be sorted.
func newAuthority(genesis *record.Genesis, governing []*entry) *authority {
	a := &authority{
		genesis: genesis,
		grants:  map[perigee.KeyID][]grant{}, tokens: map[perigee.KeyID]*tokenEntry{},
		nodes: map[perigee.NodeID]ed25519.PublicKey{}, verdicts: map[perigee.Digest]*RefusedError{},
		keyEnd: map[perigee.KeyID]stamp{}, nodeEnd: map[perigee.NodeID]stamp{},
	}
	for _, e := range governing {
		var verdict *RefusedError
		switch body := e.body.(type) {
		case *record.Genesis:
			a.begin(e, body)
		case *record.Token:
			verdict = a.replayToken(e, body)
		case *record.Redeem:
			verdict = a.replayRedeem(e, body)
		case *record.Revoke:
			verdict = a.replayRevoke(e, body)
		}
		a.verdicts[e.id] = verdict
	}
	return a
}

func (a *authority) grant(g grant) {
	id := record.KeyIDOf(g.public)
	a.grants[id] = append(a.grants[id], g)
}

// begin replays the start of an epoch: whoever could write can, and no node of the epoch before is one of
// this, so that its name is free. An operator's key stays one when another began the next epoch.
func (a *authority) begin(e *entry, g *record.Genesis) {
	a.epoch = e.rec.Epoch
	a.grant(grant{public: g.Operator, as: operator, inForce: true})
	clear(a.nodes)
	clear(a.nodeEnd)
}

func (a *authority) replayToken(e *entry, t *record.Token) *RefusedError {
	key := record.KeyIDOf(t.Public)
	st := a.tokens[key]
	if st == nil {
		st = &tokenEntry{}
		a.tokens[key] = st
	}
	st.all = append(st.all, e)
	if err := a.allows(e); err != nil {
		return err
	}
	if st.entry != nil {
		return refuse(RuleUsed, "token %s exists already", key)
	}
	st.entry, st.token = e, t
	return nil
}

func (a *authority) replayRedeem(e *entry, r *record.Redeem) *RefusedError {
	verdict := a.judgeRedeem(e, r)
	if st := a.tokens[r.Token]; verdict == nil {
		st.redeemed = e
		a.bind(e.signer.ID, e.signerKey)
		if st.token.Kind == record.TokenNode {
			a.bind(r.Node, r.Public)
		}
	}
	// The key becomes known in any case, so that what it signed can be verified, kept, and shown
	// to have no effect, on every node alike.
	for _, t := range a.tokens[r.Token].redeemable(e) {
		g := grant{public: r.Public, inForce: verdict == nil && t == a.tokens[r.Token].token}
		switch t.Kind {
		case record.TokenOperator:
			g.as = operator
		case record.TokenDeploy:
			g.as, g.scope = deployer, t.Scope
		default:
			continue
		}
		a.grant(g)
	}
	return verdict
}

// redeemable returns the token records that the redemption fits, apart from questions of time: they are of
// its epoch, its signer is the one they name, it has a node name if they want one, and the bearer's proof is good.
func (st *tokenEntry) redeemable(e *entry) (list []*record.Token) {
	if st == nil {
		return nil
	}
	r := e.body.(*record.Redeem)
	for _, other := range st.all {
		t := other.body.(*record.Token)
		if other.rec.Epoch != e.rec.Epoch || t.Signer != e.signer.ID || (t.Kind == record.TokenNode) != (r.Node != "") {
			continue
		}
		if e.tokenKey == nil && ed25519.Verify(t.Public, record.RedeemMessage(e.rec.Cluster, r.Public, r.Node), r.Proof) {
			e.tokenKey = t.Public
		}
		if t.Public.Equal(e.tokenKey) {
			list = append(list, t)
		}
	}
	return list
}

func (a *authority) bind(id perigee.NodeID, key ed25519.PublicKey) {
	if a.nodes[id] == nil {
		a.nodes[id] = key
	}
}

// judgeRedeem decides whether a redemption has its effect.
func (a *authority) judgeRedeem(e *entry, r *record.Redeem) *RefusedError {
	if err := a.admits(e); err != nil {
		return err
	}
	st := a.tokens[r.Token]
	if st.entry == nil {
		return refuse(RuleRevoked, "token %s was written by a key that had no right to: ask an operator for a new one", r.Token)
	}
	t := st.token
	if !slices.Contains(st.redeemable(e), t) {
		return refuse(RuleRight, "token %s is redeemed by %s only, as a %s token", r.Token, t.Signer, t.Kind)
	}
	if end, ok := a.nodeEnd[e.signer.ID]; ok && end.before(e) {
		return refuse(RuleRevoked, "node %s was revoked and redeems no tokens", e.signer.ID)
	}
	if end, ok := a.keyEnd[r.Token]; ok && end.before(e) {
		return refuse(RuleRevoked, "token %s was revoked: ask an operator for a new one", r.Token)
	}
	if at := e.rec.HLC.Time(); !at.Before(t.ExpiresAt()) {
		return refuse(RuleExpired, "token %s expired at %s and was used at %s: ask an operator for a new one",
			r.Token, timeText(t.ExpiresAt()), timeText(at))
	}
	if st.redeemed != nil {
		return refuse(RuleUsed, "token %s was used at %s: a token works once, ask an operator for a new one",
			r.Token, timeText(st.redeemed.rec.HLC.Time()))
	}
	if t.Kind != record.TokenNode {
		return nil
	}
	if key := a.nodes[r.Node]; key != nil && !key.Equal(r.Public) {
		return refuse(RuleUsed, "node name %s belongs to another key: choose another name; names are never reused", r.Node)
	}
	if r.Node == e.signer.ID && !e.signerKey.Equal(r.Public) {
		return refuse(RuleUsed, "node name %s is the signer's own: choose another name", r.Node)
	}
	return nil
}

func (a *authority) replayRevoke(e *entry, r *record.Revoke) *RefusedError {
	if err := a.allows(e); err != nil {
		return err
	}
	if r.Key != "" {
		if _, done := a.keyEnd[r.Key]; !done {
			a.keyEnd[r.Key] = stampOf(e)
		}
		return nil
	}
	if _, done := a.nodeEnd[r.Node]; !done {
		a.nodeEnd[r.Node] = stampOf(e)
	}
	return nil
}

// admits reports whether the record may be kept: a known key made its signature, and that key was
// at some time given the right to write such a record. RuleAuthor means that the key is unknown
// so far, which a record that is still on its way may change. The first success notes in the entry
// whose signature it is; until then the entry must belong to one goroutine.
func (a *authority) admits(e *entry) *RefusedError {
	switch body := e.body.(type) {
	case *record.Genesis:
		return nil // parse took no other than the configured one
	case *record.Redeem:
		return a.admitsRedeem(e, body)
	case *record.Web:
		return a.admitsWeb(e)
	}
	known := a.grants[e.rec.Key]
	if len(known) == 0 {
		return refuse(RuleAuthor, "key %s is not known to this cluster: log in with a token, or retry in a few seconds if you just did", e.rec.Key)
	}
	for i := 0; e.author == nil && i < len(known); i++ {
		if e.sealed && sole(known) || e.rec.Verify(known[i].public) == nil {
			e.author = known[i].public
		}
	}
	if e.author == nil {
		return refuse(RuleSignature, "key %s did not sign this %s record, or it was changed since", e.rec.Key, e.rec.Kind)
	}
	return may(known, e, false)
}

// sole reports whether all grants of a key's name are those of one key.
func sole(grants []grant) bool {
	return !slices.ContainsFunc(grants, func(g grant) bool { return !g.public.Equal(grants[0].public) })
}

func (a *authority) admitsRedeem(e *entry, r *record.Redeem) *RefusedError {
	if e.author == nil && !e.sealed && e.rec.Verify(e.signerKey) != nil {
		return refuse(RuleSignature, "node %s did not sign this redemption, or it was changed since", e.signer.ID)
	}
	e.author = e.signerKey
	if !e.signer.HasRole(perigee.RoleSigner) || !mayWrite(signer, e.rec.Kind) {
		return refuse(RuleRight, "node %s has no signer role and redeems no tokens", e.signer.ID)
	}
	st := a.tokens[r.Token]
	if st == nil {
		return refuse(RuleAuthor, "token %s is not known here, or not yet", r.Token)
	}
	if len(st.redeemable(e)) == 0 {
		t := st.all[0].body.(*record.Token)
		return refuse(RuleRight, "the redemption of token %s by node %s for node %q does not fit: it is a %s token, redeemed by %s only, and its bearer must have signed for the key",
			r.Token, e.signer.ID, r.Node, t.Kind, t.Signer)
	}
	return nil
}

// admitsWeb: a node writes it, and its certificate says that it may.
func (a *authority) admitsWeb(e *entry) *RefusedError {
	if e.author == nil && e.rec.Verify(e.signerKey) != nil {
		return refuse(RuleSignature, "node %s did not sign this record, or it was changed since", e.signer.ID)
	}
	e.author = e.signerKey
	if !e.signer.HasRole(perigee.RoleIssuer) || !mayWrite(issuer, e.rec.Kind) {
		return refuse(RuleRight, "node %s has no issuer role and shares no certificates", e.signer.ID)
	}
	return nil
}

// allowsWeb: a node that was revoked before writes nothing.
func (a *authority) allowsWeb(e *entry) *RefusedError {
	end, ok := a.nodeEnd[e.signer.ID]
	if !ok || !end.before(e) {
		end, ok = a.keyEnd[e.rec.Key]
	}
	if ok && end.before(e) {
		return refuse(RuleRevoked, "node %s was revoked and shares no certificates", e.signer.ID)
	}
	return nil
}

// allows reports whether a record of a person has its effect. While governing records are replayed,
// it judges by those before them; other records have the effect that all governing records give them.
func (a *authority) allows(e *entry) *RefusedError {
	if err := a.admits(e); err != nil {
		return err
	}
	if e.rec.Kind == record.KindWeb {
		return a.allowsWeb(e)
	}
	if err := may(a.grants[e.rec.Key], e, true); err != nil {
		return err
	}
	if end, ok := a.keyEnd[e.rec.Key]; ok && end.before(e) {
		return refuse(RuleRevoked, "key %s was revoked at %s: log in with a new token", e.rec.Key, timeText(end.hlc.Time()))
	}
	return nil
}

// may checks the record against the rights of its author; with inForce, against those only that
// an effective redemption gave.
func may(grants []grant, e *entry, inForce bool) *RefusedError {
	var err *RefusedError
	for _, g := range grants {
		switch {
		case inForce && !g.inForce || !g.public.Equal(e.author):
			continue
		case !mayWrite(g.as, e.rec.Kind):
			err = refuse(RuleRight, "key %s is a %s key and may not write %s records: ask an operator", e.rec.Key, g.as, e.rec.Kind)
			continue
		case g.as == operator:
			return nil
		}
		if err = g.covers(e); err == nil {
			return nil
		}
	}
	if err == nil {
		err = refuse(RuleRevoked, "key %s has no rights: the token behind it was void; log in with a new one", e.rec.Key)
	}
	return err
}

// covers checks the function's name and, for a revision, the hosts of its manifest. Whether a pointer of a
// key for placements keeps the code, allowsLive checks.
func (g grant) covers(e *entry) *RefusedError {
	if p, ok := e.body.(*record.Pointer); g.scope.PlacementOnly && (!ok || p.Revision.IsZero()) {
		return refuse(RuleScope, "key %s may change where functions run (`perigee placement set`), and nothing else: ask an operator for a wider token", e.rec.Key)
	}
	switch body := e.body.(type) {
	case *record.Revision:
		return g.coversManifest(e.rec.Key, &body.Manifest)
	case *record.Pointer:
		return g.coversFunction(e.rec.Key, body.Function)
	case *record.Secret:
		return g.coversFunction(e.rec.Key, body.Function)
	case *record.Purge:
		if body.Function == "" && len(g.scope.Functions) > 0 {
			return refuse(RuleScope, "key %s may purge only responses of functions matching %s: name one with --function, or ask an operator for a wider token",
				e.rec.Key, listText(g.scope.Functions))
		}
		return g.coversFunction(e.rec.Key, body.Function)
	}
	return refuse(RuleRight, "key %s may not write %s records", e.rec.Key, e.rec.Kind)
}

func (g grant) coversFunction(key perigee.KeyID, name string) *RefusedError {
	if !g.scope.AllowsFunction(name) {
		return refuse(RuleScope, "key %s may deploy only functions matching %s, not %q; ask an operator for a wider token",
			key, listText(g.scope.Functions), name)
	}
	return nil
}

func (g grant) coversManifest(key perigee.KeyID, m *perigee.Manifest) *RefusedError {
	if err := g.coversFunction(key, m.Name); err != nil {
		return err
	}
	for _, r := range m.Routes {
		if r.Host != "" && !g.scope.AllowsHost(r.Host) {
			return refuse(RuleScope, "key %s may claim only hosts matching %s, not %q; ask an operator for a wider token",
				key, listText(g.scope.Hosts), r.Host)
		}
	}
	if !g.scope.AllowsPlacement(&m.Placement) {
		return refuse(RuleScope, "key %s may place functions only within %s: name nothing else in placement.residency or placement.pin, or ask an operator for a wider token",
			key, listText(g.scope.Placements))
	}
	return nil
}

// allowsLive reports whether the pointer's author may make a revision with this manifest live: its
// scope must cover what the revision claims, whoever wrote it. keeps says why the pointer changes more
// than the placement.
func (a *authority) allowsLive(pointer *entry, m *perigee.Manifest, keeps func() *RefusedError) *RefusedError {
	var err *RefusedError
	for _, g := range a.grants[pointer.rec.Key] {
		if !g.inForce || !g.public.Equal(pointer.author) || !mayWrite(g.as, record.KindPointer) {
			continue
		}
		if g.as == operator {
			return nil
		}
		if err = g.coversManifest(pointer.rec.Key, m); err == nil && g.scope.PlacementOnly {
			err = keeps()
		}
		if err == nil {
			return nil
		}
	}
	return err
}

// placesOnly reports whether all that the author of an entry may write are changes of placement.
func (a *authority) placesOnly(e *entry) bool {
	only := false
	for _, g := range a.grants[e.rec.Key] {
		if !g.inForce || !g.public.Equal(e.author) {
			continue
		}
		if g.as == operator || !g.scope.PlacementOnly {
			return false
		}
		only = true
	}
	return only
}

// nodeRevoked reports whether a node lost its place, by name or by key.
func (a *authority) nodeRevoked(id perigee.NodeID, key ed25519.PublicKey) bool {
	if _, ok := a.nodeEnd[id]; ok {
		return true
	}
	_, ok := a.keyEnd[record.KeyIDOf(key)]
	return ok && key != nil
}

// operatorsWithout counts the keys other than this one that have an operator's rights.
func (a *authority) operatorsWithout(key perigee.KeyID) (n int) {
	for id, grants := range a.grants {
		_, ended := a.keyEnd[id]
		if !ended && id != key && slices.ContainsFunc(grants, func(g grant) bool { return g.inForce && g.as == operator }) {
			n++
		}
	}
	return n
}
