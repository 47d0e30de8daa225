package gossip

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

var testRegions = []perigee.Region{"fra", "wdc", "syd", "ams"}

// fleet starts n nodes that join through the first; fra-1 is a signer.
func (w *world) fleet(n int) []*testNode {
	w.t.Helper()
	var nodes []*testNode
	for i := range n {
		region := testRegions[i%len(testRegions)]
		id := perigee.NodeID(fmt.Sprintf("%s-%d", region, i/len(testRegions)+1))
		node := w.node(id, region, seeds(addrOf("fra-1")))
		node.start()
		nodes = append(nodes, node)
	}
	return nodes
}

// stopAll ends a bubble's nodes, and gives memberlist the time that a probe under way takes to see
// that its list was shut down.
func stopAll(t *testing.T, nodes ...*testNode) {
	t.Helper()
	for _, n := range nodes {
		n.stop(t)
	}
	wait(t.Context(), 30*time.Second)
}

// stateOf returns what a node believes of another; "" when it shows nothing.
func stateOf(n *testNode, id perigee.NodeID) perigee.NodeState {
	if p := n.View().Observed.Nodes[id]; p != nil {
		return p.State
	}
	return ""
}

// allAlive reports whether each node sees each as alive.
func allAlive(nodes ...*testNode) bool {
	for _, n := range nodes {
		for _, m := range nodes {
			if stateOf(n, m.self) != perigee.NodeAlive {
				return false
			}
		}
	}
	return true
}

// equal reports whether all nodes hold the same records.
func equal(nodes ...*testNode) bool {
	for _, n := range nodes[1:] {
		if n.View().Desired.Digest != nodes[0].View().Desired.Digest {
			return false
		}
	}
	return true
}

func hasFunction(name string, nodes ...*testNode) bool {
	for _, n := range nodes {
		if n.View().Desired.Functions[name] == nil {
			return false
		}
	}
	return true
}

func TestConverge(t *testing.T) {
	for _, size := range []int{2, 3, 10} {
		t.Run(fmt.Sprint(size, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				nodes := w.fleet(size)
				took := within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
				t.Logf("all of %d see all after %s", size, took)
				for _, p := range nodes[0].View().Observed.Nodes {
					if p.ID != p.Node || p.Region != perigee.Region(p.ID[:3]) || p.Addr != addrOf(p.ID) || p.Version != "test" || p.Expires.IsZero() {
						t.Errorf("peer %+v", p)
					}
				}

				rev, ptr := w.deploy("operator", manifest("hello"))
				ack := nodes[size-1].submit(t, rev, ptr)
				if len(ack.Stored) < 2 || ack.Stored[0] != nodes[size-1].self {
					t.Errorf("stored on %v, want this node and another", ack.Stored)
				}
				took = within(t, 3*time.Second, "the deploy is everywhere", func() bool { return hasFunction("hello", nodes...) && equal(nodes...) })
				t.Logf("a deploy is on all %d after %s", size, took)

				want := nodes[0].View().Desired.Digest
				within(t, 4*farSpacing, "rows tell the digest", func() bool {
					for _, p := range nodes[1].View().Observed.Nodes {
						if p.Row.Digest != want {
							return false
						}
					}
					return true
				})
				stopAll(t, nodes...)
			})
		})
	}
}

// TestRows changes what a node says and looks at it from another.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(3)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		rev := perigee.RevisionID("0123456789ab")
		kept := map[perigee.RevisionID]perigee.Warmth{rev: perigee.Warm}
		nodes[0].SetRow(func(r *perigee.Row) {
			r.Revisions, r.Node, r.Seq = kept, "mallory", 99
		})
		kept[rev] = perigee.Absent // the caller's own map
		took := within(t, 300*time.Millisecond, "a change that routing depends on", func() bool {
			p := nodes[2].View().Observed.Nodes["fra-1"]
			return p.Revisions[rev] == perigee.Warm
		})
		t.Logf("a warm revision is seen after %s", took)
		nodes[0].SetRow(func(r *perigee.Row) { r.Load.InFlight = 3 })
		within(t, time.Second, "load", func() bool { return nodes[2].View().Observed.Nodes["fra-1"].Load.InFlight == 3 })
		before := nodes[2].View().Observed.Nodes["fra-1"].Seq
		within(t, beat(3)+2*farSpacing, "an unchanged row is repeated", func() bool { return nodes[2].View().Observed.Nodes["fra-1"].Seq > before })
		if self := nodes[0].View().Observed.Nodes["fra-1"]; self.Load.InFlight != 3 || self.State != perigee.NodeAlive {
			t.Errorf("the node sees itself as %+v", self)
		}
		stopAll(t, nodes...)
	})
}

// TestWatch counts Views and signals.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node("fra-1", "fra")
		n.start()
		ctx, cancel := context.WithCancel(t.Context())
		ch := n.Watch(ctx)
		for i := range 30 {
			n.SetRow(func(r *perigee.Row) { r.Load.InFlight = int32(i + 1) })
			wait(ctx, 10*time.Millisecond)
		}
		views := 0
		var last *perigee.Observed
		for start := time.Now(); time.Since(start) < time.Second; wait(ctx, time.Millisecond) {
			n.SetRow(func(r *perigee.Row) { r.Load.InFlight++ })
			if o := n.View().Observed; o != last {
				views, last = views+1, o
			}
		}
		if views < 10 || views > 22 {
			t.Errorf("%d Views in a second of changes, want about 20", views)
		}
		if len(ch) != 1 {
			t.Errorf("%d signals wait, want one", len(ch))
		}
		<-ch
		rev, ptr := w.deploy("operator", manifest("hello"))
		n.submit(t, rev, ptr)
		<-ch
		cancel()
		for range ch { // until it is closed
		}
		stopAll(t, n)
	})
}

// TestDeath kills a node without a word, and starts it again at another address.
func TestDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(5)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		victim, rest := nodes[4], nodes[:4]
		victim.stop(t)
		took := within(t, 10*time.Second, "all notice", func() bool {
			return !slices.ContainsFunc(rest, func(n *testNode) bool { return stateOf(n, victim.self) != perigee.NodeDead })
		})
		t.Logf("a death is noticed by all after %s", took)

		// Records written meanwhile.
		rev, ptr := w.deploy("operator", manifest("hello"))
		if ack := rest[1].submit(t, rev, ptr); len(ack.Stored) < 2 || slices.Contains(ack.Stored, victim.self) {
			t.Errorf("stored on %v", ack.Stored)
		}
		back := victim.moved(w, netip.MustParseAddrPort("10.77.7.7:7443"))
		back.start()
		nodes = append(slices.Clone(rest), back)
		took = within(t, 20*time.Second, "it is back, with what it missed", func() bool { return allAlive(nodes...) && hasFunction("hello", back) })
		t.Logf("back after %s", took)
		within(t, 10*time.Second, "all have its new address", func() bool {
			return !slices.ContainsFunc(nodes, func(n *testNode) bool { return n.View().Observed.Nodes[back.self].Addr != back.port.addr })
		})
		stopAll(t, nodes...)
	})
}

// TestForgotten looks at a dead node for longer than it is shown.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(4)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		nodes[3].stop(t)
		rest := nodes[:3]
		wait(t.Context(), shownDead-time.Minute)
		for _, n := range rest {
			if got := stateOf(n, nodes[3].self); got != perigee.NodeDead {
				t.Errorf("%s sees %q after nine minutes, want dead", n.self, got)
			}
		}
		gone := func() bool {
			return !slices.ContainsFunc(rest, func(n *testNode) bool { return stateOf(n, nodes[3].self) != "" })
		}
		within(t, 2*time.Minute, "it is not shown any more", gone)
		for start := time.Now(); time.Since(start) < time.Minute; wait(t.Context(), 100*time.Millisecond) {
			if !gone() {
				t.Fatal("it came back from somebody's memory")
			}
		}
		stopAll(t, rest...)
	})
}

// TestLeave says goodbye, and comes back.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(4)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		start := time.Now()
		if err := nodes[3].Leave(t.Context()); err != nil {
			t.Errorf("Leave: %v", err)
		}
		if took := time.Since(start); took > leaveTime {
			t.Errorf("Leave took %s", took)
		}
		took := within(t, time.Second, "all heard it", func() bool {
			return !slices.ContainsFunc(nodes, func(n *testNode) bool { return stateOf(n, nodes[3].self) != perigee.NodeLeft })
		})
		t.Logf("a goodbye is heard after %s", took)
		nodes[3].stop(t)
		wait(t.Context(), 20*time.Second)
		for _, n := range nodes[:3] {
			if got := stateOf(n, nodes[3].self); got != perigee.NodeLeft {
				t.Errorf("%s sees %q later, want left", n.self, got)
			}
		}
		nodes[3] = nodes[3].again(w)
		nodes[3].start()
		within(t, 20*time.Second, "it is back", func() bool { return allAlive(nodes...) })
		stopAll(t, nodes...)
	})
}

// TestPartition cuts a cluster in two; both sides go on, and agree when it heals.
func TestPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(8)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		rev, ptr := w.deploy("operator", manifest("both"))
		nodes[0].submit(t, rev, ptr)
		within(t, 3*time.Second, "the deploy is everywhere", func() bool { return hasFunction("both", nodes...) })

		left := func(id perigee.NodeID) bool { return id[:3] == "fra" || id[:3] == "wdc" }
		w.net.partition(func(a, b perigee.NodeID) bool { return left(a) != left(b) })
		var sides [2][]*testNode
		for _, n := range nodes {
			if left(n.self) {
				sides[0] = append(sides[0], n)
			} else {
				sides[1] = append(sides[1], n)
			}
		}
		within(t, 30*time.Second, "the sides lose each other", func() bool {
			return stateOf(sides[0][0], sides[1][0].self) == perigee.NodeDead && stateOf(sides[1][0], sides[0][0].self) == perigee.NodeDead
		})
		// The same function on both sides, and one of its own on each.
		for i, side := range sides {
			rev, ptr := w.deploy("operator", manifest("both"), side[0].Heads("both")...)
			own, ownPtr := w.deploy("operator", manifest(fmt.Sprintf("side%d", i), "www.example.com"))
			if ack := side[0].submit(t, rev, ptr, own, ownPtr); len(ack.Stored) < 2 {
				t.Errorf("side %d: stored on %v", i, ack.Stored)
			}
			within(t, 3*time.Second, "the side agrees", func() bool { return hasFunction(fmt.Sprintf("side%d", i), side...) && equal(side...) })
		}
		wait(t.Context(), 3*time.Minute) // longer than membership remembers the dead
		w.net.partition(nil)
		took := within(t, 2*time.Minute, "all agree after the heal", func() bool { return allAlive(nodes...) && equal(nodes...) })
		t.Logf("healed after %s", took)
		want := describe(nodes[0].View().Desired)
		for _, n := range nodes {
			if got := describe(n.View().Desired); got != want {
				t.Fatalf("%s holds\n%s\nwant\n%s", n.self, got, want)
			}
		}
		fn := nodes[3].View().Desired.Functions["both"]
		if len(fn.Conflicts) != 1 {
			t.Errorf("conflicts %+v, want the deploy of one side", fn.Conflicts)
		}
		if c := nodes[3].View().Desired.Functions["side1"].Contested; len(c) != 1 || c[0].Owner != "side0" {
			t.Errorf("the later claim is contested: %+v", c)
		}
		fix := w.sign("operator", nodes[5].Heads("both"), &record.Pointer{Function: "both", Revision: record.ID(rev)})
		nodes[5].submit(t, fix)
		within(t, 3*time.Second, "the conflict is resolved", func() bool {
			return equal(nodes...) && nodes[0].View().Desired.Functions["both"].Conflicts == nil
		})
		stopAll(t, nodes...)
	})
}

// TestFlapping cuts and heals at random, with packet loss, while people deploy. Nothing that was
// acknowledged may be missing anywhere in the end.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(6)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		w.net.mu.Lock()
		w.net.loss = 0.05
		w.net.mu.Unlock()
		var acked [][]byte
		for round := range 12 {
			cut := nodes[round%len(nodes)].self
			oneWay := round%3 == 0
			w.net.partition(func(a, b perigee.NodeID) bool { return b == cut || !oneWay && a == cut })
			rev, ptr := w.deploy("operator", manifest(fmt.Sprintf("f%d", round)))
			nodes[(round+round%2)%len(nodes)].submit(t, rev, ptr) // now and then on the one that is cut off
			acked = append(acked, rev, ptr)
			wait(t.Context(), time.Duration(1+round%4)*time.Second)
			w.net.partition(nil)
			wait(t.Context(), time.Duration(round%3)*time.Second)
		}
		w.net.mu.Lock()
		w.net.loss = 0
		w.net.mu.Unlock()
		took := within(t, 30*time.Second, "all agree", func() bool { return allAlive(nodes...) && equal(nodes...) })
		t.Logf("calm after %s", took)
		for _, raw := range acked {
			if !nodes[3].core.Holds(record.ID(raw)) {
				t.Error("an acknowledged record is lost")
			}
		}
		stopAll(t, nodes...)
	})
}

// TestFreshNode joins an empty node to a cluster that has much, and one whose seeds are all dead.
func TestFreshNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(2)
		people := w.person("dep", record.TokenDeploy, record.Scope{})
		nodes[0].submit(t, people...)
		var raws [][]byte
		for i := range 700 {
			rev, ptr := w.deploy("dep", manifest(fmt.Sprintf("f%d", i)))
			raws = append(raws, rev, ptr)
		}
		for chunk := range slices.Chunk(raws, 500) {
			nodes[0].submit(t, chunk...)
		}
		fresh := w.node("ams-1", "ams", seeds(netip.MustParseAddrPort("10.99.99.99:7443"), addrOf("fra-1")))
		fresh.start()
		took := within(t, 20*time.Second, "the fresh node has everything", func() bool { return equal(append(nodes, fresh)...) && len(fresh.View().Desired.Functions) == 700 })
		t.Logf("a fresh node has %d records after %s", len(raws)+2, took)
		nodes = append(nodes, fresh)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		wait(t.Context(), 2*peersEvery)

		// All stop; the last to join starts without seeds and finds the others by the file of peers.
		stopAll(t, nodes...)
		for i, n := range nodes {
			n.conf.Seeds = nil
			nodes[i] = n.again(w)
			nodes[i].start()
		}
		took = within(t, 30*time.Second, "they find each other again", func() bool { return allAlive(nodes...) })
		t.Logf("a cluster that was off is whole after %s", took)
		stopAll(t, nodes...)
	})
}

// TestAlone submits to a node whose peers are all gone, and to a node whose peers can't store.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(2)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		nodes[1].conf.FS.(*simdisk.Disk).SetFail(func(string, string) error { return simdisk.ErrPower })
		start := time.Now()
		rev, ptr := w.deploy("operator", manifest("one"))
		if ack := nodes[0].submit(t, rev, ptr); len(ack.Stored) != 1 {
			t.Errorf("stored on %v, though the other can't store", ack.Stored)
		}
		nodes[1].port.serve(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { // holds nothing, and says so
			b, _ := encode(&pushTell{})
			_, _ = rw.Write(b)
		}))
		rev, ptr = w.deploy("operator", manifest("half"))
		if ack := nodes[0].submit(t, rev, ptr); len(ack.Stored) != 1 {
			t.Errorf("stored on %v, though the other said that it is not", ack.Stored)
		}
		nodes[1].stop(t)
		rev, ptr = w.deploy("operator", manifest("two"))
		if ack := nodes[0].submit(t, rev, ptr); len(ack.Stored) != 1 {
			t.Errorf("stored on %v, though the other is dead", ack.Stored)
		}
		if took := time.Since(start); took > 2*replicateTime+time.Second {
			t.Errorf("two submissions took %s", took)
		}
		within(t, 15*time.Second, "it notices", func() bool { return stateOf(nodes[0], nodes[1].self) == perigee.NodeDead })
		start = time.Now()
		nodes[0].submit(t, rev, ptr)
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("a submission with no peer alive took %s", took)
		}
		stopAll(t, nodes[0])
	})
}

// TestRevokedNode revokes a member: it is dropped everywhere, and what it sends is refused.
func TestRevokedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(4)
		within(t, 20*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		nodes[0].submit(t, w.sign("operator", nil, &record.Revoke{Node: nodes[3].self}))
		rest := nodes[:3]
		took := within(t, 5*time.Second, "nobody shows it", func() bool {
			return !slices.ContainsFunc(rest, func(n *testNode) bool {
				return stateOf(n, nodes[3].self) != "" || !n.View().Desired.Revoked[nodes[3].self]
			})
		})
		t.Logf("a revoked node is gone after %s", took)
		if _, err := nodes[3].port.Call(t.Context(), "fra-1", pathSync, nil); err == nil {
			t.Error("a revoked node is answered")
		}
		for start := time.Now(); time.Since(start) < 20*time.Second; wait(t.Context(), 100*time.Millisecond) {
			for _, n := range rest {
				if got := stateOf(n, nodes[3].self); got != "" {
					t.Fatalf("%s shows it as %s again", n.self, got)
				}
			}
		}
		stopAll(t, nodes...)
	})
}

// TestNoMembership runs nodes whose membership keys differ: they can't prove that they live by
// packets, but state still flows, and they are suspected, not dead.
func TestNoMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.node("fra-1", "fra", seeds(addrOf("syd-1")))
		b := w.node("syd-1", "syd", seeds(addrOf("fra-1")), func(c *Config) { c.GossipKey = make([]byte, gossipKeySize) })
		a.start()
		b.start()
		rev, ptr := w.deploy("operator", manifest("hello"))
		a.submit(t, rev, ptr)
		took := within(t, 15*time.Second, "state flows without membership", func() bool { return hasFunction("hello", b) })
		t.Logf("state flows after %s", took)
		within(t, 15*time.Second, "they are suspected", func() bool {
			return stateOf(a, "syd-1") == perigee.NodeSuspect && stateOf(b, "fra-1") == perigee.NodeSuspect
		})
		stopAll(t, a, b)
	})
}

// TestManyMembers has many nodes join at once through one seed.
func TestManyMembers(t *testing.T) {
	size := 25
	if figures {
		size = 100
	} else if testing.Short() {
		t.Skip("takes some seconds")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nodes := w.fleet(size)
		took := within(t, 90*time.Second, "all see all", func() bool { return allAlive(nodes...) })
		t.Logf("all of %d see all after %s", len(nodes), took)
		if took > 30*time.Second {
			t.Errorf("views were full after %s, want 30 s", took)
		}
		figure("sim_join100_s", took.Seconds())
		rev, ptr := w.deploy("operator", manifest("hello"))
		nodes[7].submit(t, rev, ptr)
		took = within(t, 3*time.Second, "a deploy is everywhere", func() bool { return hasFunction("hello", nodes...) })
		t.Logf("a deploy is on all %d after %s", len(nodes), took)
		stopAll(t, nodes...)
	})
}
