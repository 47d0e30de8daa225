package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

// joinServer answers machines and people that are not members yet. Every answer but the genesis and
// a name needs proofs that the bearer holds a token's key and the one that it is to become, or a
// certificate's key. Nothing of a token is used up before all checks are passed, and gossip sees to
// it that a token is used and a name given once.
type joinServer struct {
	self    perigee.NodeID
	m       *membership
	gossip  *gossip.Gossip
	reach   *reacher
	metrics *metrics
	log     *slog.Logger

	// Signatures checked a second, so that strangers cost little. What can be refused without is, and
	// those who have a token don't wait for those who have none.
	bearers, renewals *rate.Limiter
}

const (
	joinRate  = 50
	joinBurst = 100
	tokenWait = 2 * time.Second // for the record of a token that was made a moment ago
	maxNames  = 10_000          // tried to find a free one
)

func newJoinServer(m *membership, metrics *metrics, log *slog.Logger) *joinServer {
	return &joinServer{
		self: m.identity.Claims().ID, m: m, metrics: metrics, log: log,
		bearers: rate.NewLimiter(joinRate, joinBurst), renewals: rate.NewLimiter(joinRate, joinBurst),
	}
}

func (s *joinServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /genesis", func(w http.ResponseWriter, _ *http.Request) { w.Write(s.m.genesisRecord) })
	mux.Handle("POST /name", s.answer("name", s.name))
	mux.Handle("POST /join", s.answer("join", s.join))
	mux.Handle("POST /login", s.answer("login", s.login))
	mux.Handle("POST /renew", s.answer("renew", s.renew))
	mux.Handle("POST /standing", s.answer("standing", s.standing))
	return mux
}

// refused is an answer with a status and what the client may do next.
type refused struct {
	status int
	text   string
	dial   string // ask there
	taken  bool   // choose another name
	deaf   bool   // this node did not hear from the machine's address
}

func (e *refused) Error() string { return e.text }

func refuse(status int, format string, args ...any) *refused {
	return &refused{status: status, text: fmt.Sprintf(format, args...)}
}

func (s *joinServer) answer(kind string, f func(r *http.Request, body []byte) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, io.NopCloser(newPaced(w, r, time.Now().Add(stallTime))), maxJoinBody))
		if err != nil {
			err = refuse(http.StatusBadRequest, "bad request: %v", err)
		}
		var reply any
		if err == nil {
			reply, err = f(r, body)
		}
		s.metrics.joined(kind, err)
		status := http.StatusOK
		if err != nil {
			e := s.explain(err)
			s.log.Log(r.Context(), e.level(), "join refused", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
			status, reply = e.status, joinError{Error: e.text, Dial: e.dial, Taken: e.taken, Deaf: e.deaf}
		}
		b, err := record.Marshal(reply)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(status)
		w.Write(b)
	})
}

// explain turns any error into an answer. What went wrong inside is for this node's log.
func (s *joinServer) explain(err error) *refused {
	var e *refused
	var rule *gossip.RefusedError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &rule):
		return refuse(http.StatusConflict, "%s", rule.Text)
	}
	return refuse(http.StatusInternalServerError, "%s could not do it; its log says why", s.self)
}

// level is that of the log line: what strangers can cause at will is no news.
func (e *refused) level() slog.Level {
	switch e.status {
	case http.StatusBadRequest, http.StatusMisdirectedRequest, http.StatusTooManyRequests:
		return slog.LevelDebug
	case http.StatusInternalServerError:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// token returns the state of a token that the owner of public may redeem here now, or did.
func (s *joinServer) token(ctx context.Context, id perigee.KeyID, public []byte, want func(record.TokenKind) bool) (t gossip.TokenState, again bool, err error) {
	t, err = s.known(ctx, id)
	if err != nil {
		return t, false, err
	}
	again = t.Redeemed != nil && bytes.Equal(t.Redeemed.Public, public)
	switch {
	case !want(t.Token.Kind):
		return t, again, refuse(http.StatusForbidden, "this is a %s token: node tokens are for `perigee node run --join`, the others for `perigee login`", t.Token.Kind)
	case t.Revoked:
		return t, again, refuse(http.StatusForbidden, "this token was revoked: create another with `perigee token create`")
	case t.Redeemed != nil && !again:
		return t, again, refuse(http.StatusForbidden, "this token was used already (a token works once): create another with `perigee token create`")
	case !again && time.Now().After(t.Token.ExpiresAt()):
		return t, again, refuse(http.StatusForbidden, "this token expired at %s: create another with `perigee token create`", t.Token.ExpiresAt().UTC().Format(time.RFC3339))
	case t.Token.Signer != s.self:
		p := s.gossip.View().Observed.Nodes[t.Token.Signer]
		if p == nil || p.State != perigee.NodeAlive && p.State != perigee.NodeSuspect {
			return t, again, refuse(http.StatusServiceUnavailable, "only %s, for which this token was made, may redeem it, and it is not up: start it, or create a token for another", t.Token.Signer)
		}
		return t, again, &refused{status: http.StatusMisdirectedRequest, text: fmt.Sprintf("only %s may redeem this token", t.Token.Signer), dial: p.Addr.String()}
	case s.m.signer == nil:
		return t, again, refuse(http.StatusForbidden, "%s is not a signer and can't redeem tokens: create one for a signer", s.self)
	}
	return t, again, nil
}

// known returns a token's state, and waits a moment for a token that has just been made elsewhere.
func (s *joinServer) known(ctx context.Context, id perigee.KeyID) (t gossip.TokenState, err error) {
	if !await(ctx, s.gossip, tokenWait, func() (ok bool) { t, ok = s.gossip.Token(id); return ok && !t.Former }) {
		return t, refuse(http.StatusForbidden, "the cluster does not know this token: it may be of another cluster, or not have reached %s yet: try again, or create another", s.self)
	}
	return t, nil
}

func (s *joinServer) name(r *http.Request, body []byte) (any, error) {
	var req nameRequest
	if err := record.Unmarshal(body, &req); err != nil {
		return nil, refuse(http.StatusBadRequest, "bad request: %v", err)
	}
	t, err := s.known(r.Context(), req.Token)
	if err != nil {
		return nil, err
	}
	reply := nameReply{ID: req.Want, Region: t.Token.Region}
	switch {
	case t.Token.Kind != record.TokenNode:
		_, _, err := s.token(r.Context(), req.Token, nil, isNode)
		return nil, err
	case t.Redeemed != nil && bytes.Equal(t.Redeemed.Public, req.Public):
		if reply.ID = t.Redeemed.Node; req.Want != "" && req.Want != reply.ID {
			return nil, refuse(http.StatusConflict, "this token made this machine %s already: leave id out, or set it to that", reply.ID)
		}
		return reply, nil
	case req.Want != "":
		return reply, s.checkFree(req.Want)
	}
	for i := range maxNames {
		reply.ID = perigee.NodeID(fmt.Sprintf("%s-%d", t.Token.Region, i+1))
		if !s.taken(reply.ID) {
			return reply, nil
		}
	}
	return nil, refuse(http.StatusConflict, "%s-1 to %s-%d are taken: set an id in node.toml", t.Token.Region, t.Token.Region, maxNames)
}

func isNode(k record.TokenKind) bool { return k == record.TokenNode }

func isPerson(k record.TokenKind) bool { return k == record.TokenDeploy || k == record.TokenOperator }

func (s *joinServer) taken(id perigee.NodeID) bool {
	v := s.gossip.View()
	_, bound := s.gossip.NodeKey(id)
	return bound || v.Observed.Nodes[id] != nil || v.Desired.Revoked[id]
}

func (s *joinServer) checkFree(id perigee.NodeID) error {
	if err := perigee.CheckLabel(string(id)); err != nil {
		return refuse(http.StatusBadRequest, "node id: %v", err)
	}
	if s.taken(id) {
		return &refused{status: http.StatusConflict, taken: true, text: fmt.Sprintf(
			"the cluster has or had a node %q, and a name is bound to one key for ever: set another id in node.toml, or leave it out", id)}
	}
	return nil
}

// proofs are what a signed request proves, and on which connection.
type proofs struct {
	body, proof, owner []byte
	conn               tls.ConnectionState
}

// opened decodes a signed request into req and returns what its proofs cover.
func opened(r *http.Request, raw []byte, req any) (p proofs, err error) {
	var env signed
	if err := record.Unmarshal(raw, &env); err != nil {
		return p, refuse(http.StatusBadRequest, "bad request: %v", err)
	}
	if err := record.Unmarshal(env.Body, req); err != nil {
		return p, refuse(http.StatusBadRequest, "bad request: %v", err)
	}
	conn, ok := peerlink.TLSFrom(r.Context())
	if !ok {
		return p, refuse(http.StatusBadRequest, "this needs a connection of its own")
	}
	return proofs{env.Body, env.Proof, env.Owner, conn}, nil
}
