package gossip

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
)

// figures says that the whole runs are wanted, whose results make bench-cluster prints.
var figures = os.Getenv("PERIGEE_FIGURES") != ""

// figure prints a line for make bench-cluster.
func figure(name string, value any) {
	if figures {
		fmt.Printf("FIGURE %s %v\n", name, value)
	}
}

// TestFalseDeaths has one node that gets 5 % of a processor, and loses 10 % of the packets of all
// others: nobody may be taken for dead.
func TestFalseDeaths(t *testing.T) {
	size, span := 8, 3*time.Minute
	if figures {
		size, span = 20, 30*time.Minute
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(size)
		within(t, 60*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		w.net.mu.Lock()
		w.net.loss, w.net.slow = 0.1, nodes[size/2].self
		w.net.mu.Unlock()
		dead := map[[2]perigee.NodeID]bool{}
		deaths, suspected, looks := 0, 0, 0
		for start := time.Now(); time.Since(start) < span; wait(t.Context(), 200*time.Millisecond) {
			for _, n := range nodes {
				for id, p := range n.View().Observed.Nodes {
					pair := [2]perigee.NodeID{n.self, id}
					if p.State == perigee.NodeDead && !dead[pair] {
						deaths++
					}
					if p.State == perigee.NodeSuspect {
						suspected++
					}
					dead[pair] = p.State == perigee.NodeDead
					looks++
				}
			}
		}
		if deaths > 0 {
			t.Errorf("%d times a node took a living one for dead", deaths)
		}
		t.Logf("%d nodes, %s: %d deaths; suspected in %.4f of all looks", size, span, deaths, float64(suspected)/float64(looks))
		figure("false_deaths", deaths)
		figure("false_deaths_trials", size*(size-1))
		w.net.mu.Lock()
		w.net.loss, w.net.slow = 0, ""
		w.net.mu.Unlock()
		stopAll(t, nodes...)
	})
}

// TestDetect kills nodes without a word, one after another.
func TestDetect(t *testing.T) {
	size, kills := 12, 3
	if figures {
		size, kills = 50, 5
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(size)
		within(t, 120*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		var took []time.Duration
		for range kills {
			victim := nodes[len(nodes)-1]
			nodes = nodes[:len(nodes)-1]
			victim.stop(t)
			took = append(took, within(t, 15*time.Second, "all notice", func() bool {
				for _, n := range nodes {
					if stateOf(n, victim.self) != perigee.NodeDead {
						return false
					}
				}
				return true
			}))
			t.Logf("%s is out of %d views after %s", victim.self, len(nodes), took[len(took)-1])
			wait(t.Context(), 10*time.Second)
		}
		slices.Sort(took)
		if median := took[len(took)/2]; median > 8*time.Second { // one may be late: nodes are probed in an order of chance
			t.Errorf("deaths were noticed after %s", took)
		}
		figure("detect_ms", took[len(took)-1].Milliseconds())
		stopAll(t, nodes...)
	})
}
