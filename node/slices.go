package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/placement"
)

// This file is the sender's side of the bundles that nodes fetch from one another, slice by slice.

const (
	maxSends     = 256 // answers under way, of slices and of lists of them: each has a slice in memory at most
	maxPeerSends = 64  // to one node
	sendTime     = time.Minute
	listTime     = workTime // for which a list of what comes goes on
)

// sends counts the answers under way. It is safe for concurrent use.
type sends struct {
	mu     sync.Mutex // guards the fields below
	all    int
	byPeer map[perigee.NodeID]int
}

// begin takes a place; false = there is none.
func (s *sends) begin(to perigee.NodeID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxSends || s.byPeer[to] >= maxPeerSends {
		return false
	}
	s.all++
	s.byPeer[to]++
	return true
}

func (s *sends) end(to perigee.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byPeer[to]--; s.byPeer[to] == 0 {
		delete(s.byPeer, to)
	}
}

// sendable finds the revision whose bundle a peer asks for, and takes a place for the answer, or answers
// why the peer does not get it.
func (d *deployer) sendable(w http.ResponseWriter, r *http.Request) (rev *perigee.Revision, done func(), ok bool) {
	peer, ok := peerOf(r)
	if !ok {
		http.Error(w, "only nodes may fetch bundles", http.StatusForbidden)
		return nil, nil, false
	}
	rev, policy := d.revisionOf(r.PathValue("function"), perigee.RevisionID(r.PathValue("revision")))
	if rev == nil {
		http.Error(w, "no such revision here", http.StatusNotFound)
		return nil, nil, false
	}
	if rule, ok := placement.Allowed(policy, peer, d.gossip.View().Desired.Regions); !ok {
		http.Error(w, fmt.Sprintf("%s in %s may not hold it: %s", peer.ID, peer.Region, rule), http.StatusForbidden)
		return nil, nil, false
	}
	if !d.sends.begin(peer.ID) {
		http.Error(w, "too many slices are on their way: ask again in a moment", http.StatusServiceUnavailable)
		return nil, nil, false
	}
	return rev, func() { d.sends.end(peer.ID) }, true
}

// serveSlice sends one slice with its proof.
func (d *deployer) serveSlice(w http.ResponseWriter, r *http.Request) {
	rev, done, ok := d.sendable(w, r)
	if !ok {
		return
	}
	defer done()
	i, err := strconv.Atoi(r.PathValue("slice"))
	if err != nil {
		http.Error(w, "a slice has a number", http.StatusBadRequest)
		return
	}
	sealed, err := d.store.Slice(rev.Bundle, i)
	if err != nil {
		if errors.Is(err, bundle.ErrCorrupt) {
			d.log.Warn("serve a bundle", "function", rev.Manifest.Name, "err", err)
		}
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(sendTime)) // a mesh stream has one
	w.Header().Set("Content-Length", strconv.Itoa(len(sealed)))
	_, _ = w.Write(sealed)
}

// serveList sends the numbers of the slices that are here, and of the others as they come. It ends when
// all are here.
func (d *deployer) serveList(w http.ResponseWriter, r *http.Request) {
	rev, done, ok := d.sendable(w, r)
	if !ok {
		return
	}
	defer done()
	p := d.store.Coming(rev.Bundle)
	if p == nil {
		http.Error(w, "it is not coming here", http.StatusNotFound)
		return
	}
	conn := http.NewResponseController(w)
	_ = conn.SetWriteDeadline(time.Now().Add(listTime)) // a mesh stream has one
	for n := 0; ; {
		more, news, err := p.After(n)
		n += len(more)
		b := make([]byte, 0, 4*len(more))
		for _, i := range more {
			b = binary.BigEndian.AppendUint32(b, uint32(i))
		}
		if _, werr := w.Write(b); werr != nil || conn.Flush() != nil || n == p.Count() {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // no more come, and not all have
		}
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}
