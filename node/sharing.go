package node

import (
	"context"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

// share seals something to the nodes that may have it, and writes it into the state.
func (s *issuer) share(ctx context.Context, name perigee.WebName, expires time.Time, v any) error {
	_, err := s.put(ctx, name, expires, v)
	return err
}

// shareSeen shares something, and returns when the View has it.
func (s *issuer) shareSeen(ctx context.Context, name perigee.WebName, expires time.Time, v any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := s.gossip.Watch(ctx)
	version, err := s.put(ctx, name, expires, v)
	for err == nil {
		if e := s.gossip.View().Desired.Web[name]; e != nil && e.Version >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return err
}

// put is share. It returns the version.
func (s *issuer) put(ctx context.Context, name perigee.WebName, expires time.Time, v any) (version uint64, err error) {
	text, err := acme.Pack(v)
	if err != nil {
		return 0, err
	}
	p := &record.Web{Item: name.Item, Name: name.Name, Version: uint64(time.Now().UnixMicro()), Chain: s.m.identity.Chain()}
	if !expires.IsZero() {
		p.Expires = expires.Unix()
	}
	env, err := identity.Seal(text, s.recipients(s.gossip.View(), name), s.m.sealContext(name, p.Version))
	if err != nil {
		return 0, err
	}
	if p.Sealed, err = env.Marshal(); err != nil {
		return 0, err
	}
	_, b, err := record.Sign(s.m.identity.Key(), s.m.genesis.Cluster, s.m.epoch, s.gossip.Now(), nil, p)
	if err != nil {
		return 0, err
	}
	_, err = s.gossip.Submit(context.WithoutCancel(ctx), b)
	return p.Version, err
}

// recipients are the nodes that may have something: issuers what they order with; and certificates and ticket keys all
// nodes that the residency of the functions behind its name allows, and no others.
func (s *issuer) recipients(view *perigee.View, name perigee.WebName) (out []identity.Recipient) {
	for id, p := range view.Observed.Nodes {
		if len(p.Sealing) == 0 || view.Desired.Revoked[id] {
			continue
		}
		if id != s.self() && (p.State == perigee.NodeDead || p.State == perigee.NodeLeft) {
			continue
		}
		if ofIssuers(name.Item) && !p.HasRole(perigee.RoleIssuer) {
			continue
		}
		if !ofIssuers(name.Item) {
			if _, ok := placement.Terminates(view.Desired, name.Name, p.NodeClaims); !ok {
				continue
			}
		}
		out = append(out, identity.Recipient{Node: id, Key: p.Sealing})
	}
	return out
}

// ofIssuers reports whether an item is for issuers, wherever they are, and nobody else.
func ofIssuers(item perigee.WebItem) bool {
	return item == perigee.WebAccount || item == perigee.WebOrders
}

// strays are the nodes that something is sealed to and that may not have it any more: they were removed, or a residency
// came, or became narrower, after it was shared. What they know can't be taken back, so another key is needed.
func strays(view *perigee.View, e *perigee.WebEntry) (ids []perigee.NodeID) {
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil || e.Item == perigee.WebOrders {
		return nil // gossip takes none of those in, or it is no secret
	}
	for _, w := range env.Keys {
		gone := view.Desired.Revoked[w.Node]
		if p := view.Observed.Nodes[w.Node]; p != nil && e.Item != perigee.WebAccount && !gone {
			_, in := placement.Terminates(view.Desired, e.Name, p.NodeClaims)
			gone = !in
		}
		if gone {
			ids = append(ids, w.Node)
		}
	}
	return ids
}

// leaked reports whether something is known where it may not be.
func leaked(view *perigee.View, e *perigee.WebEntry) bool { return len(strays(view, e)) > 0 }

// giver returns the issuer that hands something on: of those that can open it. The one responsible for its name may
// have come, or come back, after it was sealed.
func giver(view *perigee.View, name string, env *identity.Envelope) perigee.NodeID {
	return responsibleOf(view, name, slices.DeleteFunc(issuers(view), func(id perigee.NodeID) bool { return !env.SealedTo(id) }))
}

// owed are the things that this issuer is to seal to nodes that came later. What a node knows that may not know it gets another key
// first, where there is a CA: sealed again, nothing would say any more that it must.
func (s *issuer) owed(view *perigee.View) (list []*perigee.WebEntry) {
	for name, e := range view.Desired.Web {
		if !e.Expires.IsZero() && time.Now().After(e.Expires) || s.client.Load() != nil && leaked(view, e) {
			continue
		}
		env, err := identity.ParseEnvelope(e.Sealed)
		if err != nil || giver(view, name.Name, env) != s.self() {
			continue
		}
		if slices.ContainsFunc(s.recipients(view, name), func(r identity.Recipient) bool { return !env.SealedTo(r.Node) }) {
			list = append(list, e)
		}
	}
	return list
}

// handOn seals what is shared already to nodes that came later.
func (s *issuer) handOn(ctx context.Context, view *perigee.View) {
	for _, e := range s.owed(view) {
		name := e.WebName
		var v any = &acme.Certificate{}
		switch name.Item {
		case perigee.WebAccount:
			v = &acme.Account{}
		case perigee.WebTickets:
			v = &ticketKeys{}
		case perigee.WebOrders:
			v = &orderTimes{}
		}
		ok, err := s.m.unseal(e, v)
		if err == nil && ok {
			err = s.share(ctx, name, e.Expires, v)
			if err == nil {
				s.log.Info("handed on to new nodes", "item", string(name.Item), "host", name.Name)
				continue
			}
		}
		s.log.Warn("hand on to new nodes", "item", string(name.Item), "host", name.Name, "err", err)
	}
}
