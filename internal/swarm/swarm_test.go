package swarm

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/mutant"
)

// world is nodes with lines of one slice a time, in virtual time: what leaves a node leaves it one after
// the other, and takes the way to the receiver.
type world struct {
	now    time.Time
	queue  []event // by time
	seq    int
	nodes  map[perigee.NodeID]*member
	order  []perigee.NodeID
	count  int
	line   time.Duration // that a slice occupies the line of its sender
	way    func(a, b *member) time.Duration
	abroad int // slices that crossed from one region into another
}

type event struct {
	at  time.Time
	seq int
	do  func()
}

type member struct {
	id     perigee.NodeID
	region perigee.Region
	here   []bool
	swarm  *Swarm // nil = it has all
	line   time.Time
	sent   int
	done   time.Time
	deaf   bool // it never answers
	liar   bool // what it sends is wrong
	waits  time.Duration
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	e := event{w.now.Add(d), w.seq, do}
	i, _ := slices.BinarySearchFunc(w.queue, e, func(a, b event) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.seq, b.seq)) })
	w.queue = slices.Insert(w.queue, i, e)
}

func newWorld(count int) *world {
	return &world{
		now: time.Unix(0, 0), nodes: map[perigee.NodeID]*member{}, count: count, line: 10 * time.Millisecond,
		way: func(a, b *member) time.Duration {
			if a.region == b.region {
				return time.Millisecond
			}
			return 60 * time.Millisecond
		},
	}
}

func (w *world) add(region perigee.Region, n int, whole bool) *member {
	m := &member{id: perigee.NodeID(fmt.Sprintf("%s-%d", region, n)), region: region, here: make([]bool, w.count)}
	if whole {
		for i := range m.here {
			m.here[i] = true
		}
	} else {
		m.swarm = New(m.id, region, w.count, w.now)
	}
	w.nodes[m.id] = m
	w.order = append(w.order, m.id)
	return m
}

// run lets all receivers fetch, and returns false if some have not all within limit.
func (w *world) run(limit time.Duration) bool {
	end := w.now.Add(limit)
	for _, id := range w.order {
		m := w.nodes[id]
		if m.swarm == nil {
			continue
		}
		for _, other := range w.order {
			if o := w.nodes[other]; o != m {
				m.swarm.Join(Source{ID: o.id, Region: o.region, RTT: 2 * w.way(m, o), Complete: o.swarm == nil})
			}
		}
		w.tick(m)
	}
	for len(w.queue) > 0 && w.now.Before(end) {
		e := w.queue[0]
		w.queue = w.queue[1:]
		w.now = e.at
		e.do()
		if !slices.ContainsFunc(w.order, func(id perigee.NodeID) bool { m := w.nodes[id]; return m.swarm != nil && m.swarm.Left() > 0 }) {
			return true
		}
	}
	return false
}

const stall = 4 * time.Second

func (w *world) tick(m *member) {
	w.ask(m)
	if m.swarm.Left() > 0 {
		w.after(50*time.Millisecond, func() { w.tick(m) })
	}
}

func (w *world) ask(m *member) {
	for _, a := range m.swarm.Next(w.now) {
		from := w.nodes[a.From]
		w.after(w.way(m, from), func() { w.serve(from, m, a) })
		w.after(stall, func() {
			if !m.here[a.Slice] { // as the caller does with one that is silent
				m.swarm.Drop(from.id)
			}
		})
	}
}

func (w *world) serve(from, to *member, a Ask) {
	if from.deaf || !from.here[a.Slice] {
		return
	}
	from.sent++
	if from.region != to.region {
		w.abroad++
	}
	start := w.now
	if from.line.After(start) {
		start = from.line
	}
	from.line = start.Add(w.line)
	w.after(from.line.Sub(w.now)+w.way(from, to)+from.waits, func() {
		if from.liar {
			to.swarm.Drop(from.id)
		} else if !to.here[a.Slice] {
			to.swarm.Arrived(a, w.now)
			to.here[a.Slice] = true
			w.announce(to, a.Slice)
			if to.swarm.Left() == 0 {
				to.done = w.now
			}
		}
		w.ask(to)
	})
}

func (w *world) announce(m *member, i int) {
	for _, id := range w.order {
		o := w.nodes[id]
		if o != m && o.swarm != nil {
			w.after(w.way(m, o), func() { o.swarm.Announce(m.id, i); w.ask(o) })
		}
	}
}

// TestShares: five receivers in five regions draw little more than one copy from the one that has it, and
// are done in little more than the time that one copy takes to leave it.
func TestShares(t *testing.T) {
	w := newWorld(80)
	seed := w.add("aaa", 1, true)
	for _, r := range []perigee.Region{"fra", "syd", "wdc", "tok", "sao"} {
		w.add(r, 1, false)
	}
	if !w.run(time.Minute) {
		t.Fatal("not done within a minute")
	}
	took := w.now.Sub(time.Unix(0, 0))
	t.Logf("done after %v, %d slices left the seed", took, seed.sent)
	if seed.sent > w.count*3/2 {
		t.Errorf("%d slices of %d left the seed", seed.sent, w.count)
	}
	if best := time.Duration(w.count)*w.line + 60*time.Millisecond; took > 2*best {
		t.Errorf("took %v, at best it is %v", took, best)
	}
}

// TestOneCopyARegion: of four nodes of a region each brings a share from outside.
func TestOneCopyARegion(t *testing.T) {
	w := newWorld(80)
	w.add("aaa", 1, true)
	for i := range 4 {
		w.add("fra", i, false)
		w.add("syd", i, false)
	}
	if !w.run(time.Minute) {
		t.Fatal("not done within a minute")
	}
	t.Logf("done after %v, %d slices crossed", w.now.Sub(time.Unix(0, 0)), w.abroad)
	if w.abroad > 2*w.count*11/10 {
		t.Errorf("%d slices crossed between regions, two copies are %d", w.abroad, 2*w.count)
	}
}

// TestAnyWorld: wherever nodes are, however slow, deaf or false some of them are, a receiver that can
// reach one honest node with all of it gets all, within a time that the honest lines allow.
func TestAnyWorld(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(1 + rng.IntN(60))
		honest := 1 + rng.IntN(2)
		for i := range honest {
			w.add("aaa", i, true)
		}
		for i := range rng.IntN(3) {
			m := w.add([]perigee.Region{"bad", "fra"}[rng.IntN(2)], 50+i, true)
			switch rng.IntN(3) {
			case 0:
				m.deaf = true
			case 1:
				m.liar = true
			case 2:
				m.waits = 3 * time.Second
			}
		}
		receivers := 1 + rng.IntN(6)
		for i := range receivers {
			m := w.add([]perigee.Region{"fra", "syd", "aaa"}[rng.IntN(3)], 10+i, false)
			m.deaf = i > 0 && rng.IntN(4) == 0
		}
		limit := 3*stall + 4*time.Duration(w.count*receivers)*w.line
		if !w.run(limit) {
			for _, m := range w.nodes {
				if m.swarm != nil {
					t.Logf("%s lacks %d", m.id, m.swarm.Left())
				}
			}
			t.Fatalf("world %d: not done within %v", seed, limit)
		}
	}
}

// TestBounds: no source is asked for more than its window, no slice more than twice, and nothing that a
// source did not say it has.
func TestBounds(t *testing.T) {
	now := time.Unix(0, 0)
	s := New("a", "fra", 100, now)
	s.Join(Source{ID: "b", Region: "fra", Complete: true})
	if asks := s.Next(now); len(asks) != firstWindow {
		t.Errorf("%d requests at once of a source that answered none", len(asks))
	}
	s.Join(Source{ID: "c", Region: "fra"})
	if asks := s.Next(now); len(asks) != 0 {
		t.Errorf("%v, of one that has said nothing", asks)
	}
	if !s.Announce("c", 7) || s.Announce("c", 7) || s.Announce("c", -1) || s.Announce("c", 100) {
		t.Error("announcements that can't be are believed, or one that can is not")
	}
	if asks := s.Next(now); !slices.Equal(asks, []Ask{{"c", 7}}) {
		t.Errorf("%v, of one that has slice 7", asks)
	}
	s.Join(Source{ID: "d", Region: "fra", Complete: true})
	s.Join(Source{ID: "e", Region: "fra", Complete: true})
	asked := map[int]int{7: 1}
	for range 200 {
		now = now.Add(100 * time.Millisecond)
		for _, a := range s.Next(now) {
			asked[a.Slice]++
		}
	}
	for i, n := range asked {
		if n > maxPerSlice {
			t.Errorf("slice %d was asked for %d times at once", i, n)
		}
	}
	for _, src := range s.sources {
		if src.flying > src.window {
			t.Errorf("%s has %d requests at once, its window is %d", src.ID, src.flying, src.window)
		}
	}
	s.Busy(Ask{"c", 7}, now)
	for _, a := range s.Next(now) {
		if a.From == "c" {
			t.Error("a busy source is asked again at once")
		}
	}
	s.Drop("d")
	for _, a := range s.Next(now.Add(time.Minute)) {
		if a.From == "d" {
			t.Error("a source that was dropped is asked")
		}
	}
}

// TestLate: what one is late with is asked of another, too; what comes first makes the other useless; and
// what nobody near brings comes from far.
func TestLate(t *testing.T) {
	now := time.Unix(0, 0)
	s := New("a", "fra", 2, now)
	s.Join(Source{ID: "b", Region: "fra", Complete: true})
	s.Join(Source{ID: "c", Region: "syd", Complete: true, RTT: 200 * time.Millisecond})
	if asks := s.Next(now); !slices.Equal(asks, []Ask{{"b", 0}, {"b", 1}}) {
		t.Errorf("at first: %v", asks)
	}
	if asks := s.Next(now.Add(patience / 2)); len(asks) != 0 {
		t.Errorf("from far, while one near may bring it: %v", asks)
	}
	now = now.Add(2 * patience)
	if asks := s.Next(now); !slices.Equal(asks, []Ask{{"c", 0}, {"c", 1}}) {
		t.Errorf("after a while without an answer: %v", asks)
	}
	if useless := s.Arrived(Ask{"c", 1}, now); !slices.Equal(useless, []Ask{{"b", 1}}) || s.Left() != 1 {
		t.Errorf("useless %v, %d left", useless, s.Left())
	}
}

func TestMutants(t *testing.T) { mutant.Run(t, "testdata/mutants.txt") }
