package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	standingEvery = 5 * time.Second // between two questions
	standingMost  = 8               // nodes asked in one round
)

// standing finds out why peers refuse this node. A node that was removed while it was cut off can't hear of
// it from gossip, since nobody takes a connection of it any more; so it asks over the join protocol, which
// takes anybody, and stores the signed record that it is shown. That record is the proof: a peer that only
// says so ends nobody. One whose cluster was restored from a backup meanwhile is shown the record that began
// the new epoch.
type standing struct {
	m      *membership
	gossip *gossip.Gossip
	addrs  func() []string // of nodes that may know
	log    *slog.Logger

	refused chan struct{} // one place: a peer refused this node
}

// noteRefusal looks at what a call to a peer failed with. It does not block.
func (s *standing) noteRefusal(err error) {
	if !errors.Is(err, peerlink.ErrIdentityRefused) && !errors.Is(err, identity.ErrOtherCA) {
		return
	}
	select {
	case s.refused <- struct{}{}:
	default:
	}
}

// run asks after refusals until ctx ends. Its error is ErrSuperseded.
func (s *standing) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.refused:
		}
		err := s.learn(ctx)
		if errors.Is(err, ErrSuperseded) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("ask why peers refuse this node", "err", err)
		}
		pause(ctx, standingEvery)
	}
}

// learn asks nodes until one answers, and stores what it shows.
func (s *standing) learn(ctx context.Context) error {
	errs := []error{errors.New("nobody answered")}
	for i, addr := range s.addrs() {
		if i == standingMost {
			break
		}
		reply, err := s.ask(ctx, addr)
		if err == nil && len(reply.Records) > 0 {
			_, err = s.gossip.Submit(ctx, reply.Records...)
		}
		if err == nil || errors.Is(err, ErrSuperseded) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return errors.Join(errs...)
}

func (s *standing) ask(ctx context.Context, addr string) (reply standingReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, renewAsk)
	defer cancel()
	session, err := openRenewal(ctx, s.m.identity.Root(), addr)
	if errors.Is(err, identity.ErrOtherCA) {
		err = s.successor(ctx, addr, err)
	}
	if err != nil {
		return reply, err
	}
	defer session.close()
	return reply, session.postSigned(ctx, "/standing", s.m.identity.Key(), nil, standingRequest{Chain: s.m.identity.Chain()}, &reply)
}

// successor returns ErrSuperseded if the node at the address is of a later epoch of this node's cluster, which
// an operator began, and other otherwise.
func (s *standing) successor(ctx context.Context, addr string, other error) error {
	now, err := laterEpoch(ctx, addr, s.m.genesisDigest, func(key ed25519.PublicKey) bool {
		p, ok := s.gossip.Person(record.KeyIDOf(key))
		return ok && p.Role == record.TokenOperator
	})
	if err != nil {
		return fmt.Errorf("%w; %w", other, err)
	}
	return fmt.Errorf("%w: it is in epoch %d, and this node is of epoch %d", ErrSuperseded, now.Number, s.m.epoch)
}

// standing shows the owner of a certificate, of any age, the records that ended its membership.
func (s *joinServer) standing(r *http.Request, raw []byte) (any, error) {
	var req standingRequest
	p, err := opened(r, raw, &req)
	if err != nil {
		return nil, err
	}
	if !s.renewals.Allow() {
		return nil, refuse(http.StatusTooManyRequests, "too many nodes ask at once: try again in a few seconds")
	}
	claims, leaf, err := identity.VerifyNode(s.m.identity.Root(), s.m.genesis.Cluster, req.Chain, time.Time{})
	if err != nil {
		return nil, refuse(http.StatusForbidden, "standing: %v", err)
	}
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || identity.CheckJoinProof(key, p.conn, p.body, p.proof) != nil {
		return nil, refuse(http.StatusForbidden, "standing: the proof does not fit the certificate's key")
	}
	return standingReply{Records: s.gossip.Revocations(claims.ID, key)}, nil
}

// knownAddrs lists addresses of other nodes: where they are now, then where they were at the join.
func (n *Node) knownAddrs() (addrs []string) {
	for _, p := range byID(n.View().Observed.Nodes) {
		if p.ID != n.ID() && p.Addr.IsValid() {
			addrs = append(addrs, p.Addr.String())
		}
	}
	return append(addrs, n.seeds.addrs()...)
}
