package gossip

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// keepInTests is small, so that short histories are collected.
const keepInTests = 2

// crowd is some nodes on which people deploy, promote and remove, and which compare what they have now and
// then. It also has all records that ever were.
type crowd struct {
	*world
	rng     *rand.Rand
	auth    *authority
	parsing *parser
	sets    []*set
	all     []*entry
}

func newCrowd(t *testing.T, seed uint64, nodes int) *crowd {
	c := &crowd{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 7))}
	c.parsing = c.world.parser()
	c.auth = newAuthority(c.parsing.present().Genesis, c.geneses())
	for range nodes {
		c.sets = append(c.sets, c.of(nil))
	}
	return c
}

// of returns a set of some entries, collected.
func (c *crowd) of(entries []*entry) *set {
	s := newSet()
	s.history, s.lately = keepInTests, keepInTests
	s.add(entries...)
	collected(s, c.auth)
	return s
}

func (c *crowd) entry(p record.Payload, parents ...perigee.Digest) *entry {
	e, err := c.parsing.parse(c.sign("operator", parents, p))
	c.must(err)
	e.author = pub("operator")
	c.all = append(c.all, e)
	return e
}

// act has somebody do something at a node.
func (c *crowd) act() {
	s := c.sets[c.rng.IntN(len(c.sets))]
	name := fmt.Sprint("f", c.rng.IntN(2))
	f := reduce(s, c.auth, nil, nil)
	ptr := &record.Pointer{Function: name, Past: f.past(name)}
	var new []*entry
	switch n := c.rng.IntN(20); {
	case n == 0: // a removal
	case n == 1:
		s.add(c.entry(&record.Secret{Function: name, Name: "KEY"}))
		s.add(c.entry(&record.Purge{PurgeMatch: perigee.PurgeMatch{Function: name, Tag: fmt.Sprint(c.rng.IntN(4))}}))
		collected(s, c.auth)
		return
	case n < 4 && f.desired.Functions[name] != nil && len(f.desired.Functions[name].History) > 1: // a rollback
		fn := f.desired.Functions[name]
		ptr.Revision = f.lineages[name].named[fn.History[c.rng.IntN(len(fn.History))]]
	default:
		m := manifest(name)
		if c.rng.IntN(6) > 0 {
			m = manifest(name, "www.example.com")
		}
		rev := c.entry(&record.Revision{Manifest: m, Bundle: perigee.Digest{1}, Size: 5})
		ptr.Revision = rev.id
		new = append(new, rev)
	}
	e := c.entry(ptr, f.heads(name)...)
	s.add(append(new, e)...)
	collected(s, c.auth)
}

// compare makes two nodes hold the same.
func (c *crowd) compare(a, b *set) {
	for _, to := range []*set{a, b} {
		from := a
		if to == a {
			from = b
		}
		for _, e := range from.byID {
			to.add(e)
		}
	}
	collected(a, c.auth)
	collected(b, c.auth)
}

// everything folds all records that ever were, without collecting any.
func (c *crowd) everything() *folded {
	s := newSet()
	s.add(c.all...)
	f := &folded{auth: c.auth, lineages: map[string]*lineage{}}
	for name := range s.pointers {
		f.lineages[name] = foldLineage(name, s.revisions[name], s.pointers[name], s.secrets[name], c.auth)
	}
	domain := c.auth.genesis.Domain
	f.desired = perigee.NewDesired(perigee.Desired{
		Cluster: c.cluster, Domain: domain, Functions: contest(f.lineages, domain), Regions: foldRegions(nil, c.auth), Secrets: secretsOf(f.lineages), Purges: foldPurges(s.purges, keepInTests, c.auth),
	})
	return f
}

// meant writes down what a fold says, but for the revisions that are only listed.
func meant(f *folded) string {
	var s strings.Builder
	for _, line := range strings.Split(describe(f.desired), "\n")[1:] {
		before, after, ok := strings.Cut(line, " history ")
		if ok {
			_, after, _ = strings.Cut(after, "]")
		}
		fmt.Fprintln(&s, before, after)
	}
	return s.String()
}

// TestCollected has nodes that meet rarely, some of them after a long time: all must hold the same in the end,
// and it must mean what all records mean that ever were.
func TestCollected(t *testing.T) {
	gone, all, longest := 0, 0, 0
	for seed := range uint64(5) {
		c := newCrowd(t, seed, 4)
		for range 150 {
			c.act()
			if a, b := c.rng.IntN(4), c.rng.IntN(4); a != b && a*b != 0 && c.rng.IntN(3) == 0 {
				c.compare(c.sets[a], c.sets[b])
			}
			if c.rng.IntN(60) == 0 { // who is away for long
				c.compare(c.sets[0], c.sets[1])
			}
		}
		for range 3 {
			for _, s := range c.sets[1:] {
				c.compare(c.sets[0], s)
			}
		}
		want := meant(c.everything())
		for i, s := range c.sets {
			if s.tree.root != c.sets[0].tree.root {
				t.Fatalf("seed %d: node %d holds other records than node 0", seed, i)
			}
			if got := meant(reduce(s, c.auth, nil, nil)); got != want {
				t.Fatalf("seed %d: node %d shows\n%s\nwant\n%s", seed, i, got, want)
			}
		}
		all += len(c.all)
		gone += len(c.all) - len(c.sets[0].byID)
		longest = max(longest, len(c.sets[0].byID))
	}
	t.Logf("%d of %d records collected, at most %d stay", gone, all, longest)
	if gone < all/5 { // most lines meet others here, which stays
		t.Errorf("only %d of %d records were collected", gone, all)
	}
}

// TestCollectedLate holds the rule to its law: whoever collects early and whoever collects late have the same.
func TestCollectedLate(t *testing.T) {
	for seed := range uint64(10) {
		c := newCrowd(t, seed, 2)
		for range 80 {
			c.act()
			if c.rng.IntN(4) == 0 {
				c.compare(c.sets[0], c.sets[1])
			}
		}
		whole := c.of(c.all)
		for range 10 {
			before := c.all[:c.rng.IntN(len(c.all))]
			late := c.of(slices.Concat(c.of(before).entries(), c.sets[0].entries(), c.sets[1].entries()))
			back := c.of(slices.Concat(before, late.entries())) // and somebody brings all of it back
			if late.tree.root != whole.tree.root || back.tree.root != whole.tree.root {
				t.Fatalf("seed %d, after %d of %d: of those who collected early %d are left, late %d, brought back %d", seed, len(before), len(c.all), len(late.byID), len(whole.byID), len(back.byID))
			}
		}
	}
}

func (s *set) entries() []*entry { return slices.Collect(maps.Values(s.byID)) }

// redeploy deploys a function in the place of what is there.
func (w *world) redeploy(n *testNode, m perigee.Manifest) [][]byte {
	rev := w.sign("operator", nil, &record.Revision{Manifest: m, Bundle: perigee.Digest{1}, Size: 5})
	return [][]byte{rev, w.sign("operator", n.Heads(m.Name), &record.Pointer{Function: m.Name, Revision: record.ID(rev), Past: n.Past(m.Name)})}
}

// TestBroughtBack has a node come back that was away while a function was deployed many times, and removed:
// what it brings changes nothing and is not written, but for what it alone had.
func TestBroughtBack(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.log.long = 4 << 10
	var old [][]byte
	for range 3 * record.MaxPast {
		records := w.redeploy(n, manifest("hello"))
		old = append(old, records...)
		n.submit(t, records...)
	}
	if got := len(n.View().Desired.Functions["hello"].History); got > maxHistory {
		t.Errorf("%d revisions are listed", got)
	}
	if n.core.set.bytes > 80<<10 {
		t.Errorf("after %d deploys the state has %d bytes", len(old)/2, n.core.set.bytes)
	}
	side := w.redeploy(n, manifest("hello")) // on the other side of a partition
	n.submit(t, w.sign("operator", n.Heads("hello"), &record.Pointer{Function: "hello", Past: n.Past("hello")}))
	if disk := used(n.conf.FS.(*simdisk.Disk)); n.core.set.bytes > 20<<10 || disk > 25<<10 {
		t.Errorf("after the removal the state has %d bytes, the disk %d", n.core.set.bytes, disk)
	}
	disk := n.conf.FS.(*simdisk.Disk)
	before, steps := n.View().Desired.Digest, disk.Steps()
	for at := 0; at < len(old); at += maxItems / 4 {
		if _, _, err := n.take(old[at:min(at+maxItems/4, len(old))]); err != nil {
			t.Fatal(err)
		}
	}
	if n.View().Desired.Digest != before || n.View().Desired.Functions["hello"] != nil {
		t.Error("what was replaced is back")
	}
	if disk.Steps() != steps {
		t.Error("it was written to the disk")
	}
	if _, _, err := n.take(side); err != nil {
		t.Fatal(err)
	}
	if heads := n.Heads("hello"); len(heads) != 2 || heads[1] != record.ID(side[1]) && heads[0] != record.ID(side[1]) {
		t.Errorf("a deploy that the removal did not know of is lost: heads %v", heads)
	}
}

// TestCollectedOnDisk cuts the power while the log is folded again and again: what was acknowledged is there,
// what was removed is not, and the files do not grow with the history.
func TestCollectedOnDisk(t *testing.T) {
	w := newWorld(t)
	for cut := 1; cut < 120; cut += 3 {
		n := w.node("fra-1", "fra")
		disk := n.conf.FS.(*simdisk.Disk)
		n.log.long = 2 << 10
		live, may := "", ""
		deploy := func(i int) error {
			records := w.redeploy(n, manifest("hello"))
			may = string(record.RevisionID(record.ID(records[0])))
			if i%7 == 6 {
				records, may = [][]byte{w.sign("operator", n.Heads("hello"), &record.Pointer{Function: "hello", Past: n.Past("hello")})}, ""
			}
			_, err := n.Submit(t.Context(), records...)
			if err == nil {
				live = may
			}
			return err
		}
		for i := range 40 {
			w.must(deploy(i))
		}
		if got := used(disk); got > 64<<10 {
			t.Fatalf("the files have %d bytes, the state %d", got, n.core.set.bytes)
		}
		disk.CutAt = disk.Steps() + cut
		for i := 0; deploy(i) == nil; i++ {
		}
		conf := n.conf
		conf.FS, conf.Logger = disk.Crash(rand.New(rand.NewPCG(uint64(cut), 1))), slog.New(slog.DiscardHandler)
		g, err := New(conf)
		w.must(err)
		got := ""
		if fn := g.View().Desired.Functions["hello"]; fn != nil {
			got = string(fn.Live.ID)
		}
		if got != live && got != may {
			t.Errorf("cut at step %d: %q is live, want %q or %q", cut, got, live, may)
		}
	}
}
