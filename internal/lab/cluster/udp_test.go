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

// TestBlockedUDP has a node join that a firewall leaves no UDP: it takes part over TCP, as a holder, as a gateway and
// as the one that deploys, is missed when it is killed and comes back, goes over to UDP when that gets through, and
// back when it does not any more.
func TestBlockedUDP(t *testing.T) {
	s := begin(t, "fra", "wdc")
	fra, wdc := s.member("fra"), s.member("wdc")
	sao, err := s.Join(t.Context(), "sao-1", "sao", lab.NodeConfig{NoUDP: true})
	s.must(err)
	all := s.Members()
	s.settle(30*time.Second, all...)
	s.over(30*time.Second, "tcp", sao, fra, wdc)
	if n, err := s.state(fra, wdc.ID); err != nil || n.Over != "udp" {
		t.Errorf("fra reaches wdc over %q, %v: the others' UDP gets through", n.Over, err)
	}
	if out, err := fra.Exec(t.Context(), "status"); err != nil || !strings.Contains(out, "UDP does not get through to sao-1") {
		t.Errorf("perigee status: %v\n%s", err, out)
	}

	rev := s.deploy(sao, "hello", "one", `placement.pin = ["sao"]`)
	s.must(cluster.Warm(t.Context(), 20*time.Second, "hello", rev, all...))
	s.deploy(fra, "far", "there", `placement.pin = ["wdc"]`)
	for _, m := range all {
		s.answers(10*time.Second, m, "hello", "one")
		s.answers(10*time.Second, m, "far", "there")
	}
	s.stays(15*time.Second, sao, fra, wdc)

	sao.Kill()
	s.settle(30*time.Second, fra, wdc)
	s.must(sao.Restart(t.Context()))
	s.settle(30*time.Second, all...)
	s.over(30*time.Second, "tcp", sao, fra, wdc)
	s.answers(10*time.Second, fra, "hello", "one")

	// A process that takes over from another gets the TCP port, too, and what is new from who is connected already.
	if _, err := fra.Exec(t.Context(), "node", "upgrade"); err != nil {
		t.Fatal(err)
	}
	s.answers(20*time.Second, sao, "hello", "one")
	s.settle(30*time.Second, all...)
	s.over(30*time.Second, "tcp", sao, fra, wdc)
	s.answers(10*time.Second, fra, "hello", "one")

	sao.DropUDP(false)
	s.over(90*time.Second, "udp", sao, fra, wdc)
	s.answers(5*time.Second, fra, "hello", "one")
	s.stays(5*time.Second, sao, fra, wdc)

	sao.DropUDP(true)
	for _, from := range []*cluster.Member{fra, wdc} {
		began := time.Now()
		s.answers(30*time.Second, from, "hello", "one")
		t.Logf("%s answers %v after its UDP was cut off", from.ID, time.Since(began).Round(time.Millisecond))
	}
	s.over(60*time.Second, "tcp", sao, fra, wdc)
	s.settle(60*time.Second, all...)
	s.stays(10*time.Second, sao, fra, wdc)
}

// over waits until a node and others reach each other over UDP or TCP, and see each other alive.
func (s *story) over(within time.Duration, way string, of *cluster.Member, others ...*cluster.Member) {
	s.Helper()
	s.until(within, fmt.Sprintf("%s is reached over %s", of.ID, way), func() error {
		for _, o := range others {
			for _, pair := range [][2]*cluster.Member{{o, of}, {of, o}} {
				n, err := s.state(pair[0], pair[1].ID)
				if err != nil {
					return err
				}
				if n.Over != way || n.State != perigee.NodeAlive {
					return fmt.Errorf("%s sees %s over %q, %s", pair[0].ID, pair[1].ID, n.Over, n.State)
				}
			}
		}
		return nil
	})
}

// stays looks for a while whether a node is ever held for dead, and counts how often for suspect.
func (s *story) stays(d time.Duration, of *cluster.Member, others ...*cluster.Member) {
	s.Helper()
	looks, suspect := 0, 0
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, o := range others {
			n, err := s.state(o, of.ID)
			s.must(err)
			if looks++; n.State == perigee.NodeSuspect {
				suspect++
			} else if n.State != perigee.NodeAlive {
				s.Errorf("%s is %s for %s", of.ID, n.State, o.ID)
			}
		}
	}
	s.Logf("%s was suspect in %d of %d looks", of.ID, suspect, looks)
}
