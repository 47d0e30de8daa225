package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	syncMean    = 2 * time.Millisecond // of a disk
	maxState    = 64 * perigee.MiB
	connections = 5 * time.Minute // an unused one lives
)

// Node is a simulated machine: a process that may die, and a disk that stays.
type Node struct {
	*World
	id     perigee.NodeID
	region perigee.Region
	skew   time.Duration // of its clock
	disk   [][]byte      // synced records

	core  *gossip.Core // nil while it does not run
	life  int          // rises with each death
	tick  uint64       // of the one Tick that counts
	conns map[*Node]time.Time
}

var errNoAnswer = errors.New("no answer in time")

// clock is what the node's clock shows.
func (n *Node) clock() time.Time { return n.now.Add(n.skew) }

// start brings the process up with what the disk has.
func (n *Node) start() error {
	core, err := gossip.NewCore(gossip.CoreConfig{
		Self: n.id, Region: n.region, Cluster: n.World.id, Root: n.root, Genesis: n.genesis, Max: maxState, History: n.conf.History,
		CheckManifest: func(*perigee.Manifest) error { return nil },
		Chance:        rand.New(rand.NewPCG(n.chance.Uint64(), 1)),
		Claims: func(id perigee.NodeID) perigee.NodeClaims {
			return perigee.NodeClaims{ID: id, Region: n.byID[id].region}
		},
	})
	if err != nil {
		return fmt.Errorf("start simulated node %s: %w", n.id, err)
	}
	if _, err := core.Load(n.clock(), nil, n.disk); err != nil {
		return fmt.Errorf("start simulated node %s: %w", n.id, err)
	}
	n.core, n.conns = core, map[*Node]time.Time{}
	n.step(gossip.Peers{List: n.others()})
	n.step(gossip.Start{})
	return nil
}

// others are all nodes that exist, whether they run or not.
func (n *Node) others() (list []gossip.Peer) {
	for _, m := range n.nodes {
		if m != n {
			list = append(list, gossip.Peer{ID: m.id, Region: m.region})
		}
	}
	return list
}

// kill ends the process; what was not synced is lost.
func (n *Node) kill() {
	n.core = nil
	n.life++
}

// step gives the core an event and carries out the effects.
func (n *Node) step(e gossip.Event) {
	n.note(n, e)
	out := n.core.Step(n.clock(), e)
	for _, b := range out.Store {
		n.store(b)
	}
	for _, c := range out.Calls {
		n.call(c)
	}
	for _, r := range out.Replies {
		n.reply(r)
	}
	for _, o := range out.Outcomes {
		if f := n.outcomes[o.Number]; f != nil {
			delete(n.outcomes, o.Number)
			f(o)
		}
	}
	if out.Desired {
		n.stored(n)
	}
	if !out.Wake.IsZero() {
		n.wake(out.Wake)
	}
}

// wake plans a Tick, in place of the one that was planned before.
func (n *Node) wake(at time.Time) {
	n.tick++
	tick, life := n.tick, n.life
	n.after(max(0, at.Sub(n.clock())), func() {
		if n.life == life && n.tick == tick {
			n.step(gossip.Tick{})
		}
	})
}

// store syncs a batch after some time, if the process lives until then.
func (n *Node) store(b gossip.Batch) {
	life := n.life
	n.after(time.Duration(n.chance.ExpFloat64()*float64(syncMean)), func() {
		if n.life == life {
			n.disk = append(n.disk, b.Raws...)
			n.step(gossip.Stored{Number: b.Number})
		}
	})
}

// call carries a message to a peer, and its reply back, or a failure.
func (n *Node) call(c gossip.Call) {
	life, to := n.life, n.byID[c.To.ID]
	n.sent(n, to, c.Message)
	n.after(c.Timeout, func() {
		if n.life == life {
			n.step(gossip.Failed{Number: c.Number, Err: errNoAnswer})
		}
	})
	d := n.leg(n, to)
	if n.now.After(n.conns[to].Add(connections)) || n.conns[to].IsZero() {
		d += n.handshake(n, to)
	}
	n.conns[to] = n.now
	n.after(d, func() {
		if to.core == nil || n.cut(n, to) {
			return
		}
		n.number++
		n.questions[n.number] = question{n, life, c.Number, n.now}
		to.step(gossip.Asked{From: n.id, Number: n.number, Message: c.Message})
	})
}

func (n *Node) reply(r gossip.Reply) {
	q := n.questions[r.Number]
	delete(n.questions, r.Number)
	if q.from == nil {
		return
	}
	if r.Message != nil {
		n.sent(n, q.from, r.Message)
	}
	n.after(n.leg(n, q.from), func() {
		switch {
		case q.from.life != q.life || n.cut(n, q.from):
		case r.Err != nil:
			q.from.step(gossip.Failed{Number: q.call, Err: r.Err})
		default:
			q.from.step(gossip.Answered{Number: q.call, Message: r.Message})
		}
	})
}

// leg is the time that a message takes one way: half a round trip with jitter, and one probe timeout
// after the other for each time that it is lost.
func (w *World) leg(from, to *Node) time.Duration {
	rtt := w.rtt(from.region, to.region)
	return w.oneWay(rtt, rtt+rtt/2+25*time.Millisecond)
}

// handshake is the round trip that a new connection costs; before the first sample, QUIC waits longer.
func (w *World) handshake(from, to *Node) time.Duration {
	rtt := w.rtt(from.region, to.region)
	return w.oneWay(rtt, 300*time.Millisecond) + w.oneWay(rtt, 300*time.Millisecond)
}

func (w *World) oneWay(rtt, probe time.Duration) time.Duration {
	d := 100*time.Microsecond + rtt/2 + time.Duration(w.chance.Float64()*0.1*float64(rtt))
	for ; w.chance.Float64() < w.conf.Loss && probe < time.Minute; probe *= 2 {
		d += probe
	}
	return d
}

func (w *World) cut(from, to *Node) bool { return w.blocked != nil && w.blocked(from, to) }

// Submit gives a node records as people do; then gets the outcome, unless the node dies before.
func (n *Node) Submit(records [][]byte, then func(gossip.Outcome)) {
	n.number++
	n.outcomes[n.number] = then
	n.step(gossip.Submit{Number: n.number, Records: records})
}

// deploy signs a revision of a function and a pointer to it that replaces what the node knows of.
func (n *Node) deploy(function string) ([][]byte, error) {
	n.World.number++
	now := n.core.Now(n.clock())
	_, rev, err := record.Sign(n.operator, n.World.id, 1, now, nil, &record.Revision{
		Manifest: perigee.Manifest{Name: function, Wasm: "main.wasm", Env: map[string]string{"N": fmt.Sprint(n.number)}}, Bundle: perigee.Digest{1}, Size: 5,
	})
	if err != nil {
		return nil, err
	}
	_, ptr, err := record.Sign(n.operator, n.World.id, 1, now.Next(n.clock()), slices.Clone(n.core.Heads(function)), &record.Pointer{Function: function, Revision: record.ID(rev), Past: n.core.Past(function)})
	return [][]byte{rev, ptr}, err
}

// point signs a pointer that replaces what the node knows of: to a revision that is there, or, for zero, to
// nothing, which removes the function.
func (n *Node) point(function string, revision perigee.Digest) ([][]byte, error) {
	_, ptr, err := record.Sign(n.operator, n.World.id, 1, n.core.Now(n.clock()), slices.Clone(n.core.Heads(function)), &record.Pointer{Function: function, Revision: revision, Past: n.core.Past(function)})
	return [][]byte{ptr}, err
}
