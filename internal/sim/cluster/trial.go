package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
)

const (
	trouble = 20 * time.Second // of a trial
	history = 2                // revisions of a function that stay: few, so that many are collected
	quiet   = time.Minute      // within which all must agree afterwards
)

// Verdict is what a trial found. Everything but Acked, Refused, Gone and Trace should be empty.
type Verdict struct {
	Acked   int      // deploys that were acknowledged
	Refused int      // deploys that were refused, by nodes whose clocks were off
	Lost    []string // acknowledged records that some node lacks in the end, though nothing outlives them
	Risen   []string // replaced pointers that count again on some node in the end
	Gone    int      // pointers that were collected
	Unequal []string // nodes that hold other records than the first in the end
	Winners []string // nodes whose records mean something else than the first's
	Trace   uint64
}

// Trial lets people deploy while the network splits, packets get lost, processes die and clocks are
// off, then heals everything and looks at what is left. The seed decides all of it.
func Trial(seed uint64) (Verdict, error) {
	var v Verdict
	w, err := New(Config{Seed: seed, Nodes: 5 + int(seed%5), Regions: Regions[:3+seed%4], Loss: 0.05, Skew: 400 * time.Millisecond, History: history})
	if err != nil {
		return v, err
	}
	if seed%3 == 0 { // one clock is far off: its node must not acknowledge, and must do no harm
		w.nodes[w.chance.IntN(len(w.nodes))].skew = time.Duration(w.chance.Int64N(int64(20*time.Second))) - 10*time.Second
	}
	t := &trial{World: w, verdict: &v, made: map[perigee.Digest]change{}}
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
	made    map[perigee.Digest]change // all pointers that anybody signed
	err     error
}

// change is what somebody made of a function.
type change struct {
	function string
	at       record.HLC
	revision perigee.Digest // zero = removed
	replaces []perigee.Digest
	acked    bool
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
	function := fmt.Sprint("f", t.chance.IntN(3))
	records, err := t.change(n, function)
	if err != nil {
		t.err = err
		return
	}
	ptr := records[len(records)-1]
	c, err := read(ptr)
	if err != nil {
		t.err = err
		return
	}
	t.made[record.ID(ptr)] = c
	n.Submit(records, func(o gossip.Outcome) {
		if o.Err != nil {
			t.verdict.Refused++
			return
		}
		t.verdict.Acked++
		c.acked = true
		t.made[record.ID(ptr)] = c
	})
}

// change signs a deploy, now and then the removal of the function, or the return to a revision of before.
func (t *trial) change(n *Node, function string) ([][]byte, error) {
	chance := t.chance.IntN(12)
	fn := n.core.Desired().Functions[function]
	switch {
	case chance == 0:
		return n.point(function, perigee.Digest{})
	case chance == 1 && fn != nil && len(fn.Kept) > 0:
		want := fn.Kept[t.chance.IntN(len(fn.Kept))].ID
		for _, c := range t.made {
			if record.RevisionID(c.revision) == want {
				return n.point(function, c.revision)
			}
		}
	}
	return n.deploy(function)
}

// read returns what a pointer record says.
func read(raw []byte) (c change, err error) {
	rec, err := record.Decode(raw)
	if err != nil {
		return c, err
	}
	body, err := rec.Open()
	if err != nil {
		return c, err
	}
	p := body.(*record.Pointer)
	return change{function: p.Function, at: rec.HLC, revision: p.Revision, replaces: append(rec.Parents, p.Past...)}, nil
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

// judge checks the invariants.
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
	}
	past := t.past(first)
	replaced := map[perigee.Digest]bool{}
	for _, olds := range past {
		for _, old := range olds {
			replaced[old] = true
		}
	}
	for id, c := range t.made {
		needed := c.acked && (!replaced[id] || t.served(id, past, replaced))
		for _, n := range t.nodes {
			head := slices.Contains(n.core.Heads(c.function), id)
			what := fmt.Sprintf("%s of %s on %s", id, c.function, n.id)
			switch {
			case head && replaced[id]:
				t.verdict.Risen = append(t.verdict.Risen, what)
			case needed && (!replaced[id] && !head || !n.core.Holds(id) || !c.revision.IsZero() && !n.core.Holds(c.revision)):
				t.verdict.Lost = append(t.verdict.Lost, what)
			case c.acked && !needed && !n.core.Holds(id):
				t.verdict.Gone++
			}
		}
	}
}

// past returns what the pointers that count replaced, by the graph of all that anybody signed: those that were
// acknowledged, and those of the others that are there.
func (t *trial) past(n *Node) map[perigee.Digest][]perigee.Digest {
	past := map[perigee.Digest][]perigee.Digest{}
	for id, c := range t.made {
		if !c.acked && !n.core.Holds(id) {
			continue
		}
		seen := map[perigee.Digest]bool{}
		for todo := slices.Clone(c.replaces); len(todo) > 0; {
			old := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if !seen[old] {
				seen[old] = true
				todo = append(todo, t.made[old].replaces...)
			}
		}
		past[id] = slices.Collect(maps.Keys(seen))
	}
	return past
}

// served reports whether a replaced pointer is one that somebody may go back to: no removal replaced it, and in
// the past of some head there are not enough later revisions.
func (t *trial) served(id perigee.Digest, past map[perigee.Digest][]perigee.Digest, replaced map[perigee.Digest]bool) bool {
	mine, some := t.made[id], false
	for by, olds := range past {
		if !slices.Contains(olds, id) {
			continue
		}
		if t.made[by].revision.IsZero() {
			return false
		}
		if replaced[by] {
			continue
		}
		later := map[perigee.Digest]bool{}
		for _, old := range olds {
			if o := t.made[old]; o.at > mine.at && o.revision != t.made[by].revision {
				later[o.revision] = true
			}
		}
		some = some || len(later) < history && !later[mine.revision] && mine.revision != t.made[by].revision
	}
	return some
}

// meaning writes down which revisions won, and over which others.
func meaning(n *Node) string {
	b, err := json.Marshal(n.core.Desired().Functions)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
