package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// TestRestart opens the same directory again and again.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	raws := busy(w)
	_, want := w.fold(raws...)
	for i, raw := range raws {
		n.take([][]byte{raw})
		if i%7 == 0 {
			n = n.again(w)
		}
	}
	n.take(raws) // what waited for an author when the node ended
	n = n.again(w)
	if got := describe(n.View().Desired); got != describe(want.desired) {
		t.Errorf("got\n%s\nwant\n%s", got, describe(want.desired))
	}
	if n.Now() <= w.hlc {
		t.Error("the clock is not after what was stored")
	}
}

// TestForeign starts nodes in the directory of another cluster.
func TestForeign(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	n := w.node("fra-1", "fra")
	other.net.ports = map[netip.AddrPort]*port{}
	conf := other.node("fra-1", "fra").conf
	conf.FS = n.conf.FS
	if _, err := New(conf); !errors.Is(err, ErrForeign) {
		t.Errorf("New in another cluster's directory: %v, want ErrForeign", err)
	}
	conf = n.conf
	conf.Genesis = other.genesis
	if _, err := New(conf); err == nil {
		t.Error("New with a genesis that does not fit the certificate works")
	}
	forged := w.signAt(1, "mallory", nil, n.Genesis())
	conf.Genesis = forged
	if _, err := New(conf); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("New with a genesis that its operator did not sign: %v", err)
	}
}

// TestSubmitPowerCuts cuts the power before each step of a node's work with its disk.
func TestSubmitPowerCuts(t *testing.T) {
	w := newWorld(t)
	people := w.person("dep", record.TokenDeploy, record.Scope{})
	batches := [][][]byte{people}
	for i := range 4 {
		rev, ptr := w.deploy("dep", manifest(fmt.Sprintf("f%d", i)))
		batches = append(batches, [][]byte{rev, ptr})
	}
	first := w.node("fra-1", "fra")
	for cutAt, done := 1, false; !done; cutAt++ {
		sim := simdisk.New()
		sim.CutAt = cutAt
		conf := first.conf
		conf.FS, conf.Logger = sim, slog.New(slog.DiscardHandler)
		var acked [][]byte
		g, err := New(conf)
		if err != nil && !errors.Is(err, simdisk.ErrPower) {
			t.Fatal(err)
		}
		done = err == nil
		for _, batch := range batches {
			if !done {
				break
			}
			if _, err := g.Submit(t.Context(), batch...); err != nil {
				done = false
				break
			}
			acked = append(acked, batch...)
		}
		for seed := range uint64(5) {
			conf.FS = sim.Crash(rand.New(rand.NewPCG(seed, uint64(cutAt))))
			after, err := New(conf)
			if err != nil {
				t.Fatalf("cut at %d: %v", cutAt, err)
			}
			for _, raw := range acked {
				if !after.core.Holds(record.ID(raw)) {
					t.Fatalf("cut at %d, seed %d: an acknowledged record is lost", cutAt, seed)
				}
			}
			if _, err := after.Submit(t.Context(), slices.Concat(batches...)...); err != nil {
				t.Fatalf("cut at %d, seed %d: submit after the restart: %v", cutAt, seed, err)
			}
		}
	}
}

// TestRot flips bits of a node's log, all over it, and starts it (TestBitFlips flips every bit). It must start, show nothing that
// nobody signed, and be whole again when the records come from a peer.
func TestRot(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	rev, ptr := w.deploy("dep", manifest("hello"))
	all := append(w.person("dep", record.TokenDeploy, record.Scope{}), rev, ptr)
	if _, _, err := n.take(all); err != nil {
		t.Fatal(err)
	}
	want := describe(n.View().Desired)
	disk := n.conf.FS.(*simdisk.Disk)
	known := maps.Clone(n.core.set.byID)
	log := disk.Get("/state/" + logName)
	w.must(n.log.fold(nil))
	snap := disk.Get("/state/" + snapName)
	for i := 0; i < len(log)+len(snap); i += 13 {
		sim := simdisk.New()
		if i < len(log) { // all is in the log
			sim.Put("/state/"+logName, log)
			sim.Flip("/state/"+logName, 8*i+i%8)
		} else { // all is in the snapshot
			sim.Put("/state/"+snapName, snap)
			sim.Flip("/state/"+snapName, 8*(i-len(log))+i%8)
		}
		conf := n.conf
		conf.FS, conf.Logger = sim, slog.New(slog.DiscardHandler)
		g, err := New(conf)
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		for id := range g.core.set.byID {
			if known[id] == nil {
				t.Fatalf("byte %d: record %s was never written", i, id)
			}
		}
		if lost := len(known) - len(g.core.set.byID) - g.core.pending.len(); lost > 1 {
			t.Errorf("byte %d: %d records lost", i, lost)
		}
		if _, _, err := g.take(all); err != nil {
			t.Fatalf("byte %d: take: %v", i, err)
		}
		if got := describe(g.View().Desired); got != want {
			t.Errorf("byte %d: repaired to\n%s\nwant\n%s", i, got, want)
		}
		again, err := New(conf)
		if err != nil || describe(again.View().Desired) != want {
			t.Fatalf("byte %d: another start: %v", i, err)
		}
	}
}

// TestLostAuthor rots the record that made an author known, so that what it signed must wait: for as
// long as it takes, over restarts, and without a peer that has more.
func TestLostAuthor(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	people := w.person("dep", record.TokenDeploy, record.Scope{})
	rev, ptr := w.deploy("dep", manifest("hello"))
	n.submit(t, append(slices.Clone(people), rev, ptr)...)
	want := describe(n.View().Desired)
	sim := n.conf.FS.(*simdisk.Disk)
	sim.Flip("/state/"+logName, 8*(bytes.Index(sim.Get("/state/"+logName), people[0])+20))
	n.conf.Logger = slog.New(slog.DiscardHandler)
	for range 3 {
		g, err := New(n.conf)
		w.must(err)
		if got := g.core.pending.len(); got != 3 || g.View().Desired.Functions["hello"] != nil {
			t.Fatalf("%d records wait, want the redemption, the revision and the pointer", got)
		}
	}
	g, err := New(n.conf)
	w.must(err)
	if _, err := g.Submit(t.Context(), people[0]); err != nil {
		t.Fatal(err)
	}
	if got := describe(g.View().Desired); got != want || g.core.pending.len() != 0 {
		t.Errorf("with the author back: got\n%s\nwant\n%s", got, want)
	}
}

// TestTampered starts nodes whose logs somebody changed with care: the checksums fit.
func TestTampered(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	evil, evilPtr := w.deploy("mallory", manifest("evil"))
	forged, err := record.Decode(ptr)
	w.must(err)
	forged.HLC++
	forgedRaw, err := record.Marshal(forged)
	w.must(err)
	later := append([]byte{0x89, 0x02}, bytes.Repeat([]byte{1}, 30)...) // of a later release
	file := []byte(logMagic)
	for _, raw := range [][]byte{w.genesis, evil, evilPtr, rev, forgedRaw, later, ptr} {
		file = appendEntry(file, raw)
	}
	sim := simdisk.New()
	sim.Put("/state/"+logName, file)
	conf := n.conf
	conf.FS, conf.Logger = sim, slog.New(slog.DiscardHandler)
	for range 2 {
		g, err := New(conf)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := describe(g.View().Desired), describe(n.View().Desired); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		g.log.dirty = true // folds
		if _, err := g.Submit(t.Context(), w.sign("operator", nil, &record.Revoke{Node: "x-1"})); err != nil {
			t.Fatal(err)
		}
		w.hlc-- // the same record again, which changes nothing
		if !bytes.Contains(sim.Get("/state/"+logName), later) {
			t.Error("the record of a later release is not in the file any more")
		}
		if snap := sim.Get("/state/" + snapName); !bytes.Contains(snap, ptr) || bytes.Contains(snap, evilPtr) || bytes.Contains(snap, forgedRaw) {
			t.Error("the snapshot has what this node never verified, or not what it did")
		}
		n.submit(t, w.signAt(w.hlc+1, "operator", nil, &record.Revoke{Node: "x-1"}))
		w.hlc++
	}
}

// TestSeal starts nodes with snapshots that others wrote: they are read, and every record in them verified.
// What the node itself has sealed it believes, which is what makes a start fast.
func TestSeal(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	forged, err := record.Decode(ptr)
	w.must(err)
	forged.HLC++
	forgedRaw, err := record.Marshal(forged)
	w.must(err)
	for _, tt := range []struct {
		name  string
		key   []byte
		admit bool
	}{{"another node's", []byte("x"), false}, {"its own", sealKey(n.conf.Identity.Key()), true}} {
		l := &log{key: tt.key}
		body := appendEntry(appendEntry(appendEntry(nil, w.genesis), rev), forgedRaw)
		sim := simdisk.New()
		sim.Put("/state/"+snapName, slices.Concat([]byte(snapMagic), l.seal(body), body))
		conf := n.conf
		conf.FS, conf.Logger = sim, slog.New(slog.DiscardHandler)
		g, err := New(conf)
		w.must(err)
		if !g.core.Holds(record.ID(rev)) || g.core.Holds(record.ID(forgedRaw)) != tt.admit {
			t.Errorf("%s snapshot: holds the revision: %v, the forged record: %v, want true, %v", tt.name, g.core.Holds(record.ID(rev)), g.core.Holds(record.ID(forgedRaw)), tt.admit)
		}
	}
}

// TestUnreadable starts a node whose disk can't read a part of its files.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	for _, name := range []string{logName, snapName} {
		sim := n.conf.FS.(*simdisk.Disk)
		sim.SetFail(func(op, file string) error {
			if op == "read" && file == "/state/"+name {
				return syscall.EIO
			}
			return nil
		})
		conf := n.conf
		conf.Logger = slog.New(slog.DiscardHandler)
		g, err := New(conf)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sim.SetFail(nil)
		if _, _, err := g.take([][]byte{rev, ptr}); err != nil || describe(g.View().Desired) != describe(n.View().Desired) {
			t.Errorf("%s: not whole after a peer gave it again: %v", name, err)
		}
	}
}

func BenchmarkStart(b *testing.B) {
	for _, sealed := range []bool{true, false} {
		b.Run(fmt.Sprintf("sealed=%v", sealed), func(b *testing.B) {
			w := newWorld(b)
			n := w.node("fra-1", "fra")
			var raws [][]byte
			for i := range 5000 {
				rev, ptr := w.deploy("operator", manifest(fmt.Sprintf("f%d", i)))
				raws = append(raws, rev, ptr)
			}
			if _, _, err := n.take(raws); err != nil {
				b.Fatal(err)
			}
			w.must(n.log.fold(nil))
			if !sealed {
				n.conf.FS.(*simdisk.Disk).Flip("/state/"+snapName, 8*len(snapMagic))
			}
			snap := n.conf.FS.(*simdisk.Disk).Get("/state/" + snapName)
			n.conf.Logger = slog.New(slog.DiscardHandler)
			for b.Loop() {
				n.conf.FS = simdisk.New()
				n.conf.FS.(*simdisk.Disk).Put("/state/"+snapName, snap)
				if _, err := New(n.conf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(raws)), "records")
		})
	}
}

// TestScrub rots the files of a node that runs: a scrub finds it and writes them anew.
func TestScrub(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	sim := n.conf.FS.(*simdisk.Disk)
	if damaged, err := n.Scrub(); damaged || err != nil {
		t.Errorf("nothing rotted: %v, %v", damaged, err)
	}
	for _, name := range []string{logName, snapName} {
		for at := 0; at < len(sim.Get("/state/"+name)); at += 64 {
			sim.Flip("/state/"+name, 8*at+at/64%8)
			if damaged, err := n.Scrub(); !damaged || err != nil {
				t.Errorf("%s, byte %d: %v, %v", name, at, damaged, err)
			}
			if damaged, err := n.Scrub(); damaged || err != nil {
				t.Errorf("%s, byte %d, after the repair: %v, %v", name, at, damaged, err)
			}
		}
	}
	if got, want := describe(n.again(w).View().Desired), describe(n.View().Desired); got != want {
		t.Errorf("after a restart\n%s\nwant\n%s", got, want)
	}
}
