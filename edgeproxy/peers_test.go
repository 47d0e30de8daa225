package edgeproxy

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

var peersKnown = map[perigee.NodeID]*perigee.Peer{"fra-1": {}, "syd-1": {}}

func factOf(t *peers, id perigee.NodeID, now time.Time) (f placement.Fact) {
	t.fact(&f, id, testRev, now)
	return f
}

// try sends one request that ends with a refusal, or an answer for code "".
func try(t *testing.T, p *peers, now time.Time, code perigee.RefuseCode) {
	t.Helper()
	tr, ok := p.begin("fra-1", testRev, peersKnown, now, false)
	if !ok {
		t.Fatal("not let through")
	}
	if code == "" {
		tr.answered()
	} else {
		tr.refused(&perigee.HopError{Code: code}, now)
	}
	tr.done()
}

func TestPeersEjection(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	if f := factOf(p, "fra-1", now); f != (placement.Fact{}) {
		t.Fatalf("a stranger has facts: %+v", f)
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
		try(t, p, now, perigee.RefusedSilent)
		if got := factOf(p, "fra-1", now).EjectedUntil.Sub(now); got != want*time.Second {
			t.Fatalf("failure %d: ejected for %v, want %v", i+1, got, want*time.Second)
		}
		now = factOf(p, "fra-1", now).EjectedUntil
	}
	try(t, p, now, "")
	if f := factOf(p, "fra-1", now); f.EjectedUntil.After(now) {
		t.Errorf("still ejected after an answer: %+v", f)
	}
	try(t, p, now, perigee.RefusedUnreachable)
	equal(t, "the first ejection after an answer", factOf(p, "fra-1", now).EjectedUntil.Sub(now), time.Second)
}

func TestPeersFailuresAtOnceAreOne(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	var trips []trip
	for range 20 {
		tr, _ := p.begin("fra-1", testRev, peersKnown, now, false)
		trips = append(trips, tr)
	}
	later := now.Add(300 * time.Millisecond)
	for _, tr := range trips {
		tr.refused(&perigee.HopError{Code: perigee.RefusedSilent}, later)
		tr.done()
	}
	equal(t, "ejection", factOf(p, "fra-1", later).EjectedUntil.Sub(later), time.Second)
}

func TestPeersHalfOpen(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	try(t, p, now, perigee.RefusedSilent)
	now = now.Add(time.Second)
	probe, ok := p.begin("fra-1", testRev, peersKnown, now, false)
	if !ok {
		t.Fatal("nobody may try the node")
	}
	if _, ok := p.begin("fra-1", testRev, peersKnown, now, false); ok {
		t.Error("two requests try the node")
	}
	if f := factOf(p, "fra-1", now); !f.EjectedUntil.After(now) {
		t.Error("while one tries it, it looks healthy")
	}
	forced, ok := p.begin("fra-1", testRev, peersKnown, now, true)
	if !ok {
		t.Error("a request with no other choice is held back")
	}
	forced.done()
	if _, ok := p.begin("fra-1", testRev, peersKnown, now, false); ok {
		t.Error("the end of another request ended the probe")
	}
	probe.done() // its client went away
	try(t, p, now, "")
	if tr, ok := p.begin("fra-1", testRev, peersKnown, now, false); !ok {
		t.Error("not open after an answer")
	} else {
		tr.done()
	}
}

func TestPeersRefusals(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		code    perigee.RefuseCode
		ejected time.Duration
		penalty time.Duration
	}{
		{perigee.RefusedDraining, time.Second, 0},
		{perigee.RefusedNotHere, 0, missPenalty},
		{perigee.RefusedNotAllowed, 0, missPenalty},
		{perigee.RefusedOverloaded, 0, busyPenalty},
		{perigee.RefusedDeadline, 0, 0},
	} {
		p := newPeers()
		try(t, p, now.Add(-time.Hour), perigee.RefusedSilent)
		try(t, p, now, c.code)
		f := factOf(p, "fra-1", now)
		if max(0, f.EjectedUntil.Sub(now)) != c.ejected || f.Penalty != c.penalty {
			t.Errorf("%s: got %+v", c.code, f)
		}
		var other placement.Fact
		p.fact(&other, "fra-1", "0other", now)
		if other.Penalty != 0 {
			t.Errorf("%s: another revision suffers too", c.code)
		}
		try(t, p, now, perigee.RefusedSilent)
		equal(t, string(c.code)+": a word from the node ends its row of failures", factOf(p, "fra-1", now).EjectedUntil.Sub(now), time.Second)
	}
}

func TestPeersLoadAndInFlight(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	a, _ := p.begin("fra-1", testRev, peersKnown, now, false)
	b, _ := p.begin("fra-1", testRev, peersKnown, now, false)
	a.report(perigee.Load{}, now) // says nothing
	if f := factOf(p, "fra-1", now); f.InFlight != 2 || !f.LoadAt.IsZero() {
		t.Errorf("got %+v", f)
	}
	load := perigee.Load{InFlight: 3, Slots: 4}
	a.refused(&perigee.HopError{Code: perigee.RefusedOverloaded, Load: &load}, now)
	a.done()
	if f := factOf(p, "fra-1", now); f.InFlight != 1 || f.Load != load || f.LoadAt != now || f.Penalty != 0 {
		t.Errorf("got %+v", f)
	}
	b.done()
	equal(t, "in flight at the end", factOf(p, "fra-1", now).InFlight, 0)
}

func TestPeersPenaltyDecays(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	tr, _ := p.begin("fra-1", testRev, peersKnown, now, false)
	tr.lost(now)
	tr.lost(now)
	equal(t, "two losses", factOf(p, "fra-1", now).Penalty, 2*lostPenalty)
	equal(t, "a half-life later", factOf(p, "fra-1", now.Add(penaltyHalf)).Penalty, lostPenalty)
	equal(t, "much later", factOf(p, "fra-1", now.Add(time.Hour)).Penalty, 0)
	for range 100 {
		tr.lost(now)
	}
	equal(t, "many losses", factOf(p, "fra-1", now).Penalty, maxPenalty)
	equal(t, "before", factOf(p, "fra-1", now.Add(-time.Hour)).Penalty, maxPenalty) // a clock that was set back
	tr.answered()
	equal(t, "after an answer", factOf(p, "fra-1", now).Penalty, 0)
	tr.done()
}

func TestPeersIsBounded(t *testing.T) {
	p, now := newPeers(), time.Unix(1000, 0)
	for i := range 500 {
		id := perigee.NodeID(fmt.Sprintf("n%d", i))
		tr, _ := p.begin(id, testRev, map[perigee.NodeID]*perigee.Peer{id: {}}, now, false)
		tr.done()
	}
	if n := len(*p.table.Load()); n > 1 {
		t.Errorf("the table has %d nodes, the View 1", n)
	}
	held, _ := p.begin("fra-1", "0held", peersKnown, now, false)
	for i := range 3 * maxRevisions {
		tr, _ := p.begin("fra-1", perigee.RevisionID(fmt.Sprint(i)), peersKnown, now, false)
		tr.done()
	}
	if n := len((*p.table.Load())["fra-1"].revisions); n > maxRevisions {
		t.Errorf("%d revisions, the limit is %d", n, maxRevisions)
	}
	var f placement.Fact
	p.fact(&f, "fra-1", "0held", now)
	equal(t, "what is in flight is kept", f.InFlight, 1)
	held.done()
}

func TestPeersConcurrently(t *testing.T) {
	p := newPeers()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				id := perigee.NodeID([]string{"fra-1", "syd-1"}[(i+j)%2])
				now := time.Now()
				tr, ok := p.begin(id, testRev, peersKnown, now, j%2 == 0)
				_ = factOf(p, id, now)
				if !ok {
					continue
				}
				switch j % 4 {
				case 0:
					tr.refused(&perigee.HopError{Code: perigee.RefusedSilent}, now)
				case 1:
					tr.lost(now)
				default:
					tr.answered()
				}
				tr.report(perigee.Load{InFlight: 1, Slots: 2}, now)
				tr.done()
			}
		})
	}
	wg.Wait()
	for _, id := range []perigee.NodeID{"fra-1", "syd-1"} {
		equal(t, "in flight to "+string(id), factOf(p, id, time.Now()).InFlight, 0)
	}
}
