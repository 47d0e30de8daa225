package gossip

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// busy returns the records of a cluster in which much happened: conflicts, removals, contested
// routes, revocations, a broken manifest, and records without rights.
func busy(w *world) [][]byte {
	raws := slices.Concat(
		w.person("op2", record.TokenOperator, record.Scope{}),
		w.person("dep", record.TokenDeploy, record.Scope{Functions: []string{"h*"}}),
	)
	add := func(more ...[]byte) { raws = append(raws, more...) }
	rev1, ptr1 := w.deploy("dep", manifest("hello", "www.example.com"))
	rev2, ptr2 := w.deploy("dep", manifest("hello", "www.example.com"), record.ID(ptr1))
	rev3, ptr3 := w.deploy("op2", manifest("hello"), record.ID(ptr1)) // at the same time as ptr2
	add(rev1, ptr1, rev2, ptr2, rev3, ptr3)
	rev4, ptr4 := w.deploy("op2", manifest("rival", "www.example.com"))
	rev6, ptr9 := w.deploy("op2", manifest("rival2", "www.example.com"))
	add(rev6, ptr9)
	rev5, ptr5 := w.deploy("op2", manifest("gone"))
	add(rev4, ptr4, rev5, ptr5, w.sign("op2", []perigee.Digest{record.ID(ptr5)}, &record.Pointer{Function: "gone"}))
	broken, ptr6 := w.deploy("op2", perigee.Manifest{Name: "broken"})
	add(broken, ptr6, w.sign("operator", nil, &record.Region{Info: perigee.RegionInfo{Code: "zrh", Groups: []string{"eu"}}}))
	add(w.sign("operator", nil, &record.Revoke{Node: "syd-9"}), w.sign("op2", nil, &record.Revoke{Key: keyID("dep")}))
	late, ptr7 := w.deploy("dep", manifest("hlate"))
	unknown, ptr8 := w.deploy("stranger", manifest("stranger"))
	add(late, ptr7, unknown, ptr8)
	late = w.sign("op2", nil, &record.Secret{Function: "hello", Name: "KEY"})
	add(w.secret("op2", "hello", "KEY", "1"), w.secret("op2", "hello", "KEY", "2"), w.secret("op2", "hello", "GONE", "3"), late,
		w.sign("op2", nil, &record.Secret{Function: "hello", Name: "GONE"}), w.secret("dep", "hello", "LATE", "4"))
	for _, m := range []perigee.PurgeMatch{{Function: "hello", Tag: "a"}, {Function: "hello", Tag: "b"}, {Function: "hello", Tag: "a"}, {Host: "www.example.com"}} {
		add(w.sign("op2", nil, &record.Purge{PurgeMatch: m}))
	}
	add(w.sign("dep", nil, &record.Purge{PurgeMatch: perigee.PurgeMatch{Function: "hlate"}}))
	tok := w.token("ntok", record.TokenNode)
	add(tok, w.redeem("ntok", "ams-1", func(r *record.Redeem) { r.Node = "ams-1" }),
		w.redeem("ntok", "ams-2", func(r *record.Redeem) { r.Node = "ams-2" }))
	return raws
}

// TestOrder folds the same records in many orders: the meaning must be the same, to the byte.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	raws := busy(w)
	_, want := w.fold(raws...)
	text := describe(want.desired)
	if !strings.Contains(text, "conflict") || !strings.Contains(text, "contested") {
		t.Fatalf("the sample is not busy enough:\n%s", text)
	}
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		shuffled := slices.Clone(raws)
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		_, got := w.fold(shuffled...)
		if got.desired.Digest != want.desired.Digest {
			t.Fatalf("seed %d: digest %s, want %s", seed, got.desired.Digest, want.desired.Digest)
		}
		if s := describe(got.desired); s != text {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, s, text)
		}
		if !slices.Equal(got.heads("hello"), want.heads("hello")) {
			t.Fatalf("seed %d: heads %v, want %v", seed, got.heads("hello"), want.heads("hello"))
		}
	}
}

// TestAllOrders tries every order of a few records that depend on each other.
func TestAllOrders(t *testing.T) {
	w := newWorld(t)
	raws := w.person("dep", record.TokenDeploy, record.Scope{})
	rev, ptr := w.deploy("dep", manifest("hello"))
	ptr2 := w.sign("dep", []perigee.Digest{record.ID(ptr)}, &record.Pointer{Function: "hello", Revision: record.ID(rev)})
	raws = append(raws, rev, ptr, ptr2)
	_, want := w.fold(raws...)
	if fn := want.desired.Functions["hello"]; fn == nil || fn.Head != record.ID(ptr2) || fn.Conflicts != nil {
		t.Fatalf("folded to %+v", fn)
	}
	n := 0
	permute(raws, func(order [][]byte) {
		n++
		_, got := w.fold(order...)
		if got.desired.Digest != want.desired.Digest || describe(got.desired) != describe(want.desired) {
			t.Fatalf("order %d: got\n%s\nwant\n%s", n, describe(got.desired), describe(want.desired))
		}
	})
	if n != 120 {
		t.Errorf("tried %d orders, want 120", n)
	}
}

// TestStepByStep folds after each record, taking over what did not change, and compares with
// folding everything anew.
func TestStepByStep(t *testing.T) {
	w := newWorld(t)
	raws := busy(w)
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 2))
		rng.Shuffle(len(raws), func(i, j int) { raws[i], raws[j] = raws[j], raws[i] })
		g := w.node("fra-1", "fra")
		for _, raw := range raws {
			if _, _, err := g.take([][]byte{raw}); err != nil {
				t.Fatal(err)
			}
			whole := reduce(g.core.set, newAuthority(g.Genesis(), g.core.set.governing), nil, nil)
			if got, want := describe(g.View().Desired), describe(whole.desired); got != want {
				t.Fatalf("seed %d: step by step\n%s\nat once\n%s", seed, got, want)
			}
		}
		_, want := w.fold(raws...)
		if got := g.View().Desired.Digest; got != want.desired.Digest {
			t.Errorf("seed %d: digest %s, want %s", seed, got, want.desired.Digest)
		}
	}
}

func permute(list [][]byte, f func([][]byte)) {
	var rec func(k int)
	rec = func(k int) {
		if k == len(list) {
			f(list)
			return
		}
		for i := k; i < len(list); i++ {
			list[k], list[i] = list[i], list[k]
			rec(k + 1)
			list[k], list[i] = list[i], list[k]
		}
	}
	rec(0)
}

// describe writes down all that a Desired says.
func describe(d *perigee.Desired) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s %s\n", d.Cluster, d.Domain, d.Digest)
	for _, name := range slices.Sorted(maps.Keys(d.Functions)) {
		fn := d.Functions[name]
		fmt.Fprintf(&s, "%s live %s head %s history %v policy %+v\n", name, fn.Live.ID, fn.Head, fn.History, *fn.Policy())
		for _, rev := range fn.Kept {
			fmt.Fprintf(&s, "  kept %s\n", rev.ID)
		}
		for _, c := range fn.Conflicts {
			fmt.Fprintf(&s, "  conflict %+v\n", c)
		}
		for _, c := range fn.Contested {
			fmt.Fprintf(&s, "  contested %+v\n", c)
		}
		for _, r := range fn.Routes(d.Domain) {
			fmt.Fprintf(&s, "  route %+v answered by %s\n", r, d.Lookup(r.Host, r.Path).Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Secrets)) {
		for _, secret := range slices.Sorted(maps.Keys(d.Secrets[name])) {
			fmt.Fprintf(&s, "secret %s of %s: %+v\n", secret, name, *d.Secrets[name][secret])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Purges)) {
		for _, p := range d.Purges[name] {
			fmt.Fprintf(&s, "purge %+v\n", *p)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.Revoked)) {
		fmt.Fprintf(&s, "revoked %s %v\n", id, d.Revoked[id])
	}
	for _, r := range d.Regions.All() {
		if _, builtin := perigee.BuiltinRegions().Lookup(r.Code); !builtin {
			fmt.Fprintf(&s, "region %+v\n", r)
		}
	}
	return s.String()
}

func TestPointers(t *testing.T) {
	w := newWorld(t)
	rev := func() []byte {
		return w.sign("operator", nil, &record.Revision{Manifest: manifest("f"), Bundle: perigee.Digest{1}})
	}
	point := func(revision []byte, parents ...[]byte) []byte {
		p := &record.Pointer{Function: "f"}
		if revision != nil {
			p.Revision = record.ID(revision)
		}
		var ids []perigee.Digest
		for _, parent := range parents {
			ids = append(ids, record.ID(parent))
		}
		return w.sign("operator", ids, p)
	}
	ra, rb, rc := rev(), rev(), rev()
	a := point(ra)
	b, b2 := point(rb, a), point(rc, a)
	merge := point(ra, b, b2)
	removed := point(nil, merge)
	back := point(rb, removed)
	orphan := point(rb, point(rc)) // its parent is not known here

	slow := w.signAt(w.hlc-1<<20, "operator", []perigee.Digest{record.ID(b2)}, &record.Pointer{Function: "f", Revision: record.ID(ra)})

	tests := []struct {
		name      string
		pointers  [][]byte
		live      []byte   // revision; nil = no function
		heads     [][]byte // in order
		conflicts int
	}{
		{"none", nil, nil, nil, 0},
		{"one", [][]byte{a}, ra, [][]byte{a}, 0},
		{"a chain", [][]byte{a, b}, rb, [][]byte{b}, 0},
		{"two at once", [][]byte{a, b, b2}, rc, [][]byte{b, b2}, 1},
		{"two at once, their parent missing", [][]byte{b, b2}, rc, [][]byte{b, b2}, 1},
		{"merged", [][]byte{a, b, b2, merge}, ra, [][]byte{merge}, 0},
		{"merged through a link that is missing", [][]byte{a, merge}, ra, [][]byte{a, merge}, 1},
		{"removed", [][]byte{a, b, b2, merge, removed}, nil, [][]byte{removed}, 0},
		{"removed and back", [][]byte{a, b, b2, merge, removed, back}, rb, [][]byte{back}, 0},
		{"removed on one side", [][]byte{merge, removed, point(rc, merge)}, rc, nil, 1},
		{"parent unknown", [][]byte{orphan}, rb, [][]byte{orphan}, 0},
		{"a slow clock replaces what it saw", [][]byte{a, b2, slow}, ra, [][]byte{slow}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, f := w.fold(append([][]byte{ra, rb, rc}, tt.pointers...)...)
			fn := f.desired.Functions["f"]
			if tt.live == nil {
				if fn != nil {
					t.Fatalf("live is %s, want no function", fn.Live.ID)
				}
			} else if fn == nil || fn.Live.ID != record.RevisionID(record.ID(tt.live)) {
				t.Fatalf("function %+v, want live %s", fn, record.ID(tt.live).Short())
			} else if len(fn.Conflicts) != tt.conflicts {
				t.Errorf("conflicts %+v, want %d", fn.Conflicts, tt.conflicts)
			}
			if tt.heads == nil {
				return
			}
			var want []perigee.Digest
			for _, h := range tt.heads {
				want = append(want, record.ID(h))
			}
			if !slices.Equal(f.heads("f"), want) {
				t.Errorf("heads %v, want %v", f.heads("f"), want)
			}
		})
	}
}

// TestPointersWithoutEffect checks that a pointer that may not speak replaces nothing, and that
// what is above it still replaces what is below.
func TestPointersWithoutEffect(t *testing.T) {
	w := newWorld(t)
	people := w.person("dep", record.TokenDeploy, record.Scope{Hosts: []string{"ok.com"}})
	rev, a := w.deploy("operator", manifest("f", "ok.com"))
	wide, _ := w.deploy("operator", manifest("f", "other.com"))
	other, _ := w.deploy("operator", manifest("g"))
	base := append(people, rev, a, wide, other)
	point := func(who string, parent []byte, revision perigee.Digest) []byte {
		return w.sign(who, []perigee.Digest{record.ID(parent)}, &record.Pointer{Function: "f", Revision: revision})
	}
	for name, bad := range map[string][]byte{
		"unknown revision":             point("operator", a, perigee.Digest{9}),
		"another function's revision":  point("operator", a, record.ID(other)),
		"a revision beyond its scope":  point("dep", a, record.ID(wide)),
		"not a revision at all":        point("operator", a, record.ID(a)),
		"a revision that is a genesis": point("operator", a, record.ID(w.genesis)),
	} {
		t.Run(name, func(t *testing.T) {
			_, f := w.fold(append(slices.Clone(base), bad)...)
			if fn := f.desired.Functions["f"]; fn == nil || fn.Head != record.ID(a) {
				t.Fatalf("function %+v, want the one before", fn)
			}
			over := point("operator", bad, record.ID(rev))
			_, f = w.fold(append(slices.Clone(base), bad, over)...)
			if got := f.heads("f"); len(got) != 1 || got[0] != record.ID(over) {
				t.Errorf("heads %v, want only the newest: its author saw all of them", got)
			}
		})
	}
}

func TestContested(t *testing.T) {
	const host = "www.example.com"
	type step struct {
		name  string // of the function; deploys it with the host
		drops bool   // deploys it without
		gone  bool   // removes it
	}
	tests := []struct {
		name  string
		steps []step
		owner string
		loses []string
	}{
		{"alone", []step{{name: "a"}}, "a", nil},
		{"the first keeps it", []step{{name: "a"}, {name: "b"}}, "a", []string{"b"}},
		{"a new deploy keeps it", []step{{name: "a"}, {name: "b"}, {name: "a"}}, "a", []string{"b"}},
		{"given up", []step{{name: "a"}, {name: "b"}, {name: "a", drops: true}}, "b", nil},
		{"given up and wanted back", []step{{name: "a"}, {name: "b"}, {name: "a", drops: true}, {name: "a"}}, "b", []string{"a"}},
		{"removed", []step{{name: "a"}, {name: "b"}, {name: "a", gone: true}}, "b", nil},
		{"removed and deployed again", []step{{name: "a"}, {name: "b"}, {name: "a", gone: true}, {name: "a"}}, "b", []string{"a"}},
		{"asked for early, but not without a break", []step{{name: "a", drops: true}, {name: "b"}, {name: "a"}}, "b", []string{"a"}},
		{"three", []step{{name: "c"}, {name: "a"}, {name: "b"}}, "c", []string{"a", "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var raws [][]byte
			head := map[string][]perigee.Digest{}
			for _, s := range tt.steps {
				var ptr []byte
				if s.gone {
					ptr = w.sign("operator", head[s.name], &record.Pointer{Function: s.name})
				} else {
					m := manifest(s.name, host)
					if s.drops {
						m = manifest(s.name)
					}
					var rev []byte
					rev, ptr = w.deploy("operator", m, head[s.name]...)
					raws = append(raws, rev)
				}
				raws = append(raws, ptr)
				head[s.name] = []perigee.Digest{record.ID(ptr)}
			}
			_, f := w.fold(raws...)
			if fn := f.desired.Lookup(host, "/"); fn == nil || fn.Name != tt.owner {
				t.Errorf("%s is answered by %v, want %s", host, fn, tt.owner)
			}
			var loses []string
			for name, fn := range f.desired.Functions {
				for _, c := range fn.Contested {
					if c.Owner != tt.owner || c.Route != (perigee.Route{Host: host, Path: "/"}) {
						t.Errorf("%s lists %+v", name, c)
					}
					loses = append(loses, name)
				}
			}
			slices.Sort(loses)
			if !slices.Equal(loses, tt.loses) {
				t.Errorf("contested at %v, want %v", loses, tt.loses)
			}
		})
	}
}

func TestHistory(t *testing.T) {
	w := newWorld(t)
	var raws [][]byte
	var first []byte
	var parents []perigee.Digest
	for i := range maxHistory + 10 {
		rev, ptr := w.deploy("operator", manifest("f"), parents...)
		raws = append(raws, rev, ptr)
		parents = []perigee.Digest{record.ID(ptr)}
		if i == 0 {
			first = rev
		}
	}
	raws = append(raws, w.sign("operator", parents, &record.Pointer{Function: "f", Revision: record.ID(first)}))
	_, f := w.fold(raws...)
	fn := f.desired.Functions["f"]
	if fn.Live.ID != record.RevisionID(record.ID(first)) {
		t.Fatalf("live is %s after the rollback, want the first", fn.Live.ID)
	}
	if len(fn.History) != maxHistory || !slices.Contains(fn.History, fn.Live.ID) {
		t.Errorf("history of %d, with the live one: %v", len(fn.History), slices.Contains(fn.History, fn.Live.ID))
	}
	if !fn.Live.Created.Equal(w.parsed(first)[0].rec.HLC.Time()) || fn.Live.Author != keyID("operator") {
		t.Errorf("live revision %+v", fn.Live)
	}
}

// TestKept checks which revisions besides the live one holders keep.
func TestKept(t *testing.T) {
	w := newWorld(t)
	var raws [][]byte
	rev := map[string][]byte{}
	add := func(raw []byte) perigee.Digest {
		raws = append(raws, raw)
		return record.ID(raw)
	}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		rev[name] = w.sign("operator", nil, &record.Revision{Manifest: manifest("f"), Bundle: perigee.Digest{1}, Size: perigee.Bytes(len(rev))})
		add(rev[name])
	}
	point := func(to string, parents ...perigee.Digest) perigee.Digest {
		p := &record.Pointer{Function: "f"}
		if to != "" {
			p.Revision = record.ID(rev[to])
		}
		return add(w.sign("operator", parents, p))
	}
	check := func(step string, want ...string) {
		t.Helper()
		_, f := w.fold(raws...)
		var got []string
		for _, k := range f.desired.Functions["f"].Kept {
			for name, raw := range rev {
				if k.ID == record.RevisionID(record.ID(raw)) {
					got = append(got, name)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: kept %v, want %v", step, got, want)
		}
	}
	p := point("a")
	check("first")
	p = point("b", p)
	check("second", "a")
	p = point("c", p)
	p = point("d", p)
	check("the oldest goes", "c", "b")
	p = point("c", p)
	check("rolled back", "d", "b")
	fork := p
	p = point("a", fork)
	point("e", fork)
	check("a conflict is kept, too", "c", "d", "a")
	p = point("e", p, record.ID(raws[len(raws)-1]))
	p = point("", p)
	point("b", p)
	check("nothing from before a removal")
}

// TestPlacementOfPointer checks that a pointer's placement stands in the place of the manifest's, and
// that it is bound by the same rules.
func TestPlacementOfPointer(t *testing.T) {
	w := newWorld(t)
	m := manifest("f")
	m.Placement.Pin = []string{"fra"}
	rev, ptr := w.deploy("operator", m)
	point := func(p *perigee.Policy) []byte {
		return w.sign("operator", []perigee.Digest{record.ID(ptr)}, &record.Pointer{Function: "f", Revision: record.ID(rev), Placement: p})
	}
	_, f := w.fold(rev, ptr)
	if got := f.desired.Functions["f"].Policy(); !slices.Equal(got.Pin, m.Placement.Pin) {
		t.Errorf("policy %+v, want the manifest's", got)
	}
	_, f = w.fold(rev, ptr, point(&perigee.Policy{Residency: []string{"eu"}}))
	if got := f.desired.Functions["f"].Policy(); len(got.Pin) != 0 || !slices.Equal(got.Residency, []string{"eu"}) {
		t.Errorf("policy %+v, want the pointer's", got)
	}
	bad := point(&perigee.Policy{Max: -1})
	s, f := w.fold(rev, ptr, bad)
	if got := f.desired.Functions["f"].Policy(); !slices.Equal(got.Pin, m.Placement.Pin) {
		t.Errorf("policy %+v, want the manifest's: the pointer's breaks a rule", got)
	}
	if got := ruleOf(s, f, bad, w); got != RuleManifest {
		t.Errorf("rule %q, want %q", got, RuleManifest)
	}
	if _, err := w.parser().parse(w.sign("operator", nil, &record.Pointer{Function: "f", Placement: &perigee.Policy{}})); RuleOf(err) != RuleShape {
		t.Errorf("a removal with a placement: %v, want rule %s", err, RuleShape)
	}
}

func TestTree(t *testing.T) {
	w := newWorld(t)
	entries := w.parsed(busy(w)...)
	one, other := newSet(), newSet()
	one.add(entries...)
	for _, e := range slices.Backward(entries) {
		other.add(e)
	}
	other.add(entries[0])
	if one.tree.root != other.tree.root || one.bytes != other.bytes {
		t.Error("the tree depends on the order")
	}
	less := newSet()
	less.add(entries[1:]...)
	if less.tree.root == one.tree.root {
		t.Error("the root does not notice a missing record")
	}
	for _, e := range entries {
		if b := bucketOf(e); e.governs() != (b == 0) || b >= buckets {
			t.Errorf("a %s record is in bucket %d: those that govern have the first to themselves", e.rec.Kind, b)
		}
	}
	differ := 0
	for b := range one.tree.sums {
		if one.tree.sums[b] != less.tree.sums[b] {
			differ++
		}
	}
	if differ != 1 {
		t.Errorf("one missing record changes %d buckets, want 1", differ)
	}
	if newSet().tree.root == (perigee.Digest{}) {
		t.Error("the empty tree has no digest")
	}
}

// BenchmarkReduce folds a large cluster: 10,000 functions of three revisions.
func BenchmarkReduce(b *testing.B) {
	w := newWorld(&testing.T{})
	s := newSet()
	s.add(w.geneses()...)
	auth := newAuthority(w.parser().present().Genesis, s.governing)
	for i := range 10_000 {
		var parents []perigee.Digest
		for range 3 {
			rev, ptr := w.deploy("operator", manifest(fmt.Sprintf("f%d", i)), parents...)
			parents = []perigee.Digest{record.ID(ptr)}
			for _, e := range w.parsed(rev, ptr) {
				e.author = pub("operator")
				s.add(e)
			}
		}
	}
	b.Run("everything", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			reduce(s, auth, nil, nil)
		}
	})
	b.Run("one deploy", func(b *testing.B) {
		b.ReportAllocs()
		old := reduce(s, auth, nil, nil)
		for b.Loop() {
			reduce(s, auth, old, map[string]bool{"f7": true})
		}
	})
}
