package gossip

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// breaks is a reader that a function named poison breaks.
func breaks(_ *perigee.Desired, functions []string) {
	if slices.Contains(functions, "poison") {
		panic("poison")
	}
}

// TestPoisonedRecord submits a record that breaks every reader to one of four nodes: it is the only one that
// meets it, goes on, says what it is, and starts again.
func TestPoisonedRecord(t *testing.T) {
	w := newWorld(t)
	nodes := []*testNode{w.node("fra-1", "fra", func(c *Config) { c.Read = breaks })}
	for _, id := range []perigee.NodeID{"fra-2", "wdc-1", "syd-1"} {
		nodes = append(nodes, w.node(id, perigee.Region(id[:3]), func(c *Config) { c.Read = breaks }, seeds(nodes[0].conf.Advertise)))
	}
	for _, n := range nodes {
		n.start()
		defer func() { n.stop(t) }()
	}
	poisonRev, poisonPtr := w.deploy("operator", manifest("poison"))
	first := nodes[0]
	_, err := first.Submit(t.Context(), poisonRev, poisonPtr)
	if RuleOf(err) != RuleShape || !strings.Contains(err.Error(), "passes it on to nobody") {
		t.Fatalf("the poison was taken: %v", err)
	}
	if _, err := first.Submit(t.Context(), poisonRev); RuleOf(err) != RuleShape {
		t.Errorf("once more: %v", err)
	}
	rev, ptr := w.deploy("operator", manifest("good"))
	if _, err := first.Submit(t.Context(), rev, ptr); err != nil {
		t.Fatalf("a good one after it: %v", err)
	}
	poisoned := 0
	for _, n := range nodes {
		deadline := time.Now().Add(10 * time.Second)
		for n.View().Desired.Functions["good"] == nil {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not know the good function", n.self)
			}
			time.Sleep(10 * time.Millisecond) // between two looks
		}
		if len(n.Asides()) > 0 {
			poisoned++
		}
		if n.View().Desired.Functions["poison"] != nil {
			t.Errorf("%s has the poison", n.self)
		}
	}
	if poisoned > 1 {
		t.Errorf("poisoned_nodes %d, want 1 at most", poisoned)
	}
	if first.conf.FS.(*simdisk.Disk).Get("/state/aside/"+hexOf(poisonRev)+".rec") == nil {
		t.Error("it is not kept for a person to look at")
	}
}

func hexOf(raw []byte) string { return strings.TrimPrefix(record.ID(raw).String(), "b3:") }

// TestAsideAtStart starts a node whose log has a record that breaks this release, among others in a sealed
// snapshot, and then a release that can read it.
func TestAsideAtStart(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	var raws [][]byte
	for _, name := range []string{"a", "poison", "b"} {
		rev, ptr := w.deploy("operator", manifest(name))
		raws = append(raws, rev, ptr)
	}
	n.take(raws)
	n.conf.Read = breaks
	for range 2 {
		n = n.again(w)
		if f := n.View().Desired.Functions; f["a"] == nil || f["b"] == nil || f["poison"] != nil {
			t.Fatalf("functions: %v", f)
		}
		if got := n.Asides(); len(got) != 2 || !strings.Contains(got[0].Why, "poison") {
			t.Errorf("set aside: %v", got)
		}
		rev, ptr := w.deploy("operator", manifest("c"))
		n.log.dirty = true // the next append writes all that is kept
		n.take([][]byte{rev, ptr})
	}
	n.conf.Read = nil
	if n = n.again(w); n.View().Desired.Functions["poison"] == nil || len(n.Asides()) != 0 {
		t.Errorf("a release that can read it: %v", n.Asides())
	}
}

// TestDeadlyRecord has a record end the process that reads it, which no reader can catch: the second start
// dies of it too, the third does not read it, and has everything else.
func TestDeadlyRecord(t *testing.T) {
	w := newWorld(t)
	var died *simdisk.Disk // as the process that died left it
	var conf Config
	n := w.node("fra-1", "fra", func(c *Config) {
		c.Boot = "1"
		sim := c.FS.(*simdisk.Disk)
		c.Read = func(_ *perigee.Desired, functions []string) {
			if slices.Contains(functions, "poison") && died == nil {
				died = simdisk.New()
				for _, name := range sim.Files() {
					died.Put(name, sim.Get(name))
				}
			}
		}
	})
	rev, ptr := w.deploy("operator", manifest("good"))
	n.take([][]byte{rev, ptr})
	rev, ptr = w.deploy("operator", manifest("poison"))
	n.take([][]byte{rev, ptr})
	for life := 2; ; life++ {
		if died == nil {
			t.Fatal("the reader did not meet the poison")
		}
		sim := died
		died = nil
		conf = n.conf
		conf.FS = sim
		conf.Read = func(_ *perigee.Desired, functions []string) {
			if slices.Contains(functions, "poison") && died == nil {
				died = simdisk.New()
				for _, name := range sim.Files() {
					died.Put(name, sim.Get(name))
				}
			}
		}
		g, err := New(conf)
		if err != nil {
			t.Fatal(err)
		}
		if died != nil {
			if life > 4 {
				t.Fatalf("start %d dies of the record again", life)
			}
			continue
		}
		if g.View().Desired.Functions["good"] == nil || len(g.Asides()) == 0 || !strings.Contains(g.Asides()[0].Why, "died") {
			t.Errorf("start %d: functions %v, set aside %v", life, g.View().Desired.Functions, g.Asides())
		}
		return
	}
}
