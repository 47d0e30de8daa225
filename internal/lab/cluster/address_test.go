//go:build linux

package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
)

// TestNAT joins a node whose address is translated one to one, and refuses one behind a box that lets in only
// answers, which says what to do and leaves the token good.
func TestNAT(t *testing.T) {
	s := begin(t, "fra", "wdc")
	fra, wdc := s.member("fra"), s.member("wdc")

	token, err := s.Token(t.Context(), "mad")
	s.must(err)
	cone, err := s.lab.NodeWith("cone", "mad", lab.NodeConfig{NAT: lab.NATCone})
	s.must(err)
	join := []string{"node", "run", "--join", token, "--https", "", "--http", "", "--advertise", cone.Addr().String() + ":7443"}
	if _, err := cone.Exec(t.Context(), join...); err == nil || !strings.Contains(err.Error(), "does not answer from") || !strings.Contains(err.Error(), "the token is still good") {
		t.Errorf("a node that nobody can reach: %v", err)
	}

	machine, err := s.lab.NodeWith("reserved", "mad", lab.NodeConfig{NAT: lab.NATOneToOne}) // its address is the next one's neighbour
	s.must(err)
	next := machine.Addr().Next()
	mad, err := s.JoinBy(t.Context(), token, "mad-1", "mad", lab.NodeConfig{NAT: lab.NATOneToOne}, "--advertise", next.String()+":7443")
	s.must(err)
	if mad.Addr() != next {
		t.Fatalf("the lab gave %s, want %s", mad.Addr(), next)
	}
	s.settle(20*time.Second, s.Members()...)
	for _, m := range []*cluster.Member{fra, wdc} {
		if n, err := s.state(m, "mad-1"); err != nil || n.Addr.Addr() != next {
			t.Errorf("%s sees mad-1 at %v, %v; want %s", m.ID, n.Addr, err, next)
		}
	}
	s.deploy(mad, "hello", "hi", `placement.pin = ["mad"]`)
	s.answers(15*time.Second, wdc, "hello", "hi")
}

// TestMove gives a node another address while it is stopped. It keeps its name and its work.
func TestMove(t *testing.T) {
	s := begin(t, "fra", "wdc", "mad")
	fra, wdc, mad := s.member("fra"), s.member("wdc"), s.member("mad")
	s.deploy(fra, "hello", "hi", `placement.pin = ["mad"]`)
	s.answers(15*time.Second, wdc, "hello", "hi")

	mad.Kill()
	s.must(mad.Move())
	s.must(mad.Restart(t.Context()))
	s.seenAt(30*time.Second, mad, fra, wdc)
	s.settle(20*time.Second, s.Members()...)
	for _, m := range s.Members() {
		s.answers(10*time.Second, m, "hello", "hi")
	}
}

// TestMoveWhileRunning gives a node another address while it runs: it tells the others by itself, and keeps its
// name and its work.
func TestMoveWhileRunning(t *testing.T) {
	s := begin(t, "fra", "wdc", "mad")
	fra, wdc, mad := s.member("fra"), s.member("wdc"), s.member("mad")
	s.deploy(fra, "hello", "hi", `placement.pin = ["mad"]`)
	s.answers(15*time.Second, wdc, "hello", "hi")

	s.must(mad.Move())
	s.seenAt(60*time.Second, mad, fra, wdc)
	for _, m := range s.Members() {
		s.answers(20*time.Second, m, "hello", "hi")
	}
}

// seenAt waits until others see a member alive at the address that it has now.
func (s *story) seenAt(within time.Duration, m *cluster.Member, others ...*cluster.Member) {
	s.Helper()
	s.until(within, "seen at the new address", func() error {
		for _, by := range others {
			n, err := s.state(by, m.ID)
			if err != nil {
				return err
			}
			if n.State != perigee.NodeAlive || n.Addr.Addr() != m.Addr() {
				return fmt.Errorf("%s sees %s %s at %s, want %s", by.ID, m.ID, n.State, n.Addr, m.Addr())
			}
		}
		return nil
	})
}
