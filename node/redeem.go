package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// This file is what a joinServer does with a token: it makes of its bearer a node or a person.

// maxSeeds bounds the members that are named to a new one.
const maxSeeds = 32

// join makes a machine a node.
func (s *joinServer) join(r *http.Request, raw []byte) (any, error) {
	var req joinRequest
	p, err := opened(r, raw, &req)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	t, again, err := s.token(ctx, req.Token, req.Public, isNode)
	if err != nil {
		return nil, err
	}
	if err := s.checkBearer(t, p, req.Public, req.ID, req.Redeem); err != nil {
		return nil, err
	}
	desired := s.gossip.View().Desired
	switch {
	case again && (t.Redeemed.Node != req.ID || desired.Revoked[req.ID]):
		return nil, refuse(http.StatusConflict, "this token made this machine %s, which can't be changed: create another with `perigee token create`", t.Redeemed.Node)
	case !again:
		if err := s.checkFree(req.ID); err != nil {
			return nil, err
		}
	}
	if err := checkRegion(t.Token.Region, desired.Regions); err != nil {
		return nil, refuse(http.StatusConflict, "%v", err)
	}
	advertise, err := s.reachable(ctx, r.RemoteAddr, req.Advertise)
	if err != nil {
		return nil, err
	}
	claims := perigee.NodeClaims{ID: req.ID, Region: t.Token.Region, Zone: t.Token.Zone, Labels: t.Token.Labels, Roles: t.Token.Roles}
	reply, err := s.admission(claims, req.Public, advertise)
	if err != nil {
		return nil, err
	}
	if !again {
		err := s.redeem(ctx, &record.Redeem{Token: req.Token, Public: req.Public, Node: req.ID, Proof: req.Redeem})
		if gossip.RuleOf(err) == gossip.RuleUsed {
			err = cmp.Or(s.checkFree(req.ID), err) // another machine got the name a moment before
		}
		if err != nil {
			return nil, err
		}
	}
	s.log.Info("node joined", "peer", req.ID, "region", claims.Region, "addr", advertise)
	return reply, nil
}

// admission makes what a new member gets: certificate, secrets, members to talk to.
func (s *joinServer) admission(claims perigee.NodeClaims, public []byte, advertise netip.AddrPort) (reply joinReply, err error) {
	reply = joinReply{GossipKey: s.m.gossipKey, Advertise: advertise.String()}
	if reply.Chain, err = s.m.signer.IssueNode(s.m.genesis.Cluster, claims, public, time.Now()); err != nil {
		return reply, err
	}
	for _, p := range s.members() {
		reply.Seeds = append(reply.Seeds, seed{ID: p.ID, Addr: p.Addr.String()})
	}
	if claims.HasRole(perigee.RoleSigner) {
		if reply.Signer, err = s.m.signer.Marshal(); err != nil {
			return reply, err
		}
		reply.Web, err = s.m.web.Marshal()
	}
	return reply, err
}

// members returns some nodes that are up, this one first.
func (s *joinServer) members() (out []*perigee.Peer) {
	nodes := s.gossip.View().Observed.Nodes
	if p := nodes[s.self]; p != nil {
		out = append(out, p)
	}
	for id, p := range nodes {
		if id != s.self && p.Routable() && len(out) < maxSeeds {
			out = append(out, p)
		}
	}
	return out
}

// login makes a key one of the cluster's.
func (s *joinServer) login(r *http.Request, raw []byte) (any, error) {
	var req loginRequest
	p, err := opened(r, raw, &req)
	if err != nil {
		return nil, err
	}
	t, again, err := s.token(r.Context(), req.Token, req.Public, isPerson)
	if err != nil {
		return nil, err
	}
	if err := s.checkBearer(t, p, req.Public, "", req.Redeem); err != nil {
		return nil, err
	}
	if !again {
		if err := s.redeem(r.Context(), &record.Redeem{Token: req.Token, Public: req.Public, Proof: req.Redeem}); err != nil {
			return nil, err
		}
	}
	reply := loginReply{Key: record.KeyIDOf(req.Public), Role: string(t.Token.Kind)}
	for _, p := range s.members() {
		reply.Addrs = append(reply.Addrs, p.Addr.String())
	}
	s.log.Info("key added", "author", reply.Key, "role", reply.Role)
	return reply, nil
}

// checkBearer requires that the sender holds the token's seed and the key it is to become, now and on
// this connection, and that it binds the token to this key and name for good.
func (s *joinServer) checkBearer(t gossip.TokenState, p proofs, public []byte, id perigee.NodeID, redeem []byte) error {
	if len(public) != ed25519.PublicKeySize {
		return refuse(http.StatusBadRequest, "bad public key")
	}
	if !s.bearers.Allow() {
		return refuse(http.StatusTooManyRequests, "too many machines are joining at once: try again in a few seconds")
	}
	if err := identity.CheckJoinProof(t.Token.Public, p.conn, p.body, p.proof); err != nil {
		return refuse(http.StatusForbidden, "the proof does not fit the token: it may be cut or changed; copy the whole line")
	}
	if err := identity.CheckJoinProof(public, p.conn, p.body, p.owner); err != nil {
		return refuse(http.StatusForbidden, "the sender does not hold the key that the token is to become")
	}
	if !ed25519.Verify(t.Token.Public, record.RedeemMessage(s.m.genesis.Cluster, public, id), redeem) {
		return refuse(http.StatusForbidden, "the token's signature does not fit the new key")
	}
	return nil
}

// redeem records, on disk here and on another node where there is one, whom a token became. It ends
// what it has begun, though the client may be gone.
func (s *joinServer) redeem(ctx context.Context, p *record.Redeem) error {
	p.Chain = s.m.identity.Chain()
	_, b, err := record.Sign(s.m.identity.Key(), s.m.genesis.Cluster, s.m.epoch, s.gossip.Now(), nil, p)
	if err != nil {
		return err
	}
	_, err = s.gossip.Submit(context.WithoutCancel(ctx), b)
	return err
}

// reachable dials the joining node's mesh port back, from here and from a few other members.
func (s *joinServer) reachable(ctx context.Context, remote, advertise string) (netip.AddrPort, error) {
	seen, err := netip.ParseAddrPort(remote)
	if err != nil {
		return seen, fmt.Errorf("address %q of the joining node: %w", remote, err)
	}
	addr := netip.AddrPortFrom(seen.Addr().Unmap().WithZone(""), seen.Port())
	if advertise != "" {
		if addr, err = parseAdvertise(advertise, addr.Addr()); err != nil {
			return addr, refuse(http.StatusBadRequest, "%v", err)
		}
	}
	if addr.Addr().IsLoopback() && !seen.Addr().Unmap().IsLoopback() {
		return addr, refuse(http.StatusBadRequest, "advertise = %q: other machines can't reach a loopback address", advertise)
	}
	return addr, s.reach.check(ctx, addr)
}
