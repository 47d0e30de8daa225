package node

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/swarm"
)

// TestSliceList: a node that fetches a bundle says what it has of it as it comes, and passes it on before it
// is complete; what it says that can't be is noticed.
func TestSliceList(t *testing.T) {
	t.Parallel()
	s, wdc, _ := pair(t)
	p := s.pack("a", bytes.Repeat([]byte("0123456789abcdef"), 5*digest.SliceSize/16), perigee.Policy{})
	rev, _, _ := s.sign(p)
	if err := s.rep.expect(&perigee.Function{Name: "a", Live: rev}); err != nil {
		t.Fatal(err)
	}
	archive := whole(t, p)
	tree, _, err := digest.Tree(bytes.NewReader(archive), p.archive.Size)
	if err != nil {
		t.Fatal(err)
	}
	coming, err := s.deployer.store.Partial(rev.Bundle, p.archive.Size)
	if err != nil {
		t.Fatal(err)
	}
	add := func(i int) {
		t.Helper()
		at, n := digest.Span(p.archive.Size, i)
		sealed, err := digest.Seal(archive[at:at+n], tree, i)
		if err == nil {
			err = coming.Add(i, sealed)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(3)

	into, err := wdc.rep.store.Partial(rev.Bundle, p.archive.Size)
	if err != nil {
		t.Fatal(err)
	}
	defer into.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := &fetching{
		r: wdc.rep, rev: rev, into: into, swarm: swarm.New("wdc-1", "wdc", into.Count(), time.Now()), ctx: ctx, events: make(chan func(), 64),
		cancels: map[swarm.Ask]context.CancelCauseFunc{}, later: map[perigee.NodeID]time.Time{}, errs: map[perigee.NodeID]error{}, gave: map[perigee.NodeID]int{},
	}
	f.swarm.Join(swarm.Source{ID: "fra-1", Region: "fra"})
	ended := make(chan error, 1)
	go func() { ended <- f.readList("fra-1") }()
	next := func(what string, want int) {
		t.Helper()
		for { // shares hold others' slices back for a moment
			select {
			case event := <-f.events:
				event()
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatal(what)
			}
			for _, a := range f.swarm.Next(time.Now()) {
				if a.Slice != want {
					t.Fatalf("%s: slice %d is asked for, want %d", what, a.Slice, want)
				}
				f.cancels[a] = func(error) {}
				outcome, err := f.take(ctx, func(error) {}, a)
				if outcome != sliceOK {
					t.Fatalf("%s: %s, %v", what, outcome, err)
				}
				f.settle(a, outcome, err)
				return
			}
		}
	}
	next("what was there", 3)
	add(1)
	next("what came then", 1)
	if got, _, _ := into.After(0); len(got) != 2 {
		t.Errorf("%v are here, want two slices", got)
	}
	if outcome, err := f.take(ctx, func(error) {}, swarm.Ask{From: "fra-1", Slice: 2}); outcome != sliceAbsent {
		t.Errorf("a slice that has not come there: %s, %v", outcome, err)
	}
	if err := coming.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a fetch that was given up looks like one that is complete")
		}
	case <-time.After(10 * time.Second):
		t.Error("the list goes on after the fetch was given up")
	}
	if err := f.readList("fra-1"); !errors.Is(err, errNotComing) {
		t.Errorf("the list of what is not fetched: %v", err)
	}
	if _, err := s.deployer.store.Slice(rev.Bundle, 3); !errors.Is(err, bundle.ErrNotFound) {
		t.Errorf("a slice of a fetch that was given up: %v", err)
	}
}

// TestFetchOutside: a node does not ask for what it may not hold, whoever would send it.
func TestFetchOutside(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", guest("1"), perigee.Policy{Residency: []string{"wdc"}})
	rev, _, _ := s.sign(p)
	s.serveFrom(map[perigee.NodeID]peer{"careless": honest(t, p)})
	if err := s.rep.fetch(t.Context(), rev, "careless"); err == nil || !strings.Contains(err.Error(), "fra-1 may not hold it") {
		t.Errorf("a bundle that must stay elsewhere: %v", err)
	}
	s.wantStored("a bundle that must stay elsewhere")
}

// TestSends: answers under way are bounded, for one node and for all.
func TestSends(t *testing.T) {
	s := sends{byPeer: map[perigee.NodeID]int{}}
	for i := range maxPeerSends {
		if !s.begin("a") {
			t.Fatalf("place %d is refused", i)
		}
	}
	if s.begin("a") || !s.begin("b") {
		t.Error("one node may have more than its places, or takes those of others")
	}
	s.end("a")
	if !s.begin("a") {
		t.Error("a place that is free again is refused")
	}
	for i := range maxSends {
		s.begin(perigee.NodeID(rune('c' + i%20)))
	}
	if s.all != maxSends || s.begin("z") {
		t.Errorf("%d answers are under way, the limit is %d", s.all, maxSends)
	}
}
