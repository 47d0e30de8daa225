package cluster

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	trouble = 20 * time.Second // of a trial
	quiet   = time.Minute      // within which all must agree afterwards
)

// Verdict is what a trial found. Everything but Acked, Refused and Trace should be empty.
type Verdict struct {
	Acked   int      // deploys that were acknowledged
	Refused int      // deploys that were refused, by nodes whose clocks were off
	Lost    []string // acknowledged records that some node lacks in the end
	Unequal []string // nodes that hold other records than the first in the end
	Winners []string // nodes whose records mean something else than the first's
	Trace   uint64
}

// Trial lets people deploy while the network splits, packets get lost, processes die and clocks are
// off, then heals everything and looks at what is left. The seed decides all of it.
func Trial(seed uint64) (Verdict, error) {
	var v Verdict
	w, err := New(Config{Seed: seed, Nodes: 5 + int(seed%5), Regions: Regions[:3+seed%4], Loss: 0.05, Skew: 400 * time.Millisecond})
	if err != nil {
		return v, err
	}
	if seed%3 == 0 { // one clock is far off: its node must not acknowledge, and must do no harm
		w.nodes[w.chance.IntN(len(w.nodes))].skew = time.Duration(w.chance.Int64N(int64(20*time.Second))) - 10*time.Second
	}
	t := &trial{World: w, verdict: &v}
	t.after(0, t.deploy)
	t.after(0, t.partition)
	t.after(0, t.crash)
	w.Run(trouble)
	t.over = true
	w.blocked = nil
	for _, n := range w.nodes {
		if n.core == nil {
			t.revive(n)
		}
	}
	w.RunUntil(quiet, func() bool { return t.err != nil || t.equal() })
	if t.err != nil {
		return v, t.err
	}
	t.judge()
	v.Trace = w.Trace()
	return v, nil
}

type trial struct {
	*World
	verdict *Verdict
	over    bool
	acked   []perigee.Digest
	err     error
}

// soon plans the next of a kind of trouble.
func (t *trial) soon(mean time.Duration, f func()) {
	t.after(time.Duration(t.chance.ExpFloat64()*float64(mean)), func() {
		if !t.over {
			f()
		}
	})
}

// deploy has somebody deploy one of a few functions, so that there are conflicts.
func (t *trial) deploy() {
	defer t.soon(700*time.Millisecond, t.deploy)
	n := t.nodes[t.chance.IntN(len(t.nodes))]
	if n.core == nil {
		return
	}
	records, err := n.deploy(fmt.Sprint("f", t.chance.IntN(3)))
	if err != nil {
		t.err = err
		return
	}
	n.Submit(records, func(o gossip.Outcome) {
		if o.Err != nil {
			t.verdict.Refused++
			return
		}
		t.verdict.Acked++
		for _, raw := range records {
			t.acked = append(t.acked, record.ID(raw))
		}
	})
}

// partition cuts some nodes off, now and then one way only, and heals it later.
func (t *trial) partition() {
	defer t.soon(5*time.Second, t.partition)
	side := map[*Node]bool{}
	for _, n := range t.nodes {
		side[n] = t.chance.IntN(2) == 0
	}
	oneWay := t.chance.IntN(4) == 0
	t.blocked = func(from, to *Node) bool { return side[from] && !side[to] || !oneWay && !side[from] && side[to] }
	t.soon(3*time.Second, func() { t.blocked = nil })
}

// crash kills a process, which comes back some seconds later.
func (t *trial) crash() {
	defer t.soon(3*time.Second, t.crash)
	n := t.nodes[t.chance.IntN(len(t.nodes))]
	if n.core == nil {
		return
	}
	n.kill()
	t.soon(2*time.Second, func() { t.revive(n) })
}

func (t *trial) revive(n *Node) {
	if n.core == nil {
		if err := n.start(); err != nil {
			t.err = err
		}
	}
}

func (t *trial) equal() bool {
	for _, n := range t.nodes {
		if n.core.Root() != t.nodes[0].core.Root() {
			return false
		}
	}
	return true
}

// judge checks the three invariants.
func (t *trial) judge() {
	first := t.nodes[0]
	want := meaning(first)
	for _, n := range t.nodes {
		if n.core.Root() != first.core.Root() {
			t.verdict.Unequal = append(t.verdict.Unequal, string(n.id))
		}
		if meaning(n) != want {
			t.verdict.Winners = append(t.verdict.Winners, string(n.id))
		}
		for _, id := range t.acked {
			if !n.core.Holds(id) {
				t.verdict.Lost = append(t.verdict.Lost, fmt.Sprintf("%s on %s", id, n.id))
			}
		}
	}
}

// meaning writes down which revisions won, and over which others.
func meaning(n *Node) string {
	b, err := json.Marshal(n.core.Desired().Functions)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
