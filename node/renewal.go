package node

import (
	"crypto/ed25519"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee/internal/identity"
)

// renew serves a node that is not this one.
func (s *joinServer) renew(r *http.Request, raw []byte) (any, error) {
	var req renewRequest
	p, err := opened(r, raw, &req)
	if err != nil {
		return nil, err
	}
	if s.m.signer == nil {
		return nil, refuse(http.StatusForbidden, "%s is not a signer", s.self)
	}
	if !s.renewals.Allow() {
		return nil, refuse(http.StatusTooManyRequests, "too many certificates are being renewed at once: try again in a few seconds")
	}
	chain, err := s.renewed(req.Chain, func(pub ed25519.PublicKey) error { return identity.CheckJoinProof(pub, p.conn, p.body, p.proof) })
	return renewReply{Chain: chain}, err
}

// renewed issues a new certificate with the claims and the key of an old one, of any age.
func (s *joinServer) renewed(old [][]byte, prove func(ed25519.PublicKey) error) ([][]byte, error) {
	claims, leaf, err := identity.VerifyNode(s.m.identity.Root(), s.m.genesis.Cluster, old, time.Time{})
	if err != nil {
		return nil, refuse(http.StatusForbidden, "renew: %v", err)
	}
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, refuse(http.StatusForbidden, "renew: the certificate's key is not Ed25519")
	}
	if err := prove(pub); err != nil {
		return nil, refuse(http.StatusForbidden, "renew: the proof does not fit the certificate's key")
	}
	if s.gossip.View().Desired.Revoked[claims.ID] {
		return nil, refuse(http.StatusForbidden, "renew: node %s was removed from the cluster: join again with a token and another id", claims.ID)
	}
	if key, bound := s.gossip.NodeKey(claims.ID); bound && !key.Equal(pub) {
		return nil, refuse(http.StatusForbidden, "renew: the name %s belongs to another machine's key: join again with a token and another id", claims.ID)
	}
	return s.m.signer.IssueNode(s.m.genesis.Cluster, claims, pub, time.Now())
}
