//go:build linux

package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/internal/lab/cluster"
)

// TestPartition splits six nodes in the middle in each way there is, deploys on both sides at once, and heals: both
// sides go on, then all have the same state, one winner, and know of the loser.
func TestPartition(t *testing.T) {
	s := begin(t, six...)
	west, east := s.members("fra", "wdc", "mad"), s.members("syd", "tok", "sao")
	for _, kind := range []struct {
		name  string
		split func()
	}{
		{"two-way", func() { s.lab.Partition(machines(west), machines(east)) }},
		{"one-way", func() { s.lab.Cut(machines(west), machines(east)) }},
		{"flapping", func() { s.lab.Flap(machines(west), machines(east), 700*time.Millisecond) }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if testing.Short() && kind.name != "two-way" {
				t.Skip("not in the short form")
			}
			s := &story{T: t, lab: s.lab, Cluster: s.Cluster}
			s.deploy(west[0], "hello", "before "+kind.name, "")
			for _, m := range s.Members() {
				s.answers(15*time.Second, m, "hello", "before "+kind.name)
			}
			kind.split()
			defer s.lab.Heal()
			if kind.name == "two-way" {
				s.settle(30*time.Second, west...)
				s.settle(30*time.Second, east...)
			}
			left := s.deploy(west[1], "hello", "west "+kind.name, "")
			right := s.deploy(east[1], "hello", "east "+kind.name, "")
			if kind.name == "two-way" {
				for _, m := range west {
					s.answers(15*time.Second, m, "hello", "west two-way")
				}
				for _, m := range east {
					s.answers(15*time.Second, m, "hello", "east two-way")
				}
			}
			s.lab.Heal()
			s.until(20*time.Second, "equal after the heal", func() error { return cluster.Agree(s.Context(), 0, s.Members()...) })
			for _, m := range s.Members() {
				f, _, err := m.Client.Function(t.Context(), "hello")
				s.must(err)
				if f.Live.ID != left && f.Live.ID != right {
					t.Errorf("%s has %s live, want one of %s and %s", m.ID, f.Live.ID, left, right)
				}
				want := 1
				if kind.name == "flapping" {
					want = len(f.Conflicts) // one side may have heard of the other's in time
				}
				if len(f.Conflicts) != want {
					t.Errorf("%s lists %v, want the other revision", m.ID, f.Conflicts)
				}
			}
			if kind.name == "two-way" {
				out, err := west[0].Exec(t.Context(), "show", "hello")
				if err != nil || !strings.Contains(out, "conflict: ") {
					t.Errorf("perigee show: %v\n%s", err, out)
				}
			}
			s.oneText(west[0], s.Members())
			s.settle(30*time.Second, s.Members()...)
		})
	}
}

// oneText waits until all gateways give the same text, whichever it is.
func (s *story) oneText(first *cluster.Member, all []*cluster.Member) {
	s.Helper()
	s.until(20*time.Second, "all answer alike", func() error {
		want, _, err := get(s.Context(), first, "hello")
		for _, m := range all {
			text, receipt, err := get(s.Context(), m, "hello")
			if err != nil || text != want {
				return fmt.Errorf("%s gives %q, %v (%s), %s gives %q", m.ID, text, err, receipt, first.ID, want)
			}
		}
		return err
	})
}

// TestRemoved removes one node that hears of it, and one that is cut off at that moment and comes back.
func TestRemoved(t *testing.T) {
	s := begin(t, "fra", "wdc", "mad", "syd")
	fra, wdc, mad, syd := s.member("fra"), s.member("wdc"), s.member("mad"), s.member("syd")
	s.deploy(fra, "hello", "hi", `placement.pin = ["wdc", "syd"]`)
	s.answers(15*time.Second, wdc, "hello", "hi")

	_, err := fra.Exec(t.Context(), "node", "rm", "wdc-1")
	s.must(err)
	s.ends(wdc, 10*time.Second)
	s.answers(5*time.Second, mad, "hello", "hi")

	s.lab.Partition(machines([]*cluster.Member{syd}), machines(s.Members()))
	_, err = fra.Exec(t.Context(), "node", "rm", "syd-1")
	s.must(err)
	s.settle(20*time.Second, fra, mad)
	s.lab.Heal()
	s.ends(syd, 20*time.Second)
	for _, gone := range []*cluster.Member{wdc, syd} {
		if err := gone.Start("node", "run"); err != nil {
			t.Fatal(err)
		}
		s.ends(gone, 20*time.Second)
	}
	s.settle(10*time.Second, fra, mad)
}

// ends waits until a node that was removed has ended by itself, and said why.
func (s *story) ends(m *cluster.Member, within time.Duration) {
	s.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.Context(), within)
	defer cancel()
	if err := m.Wait(ctx); err == nil || ctx.Err() != nil {
		s.Errorf("%s was removed, and ended with %v within %v", m.ID, err, within)
		m.Kill()
		return
	}
	s.Logf("%s ended %v after it could know", m.ID, time.Since(began).Round(time.Millisecond))
	if log := m.LogEnd(); !strings.Contains(log, "removed") {
		s.Errorf("%s does not say why it ended:\n%s", m.ID, log)
	}
}
