package gossip

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	// lastWord is the Seq of the row by which a node says goodbye. Nothing of the same incarnation
	// comes after it.
	lastWord = math.MaxUint64
	// shownDead is how long a node that died or left stays in the View.
	shownDead = 10 * time.Minute
	// farSpacing and farEach, times the number of nodes, are how long a row of another region stays
	// before a comparison replaces it.
	farSpacing = 3 * time.Second
	farEach    = 30 * time.Millisecond
	// remembered is how long the mark of a dropped row is kept, so that a peer that drops it later
	// does not bring it back.
	remembered = 24 * time.Hour
	// sealingSize is that of an X25519 key.
	sealingSize = 32
)

// rowVerifier checks who signed a row and that it says nothing that would hurt a reader. It gets
// the row held of that node, or nil.
type rowVerifier func(signed record.SignedRow, row perigee.Row, old *rowState, now time.Time) (*rowState, error)

// rowTable holds the newest row of each node, verified. It is part of the core, and never on disk.
//
// There are two tiers. Rows of the same region are pushed on every change. A change that routing
// depends on is pushed to everybody; all others cross into another region by comparison only, and
// there a row is replaced at most every three seconds, in a large cluster less often.
type rowTable struct {
	self   perigee.NodeID
	region perigee.Region
	verify rowVerifier
	auth   func() *authority

	rows map[perigee.NodeID]*rowState
	gone map[perigee.NodeID]goneRow
}

// rowState is one row with what its signature proved. It is replaced, not changed, except for the
// times.
type rowState struct {
	raw     []byte
	row     perigee.Row
	chain   [][]byte
	claims  perigee.NodeClaims
	key     ed25519.PublicKey
	expires time.Time

	taken    time.Time // when it came here
	advanced time.Time // the last time that a newer row replaced one; zero = never
	down     time.Time // since when it is dead or left; zero = it is not
}

type goneRow struct {
	mark mark
	at   time.Time
}

// takeOne verifies a row and keeps it if it is newer than what is known. A row of this node from a
// former life is not kept, but noted in echo.
func (t *rowTable) takeOne(raw []byte, now time.Time, echo *mark) (id perigee.NodeID, kept bool, err error) {
	if len(raw) > maxRowSize {
		return "", false, fmt.Errorf("row of %d bytes, the limit is %d", len(raw), maxRowSize)
	}
	signed, row, err := record.DecodeRow(raw)
	if err != nil {
		return "", false, err
	}
	m := markOf(&row)
	old, stale := t.find(m)
	if stale {
		return row.Node, false, nil
	}
	s, err := t.verify(signed, row, old, now)
	if err != nil {
		return row.Node, false, fmt.Errorf("row of %.80q: %w", row.Node, err)
	}
	s.raw, s.taken = raw, now
	if row.Node == t.self {
		if m.newer(*echo) {
			*echo = m
		}
		return row.Node, false, nil
	}
	return row.Node, t.put(s, now), nil
}

// find returns the row held of a node, and whether m is no newer than what is known of it.
func (t *rowTable) find(m mark) (old *rowState, stale bool) {
	if old = t.rows[m.Node]; old != nil {
		return old, !m.newer(markOf(&old.row))
	}
	gone, ok := t.gone[m.Node]
	return nil, ok && !m.newer(gone.mark)
}

// verifyRow returns what checks rows by certificates and by who may use which name.
func verifyRow(cluster perigee.ClusterID, root *x509.Certificate, auth func() *authority) rowVerifier {
	return func(signed record.SignedRow, row perigee.Row, old *rowState, now time.Time) (*rowState, error) {
		s, err := certify(cluster, root, signed, row, old, now)
		if err != nil {
			return nil, err
		}
		switch {
		case now.After(s.expires):
			return nil, fmt.Errorf("its certificate expired at %s", timeText(s.expires))
		case s.claims.ID != row.Node:
			return nil, fmt.Errorf("signed by node %s", s.claims.ID)
		case old != nil && !old.key.Equal(s.key):
			return nil, fmt.Errorf("a second node uses the name with another key: rename one of them")
		case auth().nodeRevoked(row.Node, s.key):
			return nil, fmt.Errorf("the node was revoked")
		}
		if bound := auth().nodes[row.Node]; bound != nil && !bound.Equal(s.key) {
			return nil, fmt.Errorf("the name belongs to another key")
		}
		if err := signed.VerifyRow(s.key); err != nil {
			return nil, err
		}
		return s, checkRow(&row)
	}
}

// certify finds out whose row it is; a chain that was verified before is not verified again.
func certify(cluster perigee.ClusterID, root *x509.Certificate, signed record.SignedRow, row perigee.Row, old *rowState, now time.Time) (*rowState, error) {
	s := &rowState{row: row, chain: signed.Chain}
	if old != nil && slices.EqualFunc(old.chain, signed.Chain, bytes.Equal) {
		s.claims, s.key, s.expires = old.claims, old.key, old.expires
	} else {
		claims, leaf, err := identity.VerifyNode(root, cluster, signed.Chain, now)
		if err != nil {
			return nil, err
		}
		key, ok := leaf.PublicKey.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("certificate with a %T, want an Ed25519 key", leaf.PublicKey)
		}
		s.claims, s.key, s.expires = claims, key, leaf.NotAfter
	}
	return s, nil
}

func checkRow(r *perigee.Row) error {
	switch {
	case !r.Addr.IsValid() || r.Addr.Port() == 0 || r.Addr.Addr().Zone() != "":
		return fmt.Errorf("address %s is none", r.Addr)
	case len(r.Sealing) != 0 && len(r.Sealing) != sealingSize:
		return fmt.Errorf("a sealing key of %d bytes, want %d", len(r.Sealing), sealingSize)
	case len(r.Version) > maxText || len(r.HTTPS) > maxText:
		return fmt.Errorf("a text of more than %d bytes", maxText)
	}
	for id, w := range r.Revisions {
		if len(id) > maxText || w > perigee.Warm {
			return fmt.Errorf("revision %.40q in state %d", id, w)
		}
	}
	for id, trial := range r.Trials {
		if len(id) > maxText || trial > perigee.TrialFailed {
			return fmt.Errorf("revision %.40q in trial %d", id, trial)
		}
	}
	return checkDemand(r)
}

// maxDemand is the most functions, and the most hosts, that a row may speak of.
const maxDemand = 4096

// maxOptional is the most optional holders of one function that a row may name.
const maxOptional = 64

// checkDemand bounds what a row says about functions and hosts.
func checkDemand(r *perigee.Row) error {
	if len(r.Near) > maxDemand || len(r.Traffic) > maxDemand || len(r.Optional) > maxDemand {
		return fmt.Errorf("it speaks of more than %d functions or hosts", maxDemand)
	}
	for host := range r.Near {
		if len(host) > 2*maxText {
			return fmt.Errorf("host %.40q", host)
		}
	}
	for name := range r.Traffic {
		if perigee.CheckLabel(name) != nil {
			return fmt.Errorf("function %.40q", name)
		}
	}
	for name, list := range r.Optional {
		if perigee.CheckLabel(name) != nil || len(list) > maxOptional {
			return fmt.Errorf("%d optional holders of function %.40q, the limit is %d", len(list), name, maxOptional)
		}
		for _, o := range list {
			if len(o.Node) > maxText {
				return fmt.Errorf("optional holder %.40q", o.Node)
			}
		}
	}
	return nil
}

// put keeps a verified row, unless a newer one came in between.
func (t *rowTable) put(s *rowState, now time.Time) bool {
	old := t.rows[s.row.Node]
	switch {
	case old == nil && len(t.rows) >= maxNodes:
		return false
	case old == nil:
	case !markOf(&s.row).newer(markOf(&old.row)):
		return false
	default:
		s.advanced, s.down = now, old.down
	}
	t.rows[s.row.Node] = s
	return true
}

// ownRowState is this node's own row, as the others see it.
func ownRowState(raw []byte, row perigee.Row, node *identity.Node, now time.Time) *rowState {
	return &rowState{
		raw: raw, row: row, chain: node.Chain(), claims: node.Claims(), expires: node.Expires(),
		key: node.Key().Public().(ed25519.PublicKey), advanced: now, taken: now,
	}
}

// marks returns how far the rows of all nodes are known here, sorted by node.
func (t *rowTable) marks() []mark {
	marks := make([]mark, 0, len(t.rows))
	for _, s := range t.rows {
		marks = append(marks, markOf(&s.row))
	}
	slices.SortFunc(marks, func(a, b mark) int { return cmp.Compare(a.Node, b.Node) })
	return marks[:min(len(marks), maxNodes)]
}

// fresh reports whether a row came so lately that its successor may wait, where it is one of another region.
func (t *rowTable) fresh(s *rowState, region perigee.Region, now time.Time) bool {
	return s.claims.Region != region && now.Sub(s.taken) < max(farSpacing, farEach*time.Duration(len(t.rows)))
}

// sum returns a digest of the marks.
func (t *rowTable) sum() perigee.Digest {
	h := digest.New()
	for _, m := range t.marks() {
		fmt.Fprintln(h, m.Node, m.Incarnation, m.Seq)
	}
	return digest.Of(h)
}

// lacks returns the nodes whose rows somebody with these marks knows better, as many as a message
// may ask for. One of another region that was replaced here a moment ago can wait.
func (t *rowTable) lacks(theirs []mark, now time.Time) (want []perigee.NodeID) {
	for _, m := range theirs {
		have, ok := t.gone[m.Node]
		s := t.rows[m.Node]
		if s != nil {
			have, ok = goneRow{mark: markOf(&s.row)}, true
		}
		if ok && !m.newer(have.mark) || len(want) >= maxItems {
			continue
		}
		if s != nil && t.fresh(s, t.region, now) && m.Seq != lastWord {
			continue
		}
		want = append(want, m.Node)
	}
	return want
}

// gives returns the rows that somebody of a region with these marks lacks, within the bounds of a
// message. It does not know when they last heard of a node, so that of another region it gives what
// did not change for a moment, or what they know nothing of.
func (t *rowTable) gives(theirs []mark, to perigee.Region, now time.Time) (rows [][]byte) {
	known := make(map[perigee.NodeID]mark, len(theirs))
	for _, m := range theirs {
		known[m.Node] = m
	}
	var ids []perigee.NodeID
	for _, id := range slices.Sorted(maps.Keys(t.rows)) {
		s := t.rows[id]
		m, ok := known[id]
		far := t.fresh(s, to, now) && s.row.Seq != lastWord
		if !ok || markOf(&s.row).newer(m) && !far {
			ids = append(ids, id)
		}
	}
	return t.raws(ids)
}

// raws returns the encoded rows of some nodes, within the bounds of a message.
func (t *rowTable) raws(ids []perigee.NodeID) (rows [][]byte) {
	size := 0
	for _, id := range ids {
		if s := t.rows[id]; s != nil && len(rows) < maxItems && size+len(s.raw) <= maxBatch {
			rows = append(rows, s.raw)
			size += len(s.raw)
		}
	}
	return rows
}

// sweep calls judge for the row of each other node and drops rows that were down for long, or whose
// node was revoked. The result of judge is what the View shows; "" shows nothing.
func (t *rowTable) sweep(now time.Time, judge func(*rowState) perigee.NodeState) (states map[perigee.NodeID]perigee.NodeState, rows map[perigee.NodeID]*rowState, dropped []perigee.NodeID) {
	auth := t.auth()
	states, rows = map[perigee.NodeID]perigee.NodeState{}, map[perigee.NodeID]*rowState{}
	for id, s := range t.rows {
		if id == t.self {
			continue
		}
		state := judge(s)
		switch state {
		case perigee.NodeAlive, perigee.NodeSuspect:
			s.down = time.Time{}
		default:
			if s.down.IsZero() {
				s.down = now
			}
		}
		if revoked := auth.nodeRevoked(id, s.key); revoked || !s.down.IsZero() && now.Sub(s.down) > shownDead {
			delete(t.rows, id)
			t.gone[id] = goneRow{mark: markOf(&s.row), at: now}
			dropped = append(dropped, id)
			continue
		}
		if state != "" {
			states[id], rows[id] = state, s
		}
	}
	for id, g := range t.gone {
		if now.Sub(g.at) > remembered || len(t.gone) > maxNodes {
			delete(t.gone, id)
		}
	}
	return states, rows, dropped
}

// key returns the key that signed a node's row.
func (t *rowTable) key(id perigee.NodeID) (ed25519.PublicKey, bool) {
	if s := t.rows[id]; s != nil {
		return s.key, true
	}
	return nil, false
}

// addrs returns the mesh addresses that the rows name.
func (t *rowTable) addrs() map[perigee.NodeID]rowAddr {
	all := make(map[perigee.NodeID]rowAddr, len(t.rows))
	for id, s := range t.rows {
		all[id] = rowAddr{s.row.Addr, s.row.Seq == lastWord}
	}
	return all
}
