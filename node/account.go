package node

import (
	"context"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
)

func (s *issuer) accountName() perigee.WebName {
	return perigee.WebName{Item: perigee.WebAccount, Name: s.directory()}
}

// account returns the cluster's account with the CA.
func (s *issuer) account() (*acme.Account, error) {
	e := s.gossip.View().Desired.Web[s.accountName()]
	if e == nil {
		return nil, errBusy // the issuer responsible for it makes it
	}
	a := &acme.Account{}
	if ok, err := s.m.unseal(e, a); err != nil || ok {
		return a, err
	}
	return nil, errBusy // another hands it on
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
