package node

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/placement"
)

// issuer orders web certificates from a public CA, and seals them to the nodes that answer for their
// hosts. Of the nodes with this role, each name has one that is responsible for it while it is up, by
// rendezvous hashing; it orders only for hosts that functions answer at, so that no client can cause an
// order. In a partition each side may order: one certificate too many.
//
// Control paths on the mesh, for members:
//
//	GET /web/challenges?host=H   the open challenges about a host
//	GET /web/orders              what this node knows of its orders, by name
//	POST /web/renew?name=N       order N anew, if this node is responsible
type issuer struct {
	m      *membership
	gossip *gossip.Gossip
	fetch  func(ctx context.Context, from perigee.NodeID, path string) ([]byte, error)
	log    *slog.Logger
	client atomic.Pointer[acme.Client] // nil = no CA is known: certificates are only handed on
	own    bool                        // the CA is one of this node's settings
	wanted time.Time                   // since when there is no account, though one is needed; of run's goroutine

	slots chan struct{} // for orders
	wg    sync.WaitGroup
	wake  chan struct{} // asks for a look

	mu     sync.Mutex // guards orders and what they point to
	orders map[string]*order
}

// order is what is known of a name that this node is responsible for.
type order struct {
	Running bool      `json:"running,omitempty"`
	Error   string    `json:"error,omitempty"` // of the last try
	Next    time.Time `json:"next,omitzero"`   // no try before this

	fails   int
	made    []time.Time // orders of the last day
	forced  bool
	version uint64    // of the certificate that renew is of
	renew   time.Time // when that one is to be replaced
	asked   time.Time // when the CA is to be asked again
}

const (
	issuerEvery  = 10 * time.Second // between looks at the clock
	issuerStart  = 2 * time.Second  // for the View to fill after a start
	orderTime    = 4 * time.Minute
	orderMost    = 4  // at once
	orderDaily   = 10 // of one name: a CA's limits are near this
	busyWait     = time.Second
	accountTurn  = 3 * time.Second // for each issuer in turn
	firstBackoff = 30 * time.Second
	lastBackoff  = 2 * time.Hour
	issuerAsk    = time.Second // for one other issuer
)

func newIssuer(n *Node, client *acme.Client) *issuer {
	s := &issuer{
		m: n.m, gossip: n.gossip, fetch: n.fetchControl, own: client != nil, log: n.log,
		orders: map[string]*order{}, slots: make(chan struct{}, orderMost), wake: make(chan struct{}, 1),
	}
	s.client.Store(client)
	return s
}

func (s *issuer) self() perigee.NodeID { return s.m.identity.Claims().ID }

// run orders and hands on until ctx ends.
func (s *issuer) run(ctx context.Context) error {
	if !s.m.identity.Claims().HasRole(perigee.RoleIssuer) {
		<-ctx.Done()
		return nil
	}
	defer s.wg.Wait()
	pause(ctx, issuerStart)
	changed := s.gossip.Watch(ctx)
	tick := time.NewTicker(issuerEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		again := s.look(ctx, time.Now())
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-tick.C:
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// look begins what is due, and returns when to look again at the latest.
func (s *issuer) look(ctx context.Context, now time.Time) time.Duration {
	again := issuerEvery
	view := s.gossip.View()
	s.adopt(view)
	begin := func(name string, e *perigee.WebEntry, f func(ctx context.Context, o *order) error) {
		s.mu.Lock()
		o := s.orders[name]
		if o == nil {
			o = &order{}
			s.orders[name] = o
		}
		if e != nil && exposed(view, e) {
			o.version = 0 // what is known of when to renew it no longer counts
		}
		wait := s.dueLocked(o, e, now)
		s.mu.Unlock()
		if wait > 0 {
			again = min(again, wait)
			return
		}
		s.wg.Go(func() { s.try(ctx, name, o, f) })
	}
	names := s.names(view)
	switch {
	case len(names) == 0 || view.Desired.Web[s.accountName()] != nil:
		s.wanted = time.Time{}
	case s.wanted.IsZero():
		s.wanted, again = now, 0
	case now.Sub(s.wanted) >= time.Duration(s.rank(view))*accountTurn:
		begin(s.directory(), nil, func(ctx context.Context, _ *order) error { return s.register(ctx) })
	default:
		again = accountTurn
	}
	for _, name := range names {
		if s.responsible(view, name) != s.self() {
			continue
		}
		e := view.Desired.Web[perigee.WebName{Item: perigee.WebCertificate, Name: name}]
		begin(name, e, func(ctx context.Context, o *order) error { return s.orderIfDue(ctx, name, o, e) })
	}
	s.handOn(ctx, view)
	return max(again, 50*time.Millisecond)
}

// names are those that want a certificate from the CA.
func (s *issuer) names(view *perigee.View) (names []string) {
	client := s.client.Load()
	if client == nil {
		return nil
	}
	domain := ""
	if client.Config().DNS != nil {
		domain = view.Desired.Domain
	}
	for host := range view.Desired.Hosts() {
		if !IsPublicHost(host) {
			continue
		}
		name := host
		if domain != "" && perigee.DirectlyBelow(host, domain) {
			name = "*." + domain
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
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

// rank is this node's place among the issuers: they take turns to make the account, since not all may know
// a CA.
func (s *issuer) rank(view *perigee.View) int { return max(0, slices.Index(issuers(view), s.self())) }

// directory returns the URL of the CA's directory; "" = no CA is known.
func (s *issuer) directory() string {
	if c := s.client.Load(); c != nil {
		return c.Config().Directory
	}
	return ""
}

// issuers are the nodes with the role that are up.
func issuers(view *perigee.View) (ids []perigee.NodeID) {
	for id, p := range view.Observed.Nodes {
		up := p.State == perigee.NodeAlive || p.State == perigee.NodeSuspect
		if up && !p.Draining && p.HasRole(perigee.RoleIssuer) && !view.Desired.Revoked[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// responsible returns the issuer that looks after a name; "" = none is up that may: whoever orders a
// certificate holds its key, so it must be within the residency of the functions behind the name.
func (s *issuer) responsible(view *perigee.View, name string) (best perigee.NodeID) {
	var most uint64
	for _, id := range issuers(view) {
		if _, ok := placement.Terminates(view.Desired, name, view.Observed.Nodes[id].NodeClaims); !ok {
			continue
		}
		h := fnv.New64a()
		fmt.Fprintf(h, "%s\x00%s", id, name)
		if v := mix(h.Sum64()); best == "" || v > most {
			best, most = id, v
		}
	}
	return best
}

// mix spreads the bits of a hash whose inputs are alike (the finalizer of MurmurHash3).
func mix(v uint64) uint64 {
	v = (v ^ v>>33) * 0xff51afd7ed558ccd
	v = (v ^ v>>33) * 0xc4ceb9fe1a85ec53
	return v ^ v>>33
}

// dueLocked returns how long an order is to wait, 0 if it is to begin now. It then counts as running.
func (s *issuer) dueLocked(o *order, e *perigee.WebEntry, now time.Time) time.Duration {
	switch {
	case o.Running:
		return issuerEvery
	case now.Before(o.Next) && !o.forced:
		return o.Next.Sub(now)
	case e != nil && !o.forced && o.version == e.Version && now.Before(o.renew) && now.Before(o.asked):
		return min(o.renew.Sub(now), o.asked.Sub(now))
	}
	o.made = slices.DeleteFunc(o.made, func(at time.Time) bool { return now.Sub(at) > 24*time.Hour })
	if len(o.made) >= orderDaily {
		o.Error = fmt.Sprintf("%d orders in a day: waiting", len(o.made))
		o.Next, o.forced = o.made[0].Add(24*time.Hour), false
		return o.Next.Sub(now)
	}
	o.Running = true
	return 0
}

// try does what is due, and notes how it went.
func (s *issuer) try(ctx context.Context, name string, o *order, f func(context.Context, *order) error) {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	err := f(ctx, o)
	s.mu.Lock()
	o.Running = false
	switch {
	case err == nil:
		o.Error, o.fails, o.Next = "", 0, time.Time{}
	case errors.Is(err, errBusy):
		o.Next = time.Now().Add(busyWait)
	case ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded):
		o.fails++
		o.Error, o.Next = err.Error(), time.Now().Add(min(lastBackoff, firstBackoff<<min(o.fails-1, 10)))
		s.log.Warn("the public CA gave nothing; the cluster's own goes on", "host", name, "err", err, "dur", time.Until(o.Next).Round(time.Second))
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// errBusy: another issuer orders this, or there is no account yet.
var errBusy = errors.New("another issuer is at it")

// orderIfDue asks whether a certificate is to be replaced, and orders one if so, or if there is none.
func (s *issuer) orderIfDue(ctx context.Context, name string, o *order, e *perigee.WebEntry) error {
	var old *x509.Certificate
	if e != nil {
		var c acme.Certificate
		if ok, err := s.m.unseal(e, &c); ok && err == nil {
			if cert, err := c.Parse(name); err == nil {
				old = cert.Leaf
			}
		}
		if old == nil && time.Now().Before(e.Expires) {
			return fmt.Errorf("the certificate that %s shares is not sealed to this node", e.By)
		}
	}
	s.mu.Lock()
	forced := o.forced || e != nil && exposed(s.gossip.View(), e)
	s.mu.Unlock()
	if old != nil && !forced {
		renew, again := s.client.Load().RenewAt(ctx, old)
		s.mu.Lock()
		o.version, o.renew, o.asked = e.Version, renew, again
		s.mu.Unlock()
		if time.Now().Before(renew) {
			return nil
		}
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.orderedElsewhere(ctx, name) {
		return errBusy
	}
	if now := s.gossip.View().Desired.Web[perigee.WebName{Item: perigee.WebCertificate, Name: name}]; now != nil && (e == nil || now.Version != e.Version) {
		return nil // another issuer was faster
	}
	account, err := s.account()
	if err != nil {
		return err
	}
	s.mu.Lock()
	o.made, o.forced = append(o.made, time.Now()), false
	s.mu.Unlock()
	began := time.Now()
	cert, err := s.client.Load().Order(ctx, account, name, old)
	if err != nil {
		return err
	}
	parsed, err := cert.Parse(name)
	if err != nil {
		return err
	}
	if err := s.share(ctx, perigee.WebName{Item: perigee.WebCertificate, Name: name}, parsed.Leaf.NotAfter, cert); err != nil {
		return err
	}
	s.log.Info("certificate from the public CA", "host", name, "dur", time.Since(began))
	return nil
}

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

// share seals something to the nodes that may have it, and writes it into the state.
func (s *issuer) share(ctx context.Context, name perigee.WebName, expires time.Time, v any) error {
	text, err := acme.Pack(v)
	if err != nil {
		return err
	}
	p := &record.Web{Item: name.Item, Name: name.Name, Version: uint64(time.Now().UnixMicro()), Chain: s.m.identity.Chain()}
	if !expires.IsZero() {
		p.Expires = expires.Unix()
	}
	env, err := identity.Seal(text, s.recipients(s.gossip.View(), name), s.m.sealContext(name, p.Version))
	if err != nil {
		return err
	}
	if p.Sealed, err = env.Marshal(); err != nil {
		return err
	}
	_, b, err := record.Sign(s.m.identity.Key(), s.m.genesis.Cluster, s.gossip.Now(), nil, p)
	if err != nil {
		return err
	}
	_, err = s.gossip.Submit(context.WithoutCancel(ctx), b)
	return err
}

// recipients are the nodes that may have something: issuers what they order with; and a certificate all
// nodes that the residency of the functions behind its name allows, and no others.
func (s *issuer) recipients(view *perigee.View, name perigee.WebName) (out []identity.Recipient) {
	for id, p := range view.Observed.Nodes {
		if len(p.Sealing) == 0 || view.Desired.Revoked[id] {
			continue
		}
		if id != s.self() && (p.State == perigee.NodeDead || p.State == perigee.NodeLeft) {
			continue
		}
		if name.Item == perigee.WebAccount && !p.HasRole(perigee.RoleIssuer) {
			continue
		}
		if name.Item == perigee.WebCertificate {
			if _, ok := placement.Terminates(view.Desired, name.Name, p.NodeClaims); !ok {
				continue
			}
		}
		out = append(out, identity.Recipient{Node: id, Key: p.Sealing})
	}
	return out
}

// exposed reports whether a certificate is sealed to a node that may not have its key any more: a residency
// came, or became narrower, after it was shared. It needs another key then.
func exposed(view *perigee.View, e *perigee.WebEntry) bool {
	env, err := identity.ParseEnvelope(e.Sealed)
	if err != nil || e.Item != perigee.WebCertificate {
		return false
	}
	for id, p := range view.Observed.Nodes {
		if _, ok := placement.Terminates(view.Desired, e.Name, p.NodeClaims); !ok && env.SealedTo(id) {
			return true
		}
	}
	return false
}

// handOn seals what is shared already to nodes that came later.
func (s *issuer) handOn(ctx context.Context, view *perigee.View) {
	for name, e := range view.Desired.Web {
		if s.responsible(view, name.Name) != s.self() || !e.Expires.IsZero() && time.Now().After(e.Expires) {
			continue
		}
		env, err := identity.ParseEnvelope(e.Sealed)
		if err != nil || !env.SealedTo(s.self()) {
			continue
		}
		if !slices.ContainsFunc(s.recipients(view, name), func(r identity.Recipient) bool { return !env.SealedTo(r.Node) }) {
			continue
		}
		var v any = &acme.Certificate{}
		if name.Item == perigee.WebAccount {
			v = &acme.Account{}
		}
		if ok, err := s.m.unseal(e, v); err == nil && ok {
			err = s.share(ctx, name, e.Expires, v)
			if err == nil {
				s.log.Info("certificate handed on to new nodes", "host", name.Name)
				continue
			}
		}
		s.log.Warn("hand on a certificate", "host", name.Name, "err", err)
	}
}

// orderedElsewhere asks the other issuers.
func (s *issuer) orderedElsewhere(ctx context.Context, name string) bool {
	for _, o := range s.ask(ctx, "/web/orders") {
		var all map[string]order
		if json.Unmarshal(o, &all) == nil && all[name].Running {
			return true
		}
	}
	return false
}

// ask asks all other issuers at once, and returns the answers of those that answer in time.
func (s *issuer) ask(ctx context.Context, path string) (answers [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, issuerAsk)
	defer cancel()
	var mu sync.Mutex // guards answers
	var wg sync.WaitGroup
	for _, id := range issuers(s.gossip.View()) {
		if id == s.self() {
			continue
		}
		wg.Go(func() {
			b, err := s.fetch(ctx, id, path)
			if err != nil {
				return // it is asked for what it may know
			}
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, b)
		})
	}
	wg.Wait()
	return answers
}
