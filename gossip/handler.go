package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee"
)

const maxHandlers = 32 // messages worked on at once

// handler serves the control protocol.
type handler struct {
	*Gossip
	slots chan struct{}
}

// Handler serves the control protocol under /gossip/. It works before and after Run, too.
func (g *Gossip) Handler() http.Handler {
	return &handler{Gossip: g, slots: make(chan struct{}, maxHandlers)}
}

// ServeHTTP answers one message of a node of the cluster.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peer, ok := h.conf.Peer(r)
	switch {
	case !ok:
		http.Error(w, "gossip is for nodes of the cluster only", http.StatusForbidden)
		return
	case h.folded.Load().desired.Revoked[peer.ID]:
		http.Error(w, fmt.Sprintf("node %s was revoked", peer.ID), http.StatusForbidden)
		return
	case r.Method != http.MethodPost:
		http.Error(w, "gossip takes POST", http.StatusMethodNotAllowed)
		return
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		http.Error(w, "too many gossip messages at once: try again", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if err != nil {
		http.Error(w, fmt.Sprintf("read gossip message: %v", err), http.StatusBadRequest)
		return
	}
	h.members.heard(peer.ID, time.Now())
	reply, err := h.answer(r.Context(), peer.ID, r.URL.Path, body)
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/cbor")
	_, _ = w.Write(reply) // the peer notices a short answer
}

var errUnknownPath = errors.New("no such gossip message")

func statusOf(err error) int {
	switch {
	case errors.Is(err, errUnknownPath):
		return http.StatusNotFound
	case RuleOf(err) == RuleStorage:
		return http.StatusInsufficientStorage
	}
	return http.StatusBadRequest
}

// answer handles one message.
func (g *Gossip) answer(ctx context.Context, peer perigee.NodeID, path string, body []byte) ([]byte, error) {
	m := newAsk(path)
	if m == nil {
		return nil, fmt.Errorf("%w: %.80q", errUnknownPath, path)
	}
	if err := decode(body, m); err != nil {
		return nil, err
	}
	reply, err := ask(ctx, g, g.replies, func(number uint64) Event { return Asked{peer, number, m} })
	if err := cmp.Or(err, reply.Err); err != nil {
		return nil, err
	}
	return encode(reply.Message)
}
