package gossip

import (
	"cmp"
	"crypto/ed25519"
	"maps"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// Person is a key that may write, and what.
type Person struct {
	Key    perigee.KeyID     `json:"key"`
	Public ed25519.PublicKey `json:"public"`
	Role   record.TokenKind  `json:"role"`  // operator or deploy
	Scope  record.Scope      `json:"scope"` // of a deploy key
}

// Person returns the rights of a key; false when it has none (any more). A key that redeemed several
// tokens shows the widest role and, as a deploy key, the scope of the last one; each is obeyed.
func (g *Gossip) Person(id perigee.KeyID) (Person, bool) { return g.folded.Load().auth.person(id) }

func (auth *authority) person(id perigee.KeyID) (Person, bool) {
	if _, ended := auth.keyEnd[id]; ended {
		return Person{}, false
	}
	var p Person
	for _, gr := range auth.grants[id] {
		switch {
		case !gr.inForce:
		case gr.as == operator:
			return Person{Key: id, Public: gr.public, Role: record.TokenOperator}, true
		default:
			p = Person{Key: id, Public: gr.public, Role: record.TokenDeploy, Scope: gr.scope}
		}
	}
	return p, p.Key != ""
}

// TokenState is a token and what became of it.
type TokenState struct {
	Token    record.Token   `json:"token"`
	Record   perigee.Digest `json:"record"`
	Redeemed *record.Redeem `json:"redeemed,omitempty"` // nil = not used yet
	Revoked  bool           `json:"revoked,omitempty"`
	Former   bool           `json:"former,omitempty"` // of an epoch that a restore ended: it makes nobody anything any more
}

// Token returns a token by the name of its key.
func (g *Gossip) Token(id perigee.KeyID) (TokenState, bool) {
	auth := g.folded.Load().auth
	st := auth.tokens[id]
	if st == nil || st.entry == nil {
		return TokenState{}, false
	}
	state := TokenState{Token: *st.token, Record: st.entry.id}
	if st.redeemed != nil {
		state.Redeemed = st.redeemed.body.(*record.Redeem)
	}
	_, state.Revoked = auth.keyEnd[id]
	state.Former = st.entry.rec.Epoch < auth.epoch
	return state, true
}

// Tokens returns all tokens, oldest first.
func (g *Gossip) Tokens() []TokenState {
	auth := g.folded.Load().auth
	ids := slices.SortedFunc(maps.Keys(auth.tokens), func(a, b perigee.KeyID) int {
		return cmp.Or(compareEntries(auth.tokens[a].all[0], auth.tokens[b].all[0]), cmp.Compare(a, b))
	})
	var states []TokenState
	for _, id := range ids {
		if st, ok := g.Token(id); ok {
			states = append(states, st)
		}
	}
	return states
}

// Revocations returns the records that ended a node's membership, by its name or by its key, as they are
// signed; none for a member.
func (g *Gossip) Revocations(id perigee.NodeID, key ed25519.PublicKey) (records [][]byte) {
	if !g.folded.Load().auth.nodeRevoked(id, key) {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.core.set.governing {
		if r, ok := e.body.(*record.Revoke); ok && (r.Node == id || r.Key != "" && r.Key == record.KeyIDOf(key)) {
			records = append(records, e.raw)
		}
	}
	return records
}

// Heads returns the pointer records of a function that nothing replaces yet, the winner last;
// removals are among them. A deploy, rollback or removal that names them all as its parents replaces
// them all.
func (g *Gossip) Heads(function string) []perigee.Digest { return g.folded.Load().heads(function) }

// Past returns what a pointer that replaces all heads of a function should name as its past (record.Pointer), so
// that what it replaces can be collected.
func (g *Gossip) Past(function string) []perigee.Digest { return g.folded.Load().past(function) }

// Revision returns the revision that the record with this identity introduced, live or not; false
// when it is not known here or has no effect. It must not be changed.
func (g *Gossip) Revision(id perigee.Digest) (*perigee.Revision, bool) {
	g.mu.Lock()
	e := g.core.set.byID[id]
	g.mu.Unlock()
	if e == nil || g.folded.Load().revision(e.function(), id) == nil {
		return nil, false
	}
	return e.revision, true
}

// Record returns a record as it was signed; false when it is not known here.
func (g *Gossip) Record(id perigee.Digest) ([]byte, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := g.core.set.byID[id]
	if e == nil {
		return nil, false
	}
	return e.raw, true
}

// RevisionByID returns a function's revision by its short name, and the identity of its record.
func (g *Gossip) RevisionByID(function string, id perigee.RevisionID) (*perigee.Revision, perigee.Digest, bool) {
	l := g.folded.Load().lineages[function]
	if l == nil {
		return nil, perigee.Digest{}, false
	}
	d, ok := l.named[id]
	if !ok {
		return nil, perigee.Digest{}, false
	}
	return l.revisions[d].revision, d, true
}

// Rows returns the rows of all nodes as they signed them, this node's among them.
func (g *Gossip) Rows() [][]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	marks := g.core.rows.marks()
	ids := make([]perigee.NodeID, len(marks))
	for i, m := range marks {
		ids[i] = m.Node
	}
	return g.core.rows.raws(ids)
}
