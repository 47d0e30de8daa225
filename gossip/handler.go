package gossip

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
)

const (
	// What one peer may have this node verify: a fresh node that everyone tells everything stays
	// below it, and what is above comes later, when states are compared.
	verifyRate  = 2000 // records and rows a second
	verifyBurst = 8192
	maxHandlers = 32 // messages worked on at once
)

// handler serves the control protocol.
type handler struct {
	*Gossip
	slots chan struct{}

	mu     sync.Mutex // guards limits
	limits map[perigee.NodeID]*rate.Limiter
}

// Handler serves the control protocol under /gossip/. It works before and after Run, too.
func (g *Gossip) Handler() http.Handler {
	return &handler{Gossip: g, slots: make(chan struct{}, maxHandlers), limits: map[perigee.NodeID]*rate.Limiter{}}
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
	reply, err := h.answer(peer.ID, r.URL.Path, body)
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
func (h *handler) answer(peer perigee.NodeID, path string, body []byte) ([]byte, error) {
	switch path {
	case pathSync:
		var ask syncAsk
		if err := decode(body, &ask); err != nil {
			return nil, err
		}
		return encode(h.tellSync(&ask))
	case pathIDs:
		var ask idsAsk
		if err := decode(body, &ask); err != nil {
			return nil, err
		}
		return encode(&idsTell{IDs: h.bucketIDs(ask.Buckets)})
	case pathGet:
		var ask getAsk
		if err := decode(body, &ask); err != nil {
			return nil, err
		}
		ids, _ := unpackDigests(ask.IDs)
		return encode(&getTell{Records: h.encoded(ids)})
	case pathPush:
		var ask pushAsk
		if err := decode(body, &ask); err != nil {
			return nil, err
		}
		tell, err := h.tellPush(peer, &ask)
		if err != nil {
			return nil, err
		}
		return encode(tell)
	}
	return nil, fmt.Errorf("%w: %.80q", errUnknownPath, path)
}

func (h *handler) tellSync(ask *syncAsk) *syncTell {
	tell := &syncTell{Version: wireVersion, Node: h.self, Now: time.Now().UnixMilli()}
	var sums []byte
	if tell.Root, sums = h.sums(); tell.Root != ask.Root {
		tell.Sums = sums
	}
	tell.Rows, tell.Want = h.rows.compare(ask.Marks)
	return tell
}

// tellPush stores what is new and passes it on. What is above the peer's rate is left out of the
// answer, so that the peer knows that it is not stored.
func (h *handler) tellPush(peer perigee.NodeID, ask *pushAsk) (*pushTell, error) {
	if !h.limiter(peer).AllowN(time.Now(), len(ask.Records)+len(ask.Rows)) {
		return &pushTell{}, nil
	}
	if rows := h.rows.take(ask.Rows); len(rows) > 0 {
		h.wakeObserver()
		if ask.Spread {
			h.spreadRows(rows, peer)
		}
	}
	held, fresh, err := h.take(ask.Records)
	h.noteFresh(fresh, peer, ask.Spread)
	if err != nil {
		return nil, err
	}
	return &pushTell{Held: packDigests(held)}, nil
}

// limiter returns the peer's own; peers are nodes with certificates, and few.
func (h *handler) limiter(peer perigee.NodeID) *rate.Limiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.limits[peer]
	if l == nil {
		if len(h.limits) >= maxNodes {
			clear(h.limits)
		}
		l = rate.NewLimiter(verifyRate, verifyBurst)
		h.limits[peer] = l
	}
	return l
}
