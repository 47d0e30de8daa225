package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
)

const (
	renewEvery   = 10 * time.Minute // how often the certificate's age is looked at
	renewRetry   = time.Minute      // after a failure
	expiredRetry = 5 * time.Second  // and when the certificate has expired: no peer talks to this node
	renewAsk     = 8 * time.Second  // for one signer
	renewMost    = 16               // signers asked in one round
)

// renewer keeps this node's certificate young. A signer renews its own; any other node asks the
// signers it knows, over the join protocol, which works with a certificate of any age.
type renewer struct {
	dir    Dir
	m      *membership
	join   *joinServer
	gossip *gossip.Gossip
	seeds  []string
	log    *slog.Logger
}

func (r *renewer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		pause(ctx, r.look(ctx))
	}
	return nil
}

// look renews the certificate if it is time, and returns when to look again.
func (r *renewer) look(ctx context.Context) time.Duration {
	left := time.Until(r.m.identity.Expires())
	if left >= identity.NodeLifetime/2 {
		return renewEvery
	}
	if err := r.renew(ctx); err != nil {
		if ctx.Err() == nil {
			r.log.Warn("renew this node's certificate", "err", err, "expires", r.m.identity.Expires())
		}
		if left < 0 {
			return expiredRetry
		}
		return renewRetry
	}
	return renewEvery
}

// renew gets a new certificate and puts it into use.
func (r *renewer) renew(ctx context.Context) error {
	chain, err := r.issue(ctx)
	if err != nil {
		return err
	}
	if err := r.use(chain); err != nil {
		return err
	}
	r.log.Info("certificate renewed", "expires", r.m.identity.Expires())
	return nil
}

// use puts a certificate into use once it is on the disk.
func (r *renewer) use(chain [][]byte) error {
	fresh, err := identity.NewNode(r.m.genesis.Cluster, r.m.identity.Root(), r.m.identity.Key(), chain)
	if err != nil {
		return fmt.Errorf("the certificate that came back: %w", err)
	}
	switch was := r.m.identity; {
	case fresh.Claims().ID != was.Claims().ID:
		return fmt.Errorf("the certificate that came back names node %s", fresh.Claims().ID)
	case !fresh.Expires().After(was.Expires()):
		return errors.New("the certificate that came back is no younger than the old one")
	}
	if err := r.dir.saveChain(chain); err != nil {
		return err
	}
	return r.m.identity.SetChain(chain)
}

func (r *renewer) issue(ctx context.Context) ([][]byte, error) {
	old := r.m.identity.Chain()
	if r.m.signer != nil {
		return r.join.renewed(old, func(ed25519.PublicKey) error { return nil })
	}
	errs := []error{errors.New("no signer renewed it")}
	for _, addr := range r.signers() {
		chain, err := r.ask(ctx, addr, old)
		if err == nil {
			return chain, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	if len(errs) == 1 {
		errs = append(errs, errors.New("none is known: `perigee node ls` shows who is one"))
	}
	return nil, errors.Join(errs...)
}

// signers lists addresses to ask: known signers first, then the nodes that this one met at its join.
func (r *renewer) signers() []string {
	var out []string
	self := r.m.identity.Claims().ID
	for id, p := range r.gossip.View().Observed.Nodes {
		if id != self && p.HasRole(perigee.RoleSigner) {
			out = append(out, p.Addr.String())
		}
	}
	for _, addr := range r.seeds {
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out[:min(len(out), renewMost)]
}

func (r *renewer) ask(ctx context.Context, addr string, old [][]byte) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, renewAsk)
	defer cancel()
	s, err := openRenewal(ctx, r.m.identity.Root(), addr)
	if err != nil {
		return nil, err
	}
	defer s.close()
	var reply renewReply
	err = s.postSigned(ctx, "/renew", r.m.identity.Key(), nil, renewRequest{Chain: old}, &reply)
	return reply.Chain, err
}
