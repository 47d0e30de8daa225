package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/internal/identity"
)

func (s *issuer) accountName() perigee.WebName {
	return perigee.WebName{Item: perigee.WebAccount, Name: s.directory()}
}

// account returns the cluster's account with the CA, as it was shared last.
func (s *issuer) account() (*acme.Account, *perigee.WebEntry, error) {
	e := s.gossip.View().Desired.Web[s.accountName()]
	if e == nil {
		return nil, nil, errBusy // the issuer responsible for it makes it
	}
	a := &acme.Account{}
	if ok, err := s.m.unseal(e, a); err != nil || ok {
		return a, e, err
	}
	return nil, nil, errBusy // another hands it on
}

// register makes the cluster's account, unless another issuer did meanwhile.
func (s *issuer) register(ctx context.Context) error {
	if s.orderedElsewhere(ctx, s.directory()) {
		return errBusy
	}
	if s.gossip.View().Desired.Web[s.accountName()] != nil {
		return nil
	}
	a, err := s.client.Load().Register(ctx)
	if err != nil {
		return err
	}
	s.log.Info("account made with the public CA", "url", a.URL)
	return s.share(ctx, s.accountName(), time.Time{}, a)
}

// rekeyDue reports whether this issuer is to give the account another key: a node that was removed knows the one it has,
// or somebody began to and did not end it.
func (s *issuer) rekeyDue(view *perigee.View) bool {
	e := view.Desired.Web[s.accountName()]
	if e == nil || s.directory() == "" {
		return false
	}
	if s.opened == nil || s.opened.Version != e.Version || s.opened.By != e.By {
		var a acme.Account
		ok, err := s.m.unseal(e, &a)
		s.opened, s.halfway = e, ok && err == nil && a.Next != nil
	}
	if !s.halfway && !leaked(view, e) {
		return false
	}
	env, err := identity.ParseEnvelope(e.Sealed)
	return err == nil && giver(view, e.Name, env) == s.self()
}

// rekey gives the account another key. That is shared before the CA hears of it, so that it is not lost with this node.
func (s *issuer) rekey(ctx context.Context) error {
	if s.orderedElsewhere(ctx, s.directory()) {
		return errBusy
	}
	a, e, err := s.account()
	if err != nil {
		return err
	}
	known := leaked(s.gossip.View(), e)
	if a.Next == nil && !known {
		return nil
	}
	if a.Next != nil {
		if a, err = s.changeKey(ctx, a); err != nil {
			return err
		}
	}
	if known { // and so is the next one, if there was one
		if a, err = a.WithNext(); err != nil {
			return err
		}
		if err := s.share(ctx, s.accountName(), time.Time{}, a); err != nil {
			return err
		}
		if a, err = s.changeKey(ctx, a); err != nil {
			return err
		}
	}
	if err := s.shareSeen(ctx, s.accountName(), time.Time{}, a); err != nil {
		return err
	}
	s.log.Info("the account with the public CA has another key", "url", a.URL)
	return nil
}

// changeKey has the CA know the account by its next key. Where that can't be any more, there is another account.
func (s *issuer) changeKey(ctx context.Context, a *acme.Account) (*acme.Account, error) {
	changed, err := s.client.Load().ChangeKey(ctx, a)
	if errors.Is(err, acme.ErrAccountLost) {
		s.log.Warn("another account is made with the public CA", "err", err)
		return s.client.Load().Register(ctx)
	}
	return changed, err
}

// adopt takes over the CA that another issuer has shared the account of, if this node's settings have none: one
// node's are enough.
func (s *issuer) adopt(view *perigee.View) {
	if s.own {
		return
	}
	var latest *perigee.WebEntry
	for name, e := range view.Desired.Web {
		if name.Item == perigee.WebAccount && (latest == nil || e.Created.After(latest.Created)) {
			latest = e
		}
	}
	if has := s.client.Load(); latest == nil || has != nil && has.Config().Directory == latest.Name {
		return
	}
	var a acme.Account
	ok, err := s.m.unseal(latest, &a)
	if err == nil && ok {
		a.CA.Logger, a.CA.Agent = s.log, "perigee/"+perigee.Version
		var client *acme.Client
		if client, err = acme.New(a.CA); err == nil {
			s.client.Store(client)
		}
	}
	if err != nil {
		s.log.Warn("take over the public CA from another issuer", "err", err)
	}
}

// directory returns the URL of the CA's directory; "" = no CA is known.
func (s *issuer) directory() string {
	if c := s.client.Load(); c != nil {
		return c.Config().Directory
	}
	return ""
}

// rank is this node's place among the issuers: they take turns to make the account, since not all may know
// a CA.
func (s *issuer) rank(view *perigee.View) int { return max(0, slices.Index(issuers(view), s.self())) }
