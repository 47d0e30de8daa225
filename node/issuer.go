package node

import (
	"context"
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

	// Of run's goroutine:
	opened  *perigee.WebEntry    // the account that was looked into
	halfway bool                 // and whether it has a key to change to
	wanted  time.Time            // since when there is no account, though one is needed
	turned  map[string]time.Time // when ticket keys were made last, by scope

	slots chan struct{} // for orders
	wg    sync.WaitGroup
	wake  chan struct{} // asks for a look

	mu     sync.Mutex // guards orders and what they point to
	orders map[string]*order
}

const (
	issuerEvery  = 10 * time.Second // between looks at the clock
	issuerStart  = 2 * time.Second  // for the View to fill after a start
	issuerClock  = time.Minute      // at most, for clocks of peers to be read
	orderTime    = 4 * time.Minute
	orderMost    = 4  // at once
	orderDaily   = 10 // of one name in orderSpan: a CA's limits are near this
	orderSpan    = 24 * time.Hour
	busyWait     = time.Second
	accountTurn  = 3 * time.Second // for each issuer in turn
	firstBackoff = 30 * time.Second
	lastBackoff  = 2 * time.Hour
	issuerAsk    = time.Second // for one other issuer
)

func newIssuer(n *Node, client *acme.Client) *issuer {
	s := &issuer{
		m: n.m, gossip: n.gossip, fetch: n.fetchControl, own: client != nil, log: n.log,
		orders: map[string]*order{}, turned: map[string]time.Time{}, slots: make(chan struct{}, orderMost), wake: make(chan struct{}, 1),
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
	s.awaitClock(ctx)
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

// awaitClock waits until this node knows whether its clock is right: a wrong one sees the end of what is good. If
// its peers are away, it begins after a minute.
func (s *issuer) awaitClock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, issuerClock)
	defer cancel()
	for ctx.Err() == nil && !s.gossip.ClockKnown() {
		pause(ctx, 100*time.Millisecond)
	}
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
		if e != nil && leaked(view, e) {
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
	case s.rekeyDue(view):
		begin(s.directory(), nil, func(ctx context.Context, _ *order) error { return s.rekey(ctx) })
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
	again = min(again, s.rotateTickets(ctx, view, time.Now()))
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

// issuers are the nodes with the role that are up and whose clocks are right: another would renew what is
// good, and nobody takes what it shares.
func issuers(view *perigee.View) (ids []perigee.NodeID) {
	for id, p := range view.Observed.Nodes {
		up := p.State == perigee.NodeAlive || p.State == perigee.NodeSuspect
		right := time.Duration(p.ClockOff).Abs() <= gossip.MaxClockOff
		if up && right && !p.Draining && p.HasRole(perigee.RoleIssuer) && !view.Desired.Revoked[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// responsible returns the issuer that looks after a name; "" = none is up that may: whoever orders a
// certificate holds its key, so it must be within the residency of the functions behind the name.
func (s *issuer) responsible(view *perigee.View, name string) perigee.NodeID {
	return responsibleOf(view, name, issuers(view))
}

// responsibleOf is responsible among some issuers.
func responsibleOf(view *perigee.View, name string, ids []perigee.NodeID) (best perigee.NodeID) {
	var most uint64
	for _, id := range ids {
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
