package gossip

import (
	"context"
	"errors"
	"fmt"
	golog "log"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/perigee-edge/perigee"
)

const (
	metaSize      = 64 // bytes of what a member says about itself
	conflictEvery = time.Minute
)

// memberTable is what the membership protocol and this node's own calls say about who is alive. It
// proves nothing: identity and addresses that matter come from rows.
type memberTable struct {
	self    perigee.NodeID
	changed func(joined bool) // called after a change, without a lock; must not block

	mu   sync.Mutex // guards byID
	byID map[perigee.NodeID]*member
}

type member struct {
	addr    netip.AddrPort
	alive   bool      // the protocol's verdict
	since   time.Time // of the verdict
	failed  bool      // the last call to it failed, and nothing was heard since
	contact time.Time // the last exchange with it over an authenticated connection
}

func (t *memberTable) update(id perigee.NodeID, f func(*member)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.byID[id]
	if m == nil {
		if len(t.byID) >= maxNodes {
			return
		}
		m = &member{}
		t.byID[id] = m
	}
	f(m)
}

// heard notes an exchange with a node over an authenticated connection.
func (t *memberTable) heard(id perigee.NodeID, now time.Time) {
	recovered := false
	t.update(id, func(m *member) {
		recovered = m.failed || !m.alive
		m.failed, m.contact = false, now
	})
	if recovered {
		t.changed(false)
	}
}

// silent notes a call that failed, unless the node was heard since the call began: on a connection whose way has
// died, calls fail long after another way was found.
func (t *memberTable) silent(id perigee.NodeID, began time.Time) {
	news := false
	t.update(id, func(m *member) {
		if m.contact.After(began) {
			return
		}
		news = !m.failed
		m.failed = true
	})
	if news {
		t.changed(false)
	}
}

func (t *memberTable) get(id perigee.NodeID) member {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.byID[id]; m != nil {
		return *m
	}
	return member{}
}

// alive returns the nodes that the protocol believes alive, with the addresses it knows.
func (t *memberTable) alive() map[perigee.NodeID]netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	alive := map[perigee.NodeID]netip.AddrPort{}
	for id, m := range t.byID {
		if m.alive {
			alive[id] = m.addr
		}
	}
	return alive
}

// drop forgets nodes that are gone.
func (t *memberTable) drop(ids []perigee.NodeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if m := t.byID[id]; m != nil && !m.alive {
			delete(t.byID, id)
		}
	}
}

// verdictHold is how long a verdict of death stays a suspicion, in which a living node can contradict.
// In a small cluster the protocol decides within a second, which is less than a busy machine may need.
func verdictHold(nodes int) time.Duration {
	if nodes >= 32 {
		return 0
	}
	return 2 * time.Second
}

// liveness decides the state of another node that has a row; "" means that there is no sign of life
// so far, and nothing to show. The protocol's word counts, but it has no proof of who speaks, and
// its list may be incomplete after many joins: a node that it holds for dead is only suspected
// while it is heard from.
func liveness(now time.Time, s *rowState, m member, beat, hold time.Duration) perigee.NodeState {
	recent := func(t, after time.Time, span time.Duration) bool {
		return !t.IsZero() && t.After(after) && now.Sub(t) < span
	}
	switch {
	case s.row.Seq == lastWord:
		return perigee.NodeLeft
	case now.After(s.expires):
		return perigee.NodeDead
	case m.alive && !m.failed:
		return perigee.NodeAlive
	case m.alive:
		return perigee.NodeSuspect
	case !m.since.IsZero() && now.Sub(m.since) < hold:
		return perigee.NodeSuspect
	case recent(m.contact, m.since, 3*beat) && !m.failed:
		return perigee.NodeSuspect
	case recent(s.advanced, m.since.Add(2*beat), 3*beat):
		return perigee.NodeSuspect
	case m.since.IsZero() && m.contact.IsZero() && s.advanced.IsZero():
		return ""
	}
	return perigee.NodeDead
}

// The methods below are memberlist's delegates. It calls them under its lock: they take no long
// lock, do no I/O, and call nothing of it.

// NotifyJoin notes a member that appeared or came back.
func (t *memberTable) NotifyJoin(n *memberlist.Node) {
	t.verdict(n, true)
	t.changed(perigee.NodeID(n.Name) != t.self)
}

// NotifyLeave notes a member that died or left.
func (t *memberTable) NotifyLeave(n *memberlist.Node) {
	t.verdict(n, false)
	t.changed(false)
}

// NotifyUpdate notes a new address.
func (t *memberTable) NotifyUpdate(n *memberlist.Node) { t.verdict(n, true) }

func (t *memberTable) verdict(n *memberlist.Node, alive bool) {
	addr, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return
	}
	t.update(perigee.NodeID(n.Name), func(m *member) {
		m.addr = netip.AddrPortFrom(addr.Unmap(), n.Port)
		if m.alive != alive {
			m.alive, m.since, m.failed = alive, time.Now(), false
		}
	})
}

// memberDelegate tells memberlist that members carry no data and decides which it may list.
type memberDelegate struct {
	self   perigee.NodeID
	peer   func(perigee.NodeID) (p *perigee.Peer, revoked bool) // p is nil while its row is not known
	count  func() int
	logger *slog.Logger

	mu       sync.Mutex // guards reported
	reported map[perigee.NodeID]time.Time
}

// NotifyAlive refuses members whose name no node can have, those that were revoked or whose
// certificate is over, and too many. One whose row is not known yet is only listed: nothing but its
// row, which a certificate proves, puts it into the View. This node itself is never refused, even when
// its certificate is over: memberlist can't leave a cluster that it is not listed in.
func (d *memberDelegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == string(d.self) {
		return nil
	}
	if err := perigee.CheckLabel(n.Name); err != nil {
		return err
	}
	p, revoked := d.peer(perigee.NodeID(n.Name))
	switch {
	case len(n.Meta) > metaSize:
		return fmt.Errorf("member %s has %d bytes of meta data", n.Name, len(n.Meta))
	case revoked:
		return fmt.Errorf("member %s was revoked", n.Name)
	case p != nil && time.Now().After(p.Expires):
		return fmt.Errorf("the certificate of member %s is over since %s", n.Name, timeText(p.Expires))
	case d.count() >= maxNodes:
		return errors.New("too many members")
	}
	return nil
}

// NotifyConflict reports two members of one name: a second node, or one that changed its address
// before the others missed it. It comes with each message about either, and is logged once a minute.
func (d *memberDelegate) NotifyConflict(existing, other *memberlist.Node) {
	id, now := perigee.NodeID(existing.Name), time.Now()
	d.mu.Lock()
	seen := now.Sub(d.reported[id]) < conflictEvery
	if !seen {
		if d.reported == nil || len(d.reported) >= maxNodes {
			d.reported = map[perigee.NodeID]time.Time{}
		}
		d.reported[id] = now
	}
	d.mu.Unlock()
	if seen {
		return
	}
	d.logger.Warn("two members have one name", "node", existing.Name, "addr", existing.Address(), "other", other.Address())
}

// NodeMeta returns nothing: what a node says of itself is in its signed row.
func (*memberDelegate) NodeMeta(int) []byte { return nil }

// NotifyMsg ignores user messages.
func (*memberDelegate) NotifyMsg([]byte) {}

// GetBroadcasts has nothing to send.
func (*memberDelegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState has nothing to send.
func (*memberDelegate) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what members send.
func (*memberDelegate) MergeRemoteState([]byte, bool) {}

// memberConfig returns the settings of the membership protocol: those for a LAN where they decide
// how soon a death is noticed, with room for the round trips of a planet.
func memberConfig(self perigee.NodeID, key []byte, t *transport, table *memberTable, d *memberDelegate, logger *slog.Logger) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(self)
	c.Transport = t
	c.SecretKey = key
	c.ProbeInterval = time.Second
	c.ProbeTimeout = 500 * time.Millisecond // twice the longest round trip between the published regions
	// Of fifty nodes, a dead one is out of all views after 3.0 to 4.9 s; with 3 it was 7 to 9 s, with 2
	// 5 to 10 s. A node with 5 % of a processor, and 10 % loss elsewhere, bring no false death in half
	// an hour all the same (TestDetect, TestFalseDeaths). Small clusters get the time back by verdictHold.
	c.SuspicionMult = 1
	c.SuspicionMaxTimeoutMult = 2
	c.GossipInterval = 100 * time.Millisecond // nothing is sent when there is no news
	c.TCPTimeout = 5 * time.Second
	c.PushPullInterval = 15 * time.Second // the members only, which is little; repairs joins that got lost
	c.GossipToTheDeadTime = time.Minute
	c.DeadNodeReclaimTime = time.Second // a node that comes back with another address
	c.EnableCompression = false         // costs more than it saves
	c.UDPBufferSize = 1200              // fits into every path that QUIC works on
	c.DNSConfigPath = ""                // names are never looked up
	c.Delegate, c.Alive, c.Conflict, c.Events = d, d, d, table
	c.Logger = golog.New(&memberLog{logger}, "", 0)
	return c
}

// memberLog turns memberlist's lines into slog records. Its view of trouble is an observation, not
// something to act on, so that the level is lower than its own.
type memberLog struct{ logger *slog.Logger }

func (l *memberLog) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(line, "[WARN]"); ok {
		level, line = slog.LevelInfo, rest
	} else if _, rest, ok := strings.Cut(line, "]"); ok && strings.HasPrefix(line, "[") {
		line = rest
	}
	l.logger.Log(context.Background(), level, "membership", "text", strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "memberlist:")))
	return len(b), nil
}
