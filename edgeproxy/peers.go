package edgeproxy

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	missPenalty = time.Second     // for a revision that the node says it does not run
	missFor     = 2 * time.Second // by then the View knows better
	lostPenalty = 100 * time.Millisecond
	maxPenalty  = 2 * time.Second
	penaltyHalf = 2 * time.Second // half-life
	busyPenalty = 50 * time.Millisecond

	maxRevisions = 256 // facts per peer
)

// peers is the table of what this node knows about others besides the View: what it has sent them,
// what they said last, and how they failed. It keeps no node that the View has dropped. All of it
// is about requests, so it belongs to the front and nobody else reads it.
type peers struct {
	mu    sync.Mutex // serialises changes of the map
	table atomic.Pointer[map[perigee.NodeID]*peer]
}

// peer is what is known about one node.
type peer struct {
	mu        sync.Mutex // guards all below
	ejection  placement.Ejection
	revisions map[perigee.RevisionID]*peerRevision
}

// peerRevision is what is known about one revision on one node. Penalties are here and not with the
// node, so that a function that crashes in the middle of responses harms no other.
type peerRevision struct {
	ledger      placement.Ledger
	penalty     time.Duration // as of penaltyAt; it decays
	penaltyAt   time.Time
	missedUntil time.Time // it said that it does not run this
}

func newPeers() *peers {
	t := &peers{}
	t.table.Store(&map[perigee.NodeID]*peer{})
	return t
}

// fact fills in what the table knows about a revision on a node.
func (t *peers) fact(f *placement.Fact, id perigee.NodeID, rev perigee.RevisionID, now time.Time) {
	p := (*t.table.Load())[id]
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.EjectedUntil = p.ejection.Until(now)
	if r := p.revisions[rev]; r != nil {
		r.ledger.Fill(f)
		f.Penalty = r.penaltyNow(now)
		if now.Before(r.missedUntil) {
			f.Penalty = max(f.Penalty, missPenalty)
		}
	}
}

func (r *peerRevision) penaltyNow(now time.Time) time.Duration {
	if r.penalty == 0 {
		return 0
	}
	left := r.penalty >> min(62, max(0, now.Sub(r.penaltyAt)/penaltyHalf))
	if left < time.Millisecond {
		return 0
	}
	return left
}

func (r *peerRevision) addPenalty(d time.Duration, now time.Time) {
	r.penalty, r.penaltyAt = min(maxPenalty, r.penaltyNow(now)+d), now
}

// get returns the entry of a node, and makes one if there is none. known is the View's nodes: when
// an entry is added, those that the View has dropped go.
func (t *peers) get(id perigee.NodeID, known map[perigee.NodeID]*perigee.Peer) *peer {
	if p := (*t.table.Load())[id]; p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := (*t.table.Load())[id]; p != nil {
		return p
	}
	table := maps.Clone(*t.table.Load())
	maps.DeleteFunc(table, func(id perigee.NodeID, _ *peer) bool { return known[id] == nil })
	p := &peer{revisions: map[perigee.RevisionID]*peerRevision{}}
	table[id] = p
	t.table.Store(&table)
	return p
}

// revisionLocked returns the facts about a revision. When there are too many, those go that nothing
// is in flight for.
func (p *peer) revisionLocked(rev perigee.RevisionID) *peerRevision {
	r := p.revisions[rev]
	if r == nil {
		if len(p.revisions) >= maxRevisions {
			maps.DeleteFunc(p.revisions, func(_ perigee.RevisionID, r *peerRevision) bool { return r.ledger.Idle() })
		}
		r = &peerRevision{}
		p.revisions[rev] = r
	}
	return r
}

// trip is one request sent to a node. Its methods are for one goroutine; done must be called once.
type trip struct {
	peer     *peer
	rev      *peerRevision
	began    time.Time
	trying   bool // it tries a node whose ejection is over
	accepted bool // guarded by peer.mu
}

// begin counts a request to a node. It returns false, and counts nothing, if the node's ejection has
// just ended and another request is trying it; with force it does not.
func (t *peers) begin(id perigee.NodeID, rev perigee.RevisionID, known map[perigee.NodeID]*perigee.Peer, now time.Time, force bool) (trip, bool) {
	p := t.get(id, known)
	p.mu.Lock()
	defer p.mu.Unlock()
	trying, ok := p.ejection.Begin(now, force)
	if !ok {
		return trip{}, false
	}
	tr := trip{peer: p, rev: p.revisionLocked(rev), began: now, trying: trying}
	tr.rev.ledger.Sent()
	return tr, true
}

// took notes that the node accepted the request, with the load it had then.
func (tr *trip) took(l perigee.Load, now time.Time) {
	tr.peer.mu.Lock()
	defer tr.peer.mu.Unlock()
	if !tr.accepted {
		tr.accepted = true
		tr.rev.ledger.Accepted()
	}
	tr.rev.ledger.Reported(l, now)
	tr.peer.ejection.Lives()
}

// taken is took where nothing said so at once: the head of the response is there.
func (tr *trip) taken(l perigee.Load, now time.Time) {
	tr.peer.mu.Lock()
	said := tr.accepted
	tr.peer.mu.Unlock()
	if !said {
		tr.took(l, now)
	}
}

// report keeps what the node said about its load; the zero Load says nothing.
func (tr *trip) report(l perigee.Load, now time.Time) {
	tr.peer.mu.Lock()
	tr.rev.ledger.Reported(l, now)
	tr.peer.mu.Unlock()
}

// answered notes that the node lives.
func (tr *trip) answered() {
	tr.peer.mu.Lock()
	tr.peer.ejection.Lives()
	tr.rev.penalty, tr.rev.missedUntil = 0, time.Time{}
	tr.peer.mu.Unlock()
}

// refused notes that the node did not take the request.
func (tr *trip) refused(e *perigee.HopError, now time.Time) {
	if e.Load != nil {
		tr.report(*e.Load, now)
	}
	p := tr.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Code {
	case perigee.RefusedUnreachable, perigee.RefusedSilent:
		p.ejection.Silent(tr.began, now)
	case perigee.RefusedDraining:
		p.ejection.Leaves(now)
	case perigee.RefusedNotHere, perigee.RefusedNotAllowed:
		p.ejection.Lives()
		tr.rev.missedUntil = now.Add(missFor)
	case perigee.RefusedOverloaded:
		p.ejection.Lives()
		if e.Load == nil {
			tr.rev.addPenalty(busyPenalty, now)
		}
	case perigee.RefusedDeadline:
		p.ejection.Lives()
	}
}

// lost notes that the request failed after the node had taken it.
func (tr *trip) lost(now time.Time) {
	tr.peer.mu.Lock()
	tr.rev.addPenalty(lostPenalty, now)
	tr.peer.mu.Unlock()
}

// done ends the trip.
func (tr *trip) done() {
	tr.peer.mu.Lock()
	tr.rev.ledger.Ended(tr.accepted)
	if tr.trying {
		tr.peer.ejection.Tried()
	}
	tr.peer.mu.Unlock()
}
