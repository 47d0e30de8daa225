package gossip

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	// lastWord is the Seq of the row by which a node says goodbye. Nothing of the same incarnation
	// comes after it.
	lastWord = math.MaxUint64
	// shownDead is how long a node that died or left stays in the View.
	shownDead = 10 * time.Minute
	// remembered is how long the mark of a dropped row is kept, so that a peer that drops it later
	// does not bring it back.
	remembered = 24 * time.Hour
	// sealingSize is that of an X25519 key.
	sealingSize = 32
)

// rowTable holds the newest row of each node, verified. It is never on disk.
type rowTable struct {
	cluster perigee.ClusterID
	root    *x509.Certificate
	self    perigee.NodeID
	logger  *slog.Logger
	metrics *Metrics
	auth    func() *authority
	echo    func(mark) // called with a row of this node from a former life

	mu   sync.Mutex // guards the fields below
	rows map[perigee.NodeID]*rowState
	gone map[perigee.NodeID]goneRow
}

// rowState is one row with what its signature proved. It is replaced, not changed, except for the
// times, which the table's lock guards.
type rowState struct {
	raw     []byte
	row     perigee.Row
	chain   [][]byte
	claims  perigee.NodeClaims
	key     ed25519.PublicKey
	expires time.Time

	advanced time.Time // the last time that a newer row replaced one; zero = never
	down     time.Time // since when it is dead or left; zero = it is not
}

type goneRow struct {
	mark mark
	at   time.Time
}

// take verifies rows and keeps those that are newer; it returns them to be passed on.
func (t *rowTable) take(raws [][]byte) (fresh map[perigee.NodeID][]byte) {
	fresh = map[perigee.NodeID][]byte{}
	for _, raw := range raws {
		id, kept, err := t.takeOne(raw, time.Now())
		switch {
		case err != nil:
			t.metrics.Rows.WithLabelValues("refused").Inc()
			t.logger.Debug("row refused", "err", err)
		case kept:
			t.metrics.Rows.WithLabelValues("new").Inc()
			fresh[id] = raw
		}
	}
	return fresh
}

func (t *rowTable) takeOne(raw []byte, now time.Time) (id perigee.NodeID, kept bool, err error) {
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
	s.raw = raw
	if row.Node == t.self {
		t.echo(m)
		return row.Node, false, nil
	}
	return row.Node, t.put(s, now), nil
}

// find returns the row held of a node, and whether m is no newer than what is known of it.
func (t *rowTable) find(m mark) (old *rowState, stale bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old = t.rows[m.Node]; old != nil {
		return old, !m.newer(markOf(&old.row))
	}
	gone, ok := t.gone[m.Node]
	return nil, ok && !m.newer(gone.mark)
}

// verify checks who signed the row and that it says nothing that would hurt a reader.
func (t *rowTable) verify(signed record.SignedRow, row perigee.Row, old *rowState, now time.Time) (*rowState, error) {
	s := &rowState{row: row, chain: signed.Chain}
	if old != nil && slices.EqualFunc(old.chain, signed.Chain, bytes.Equal) {
		s.claims, s.key, s.expires = old.claims, old.key, old.expires
	} else {
		claims, leaf, err := identity.VerifyNode(t.root, t.cluster, signed.Chain, now)
		if err != nil {
			return nil, err
		}
		key, ok := leaf.PublicKey.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("certificate with a %T, want an Ed25519 key", leaf.PublicKey)
		}
		s.claims, s.key, s.expires = claims, key, leaf.NotAfter
	}
	switch {
	case now.After(s.expires):
		return nil, fmt.Errorf("its certificate expired at %s", timeText(s.expires))
	case s.claims.ID != row.Node:
		return nil, fmt.Errorf("signed by node %s", s.claims.ID)
	case old != nil && !old.key.Equal(s.key):
		return nil, fmt.Errorf("a second node uses the name with another key: rename one of them")
	case t.auth().nodeRevoked(row.Node, s.key):
		return nil, fmt.Errorf("the node was revoked")
	}
	if bound := t.auth().nodes[row.Node]; bound != nil && !bound.Equal(s.key) {
		return nil, fmt.Errorf("the name belongs to another key")
	}
	if err := signed.VerifyRow(s.key); err != nil {
		return nil, err
	}
	return s, checkRow(&row)
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
	return nil
}

// put keeps a verified row, unless a newer one came in between.
func (t *rowTable) put(s *rowState, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
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

// putOwn keeps this node's own row, so that peers get it with the others.
func (t *rowTable) putOwn(raw []byte, row perigee.Row, node *identity.Node, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[row.Node] = &rowState{
		raw: raw, row: row, chain: node.Chain(), claims: node.Claims(), expires: node.Expires(),
		key: node.Key().Public().(ed25519.PublicKey), advanced: now,
	}
}

// marks returns how far the rows of all nodes are known here, sorted by node.
func (t *rowTable) marks() []mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	marks := make([]mark, 0, len(t.rows))
	for _, s := range t.rows {
		marks = append(marks, markOf(&s.row))
	}
	slices.SortFunc(marks, func(a, b mark) int { return cmp.Compare(a.Node, b.Node) })
	return marks[:min(len(marks), maxNodes)]
}

// compare returns the rows that somebody with these marks lacks, within the bounds of a message,
// and the nodes of which they know more.
func (t *rowTable) compare(theirs []mark) (rows [][]byte, want []perigee.NodeID) {
	known := make(map[perigee.NodeID]mark, len(theirs))
	for _, m := range theirs {
		known[m.Node] = m
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	size := 0
	for id, s := range t.rows {
		m, ok := known[id]
		if ok && !markOf(&s.row).newer(m) || len(rows) >= maxItems || size+len(s.raw) > maxBatch {
			continue
		}
		rows = append(rows, s.raw)
		size += len(s.raw)
	}
	for id, m := range known {
		have, ok := t.gone[id]
		if s := t.rows[id]; s != nil {
			have, ok = goneRow{mark: markOf(&s.row)}, true
		}
		if !ok || m.newer(have.mark) {
			want = append(want, id)
		}
	}
	return rows, want
}

// raws returns the encoded rows of some nodes, within the bounds of a message.
func (t *rowTable) raws(ids []perigee.NodeID) (rows [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
	t.mu.Lock()
	defer t.mu.Unlock()
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.rows[id]; s != nil {
		return s.key, true
	}
	return nil, false
}

// addrs returns the mesh addresses that the rows name.
func (t *rowTable) addrs() map[perigee.NodeID]rowAddr {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[perigee.NodeID]rowAddr, len(t.rows))
	for id, s := range t.rows {
		all[id] = rowAddr{s.row.Addr, s.row.Seq == lastWord}
	}
	return all
}
