package node

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	ticketEvery = 12 * time.Hour
	ticketKeep  = 3              // keys: a session can go on for one to one and a half days
	ticketLife  = 36 * time.Hour // of a record that nobody replaces; then each node has keys of its own
	ticketPause = 5 * time.Second
)

// ticketKeys are the keys of the session tickets of some hosts, newest first: the first makes tickets, all
// read them. Whoever has them can read what was sent under TLS 1.2 with such a ticket, and nothing of what was
// sent under TLS 1.3; so they go where the hosts' TLS may end, and nowhere else.
type ticketKeys struct {
	Keys [][]byte `json:"keys"` // of 32 bytes each
}

// ticketScope returns whose keys a host uses: its own if a residency keeps some nodes from it, else those of
// all such hosts.
func ticketScope(d *perigee.Desired, host string) string {
	for fn := range d.At(host) {
		if len(fn.Policy().Residency) > 0 {
			return host
		}
	}
	return perigee.AllHosts
}

// rotateTickets makes the keys that are missing or due, of the names that this issuer looks after, and returns
// when to look again at the latest.
func (s *issuer) rotateTickets(ctx context.Context, view *perigee.View, now time.Time) time.Duration {
	again := issuerEvery
	seen := map[string]bool{}
	for host := range view.Desired.Hosts() {
		scope := ticketScope(view.Desired, host)
		if seen[scope] || s.responsible(view, scope) != s.self() {
			continue
		}
		seen[scope] = true
		name := perigee.WebName{Item: perigee.WebTickets, Name: scope}
		old := view.Desired.Web[name]
		if old != nil && !leaked(view, old) && now.Before(old.Created.Add(ticketEvery)) || now.Before(s.turned[scope].Add(ticketPause)) {
			continue
		}
		s.turned[scope] = now // for the View to follow, and not at once again should it fail
		if err := s.share(ctx, name, now.Add(ticketLife), s.turn(view, old)); err != nil {
			s.log.Warn("share keys of session tickets", "host", scope, "err", err)
			again = ticketPause
		}
	}
	return again
}

// turn returns keys with a new one in front of those that were in use, unless these are known where they may
// not be.
func (s *issuer) turn(view *perigee.View, old *perigee.WebEntry) *ticketKeys {
	var keys ticketKeys
	if old != nil && !leaked(view, old) {
		if ok, err := s.m.unseal(old, &keys); !ok || err != nil {
			keys.Keys = nil
		}
	}
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails
	keys.Keys = rotated(keys.Keys, fresh)
	return &keys
}

// rotated returns keys with a new one in front, without those that are too old.
func rotated(keys [][]byte, fresh []byte) [][]byte {
	return append([][]byte{fresh}, keys[:min(len(keys), ticketKeep-1)]...)
}

// tickets are the keys of session tickets that are sealed to this node, opened. update is called when the
// View changes, by one goroutine; forHost is safe for concurrent use.
type tickets struct {
	m    *membership
	view func() *perigee.View
	log  *slog.Logger
	open atomic.Pointer[map[string]openTickets] // by scope
}

type openTickets struct {
	entry *perigee.WebEntry
	keys  [][32]byte
}

func newTickets(n *Node) *tickets {
	t := &tickets{m: n.m, view: n.View, log: n.log}
	t.open.Store(&map[string]openTickets{})
	return t
}

// update opens what is new, and forgets what this node may not have any more.
func (t *tickets) update(d *perigee.Desired) {
	before, now := *t.open.Load(), map[string]openTickets{}
	for name, e := range d.Web {
		if name.Item != perigee.WebTickets {
			continue
		}
		if _, ok := placement.Terminates(d, name.Name, t.m.identity.Claims()); !ok {
			continue
		}
		if old, ok := before[name.Name]; ok && old.entry.Version == e.Version && old.entry.By == e.By {
			now[name.Name] = old
			continue
		}
		var sealed ticketKeys
		ok, err := t.m.unseal(e, &sealed)
		if err != nil {
			t.log.Warn("open the keys of session tickets", "host", name.Name, "err", err)
		}
		if !ok || err != nil || slices.ContainsFunc(sealed.Keys, func(k []byte) bool { return len(k) != 32 }) {
			continue
		}
		o := openTickets{entry: e}
		for _, k := range sealed.Keys {
			o.keys = append(o.keys, [32]byte(k))
		}
		now[name.Name] = o
	}
	t.open.Store(&now)
}

// forHost returns the keys for a host that functions answer at, newest first; nil = this node has none.
func (t *tickets) forHost(host string) [][32]byte {
	d := t.view().Desired
	if !d.HasHost(host) {
		return nil
	}
	o, ok := (*t.open.Load())[ticketScope(d, host)]
	if !ok || !time.Now().Before(o.entry.Expires) {
		return nil
	}
	return o.keys
}
