package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

func (n *testNode) submit(t *testing.T, records ...[]byte) Ack {
	t.Helper()
	ack, err := n.Submit(t.Context(), records...)
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

func TestSubmit(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.submit(t, w.person("dep", record.TokenDeploy, record.Scope{Functions: []string{"hello*"}})...)
	rev, ptr := w.deploy("dep", manifest("hello"))
	ack := n.submit(t, rev, ptr)
	if !slices.Equal(ack.Stored, []perigee.NodeID{"fra-1"}) {
		t.Errorf("stored on %v, want this node", ack.Stored)
	}
	v := n.View()
	fn := v.Desired.Functions["hello"]
	if fn == nil || fn.Head != record.ID(ptr) || v.Desired.Lookup("hello.fn.example.com", "/x") != fn {
		t.Fatalf("function %+v", fn)
	}

	t.Run("again", func(t *testing.T) {
		n.submit(t, rev, ptr, rev)
		if n.View().Desired.Digest != v.Desired.Digest {
			t.Error("submitting known records changes the state")
		}
	})
	t.Run("lookups", func(t *testing.T) {
		if got, ok := n.Revision(record.ID(rev)); !ok || got != fn.Live {
			t.Errorf("Revision: %v, %v", got, ok)
		}
		if _, ok := n.Revision(record.ID(ptr)); ok {
			t.Error("Revision of a pointer")
		}
		if got, id, ok := n.RevisionByID("hello", fn.Live.ID); !ok || got != fn.Live || id != record.ID(rev) {
			t.Errorf("RevisionByID: %v, %v, %v", got, id, ok)
		}
		if _, _, ok := n.RevisionByID("other", fn.Live.ID); ok {
			t.Error("RevisionByID of another function")
		}
		if got := n.Heads("hello"); !slices.Equal(got, []perigee.Digest{record.ID(ptr)}) {
			t.Errorf("Heads: %v", got)
		}
		if p, ok := n.Person(keyID("dep")); !ok || p.Role != record.TokenDeploy || !p.Public.Equal(pub("dep")) || !slices.Equal(p.Scope.Functions, []string{"hello*"}) {
			t.Errorf("Person: %+v, %v", p, ok)
		}
		if p, ok := n.Person(keyID("operator")); !ok || p.Role != record.TokenOperator {
			t.Errorf("Person of the operator: %+v, %v", p, ok)
		}
		if _, ok := n.Person(keyID("nobody")); ok {
			t.Error("Person of an unknown key")
		}
		tok, ok := n.Token(keyID("token of dep"))
		if !ok || tok.Redeemed == nil || !tok.Redeemed.Public.Equal(pub("dep")) || tok.Revoked || len(n.Tokens()) != 1 {
			t.Errorf("Token: %+v, %v; %d tokens", tok, ok, len(n.Tokens()))
		}
		if k, ok := n.NodeKey("fra-1"); !ok || !k.Equal(pub("fra-1")) {
			t.Error("NodeKey of this node")
		}
		if _, ok := n.NodeKey("syd-1"); ok {
			t.Error("NodeKey of an unknown node")
		}
	})
	t.Run("removed and back", func(t *testing.T) {
		gone := w.sign("dep", n.Heads("hello"), &record.Pointer{Function: "hello"})
		n.submit(t, gone)
		if n.View().Desired.Functions["hello"] != nil {
			t.Error("a removed function is in the View")
		}
		if got := n.Heads("hello"); !slices.Equal(got, []perigee.Digest{record.ID(gone)}) {
			t.Fatalf("Heads of a removed function: %v", got)
		}
		back := w.sign("dep", n.Heads("hello"), &record.Pointer{Function: "hello", Revision: record.ID(rev)})
		if _, err := n.Submit(t.Context(), back); RuleOf(err) != RuleReference {
			t.Errorf("a pointer to a revision that was collected: %v", err)
		}
		n.submit(t, rev, back)
		if fn := n.View().Desired.Functions["hello"]; fn == nil || fn.Conflicts != nil {
			t.Errorf("after deploying again: %+v", fn)
		}
	})
}

// TestSubmitRefuses has one case for each way to be refused, with the rule and a word of the text.
func TestSubmitRefuses(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.submit(t, w.person("dep", record.TokenDeploy, record.Scope{Functions: []string{"hello*"}, Hosts: []string{"*.ok.com"}})...)
	n.submit(t, w.person("op2", record.TokenOperator, record.Scope{})...)
	n.submit(t, w.token("used", record.TokenNode), w.redeem("used", "new", func(r *record.Redeem) { r.Node = "new-1" }), w.token("fresh", record.TokenNode))
	good, goodPtr := w.deploy("dep", manifest("hello"))
	n.submit(t, good, goodPtr)
	wide, _ := w.deploy("op2", manifest("hello", "other.com"))
	n.submit(t, wide)
	n.submit(t, w.person("gone", record.TokenDeploy, record.Scope{})...)
	n.submit(t, w.sign("operator", nil, &record.Revoke{Key: keyID("gone")}))
	other := newWorld(t)
	other.cluster = "ffffffffffffffff"
	future := func(d time.Duration) []byte {
		return w.signAt(record.HLCAt(time.Now().Add(d)), "dep", nil, &record.Pointer{Function: "hello"})
	}
	restored, err := record.Decode(w.sign("operator", nil, &record.Revoke{Node: "a-1"}))
	w.must(err)
	restored.Epoch = 2
	otherEpoch, err := record.Marshal(restored)
	w.must(err)
	lateGrant := w.person("op3", record.TokenOperator, record.Scope{})
	early := w.signAt(w.hlc-1<<30, "op3", nil, &record.Revoke{Node: "x-1"})
	n.submit(t, lateGrant...)

	rev := func(who string, m perigee.Manifest) []byte { r, _ := w.deploy(who, m); return r }
	tests := []struct {
		name string
		raw  []byte
		rule Rule
		text string
	}{
		{"garbage", []byte("garbage"), RuleShape, "not a record"},
		{"another cluster", other.sign("operator", nil, &record.Revoke{Node: "a-1"}), RuleShape, "belongs to cluster"},
		{"another epoch", otherEpoch, RuleShape, "is of epoch 2"},
		{"another genesis", w.sign("operator", nil, &record.Genesis{Cluster: w.cluster}), RuleRight, "one genesis"},
		{"parents of a revision", w.sign("dep", []perigee.Digest{{1}}, &record.Revision{Manifest: manifest("hello"), Bundle: perigee.Digest{1}}), RuleShape, "only pointers have parents"},
		{"bad name", w.sign("dep", nil, &record.Pointer{Function: "Hello!"}), RuleShape, "use only a-z"},
		{"region nowhere", w.sign("operator", nil, &record.Region{Info: perigee.RegionInfo{Code: "zrh", Point: perigee.Point{Lat: 91}}}), RuleShape, "nowhere on earth"},
		{"revoke nothing", w.sign("operator", nil, &record.Revoke{}), RuleShape, "want one of them"},
		{"revoke both", w.sign("operator", nil, &record.Revoke{Node: "a-1", Key: "k1"}), RuleShape, "want one of them"},
		{"token of no kind", w.sign("operator", nil, &record.Token{Kind: "king", Public: pub("x"), Signer: "fra-1", Expires: 1 << 33}), RuleShape, "want node, deploy or operator"},
		{"token with a bad pattern", w.sign("operator", nil, &record.Token{Kind: "deploy", Public: pub("x"), Signer: "fra-1", Expires: 1 << 33, Scope: record.Scope{Hosts: []string{"["}}}), RuleShape, "malformed"},
		{"the future", future(time.Minute), RuleClock, "and this node's clock shows"},
		{"a stranger", rev("stranger", manifest("hello")), RuleAuthor, "log in with a token"},
		{"not its right", w.sign("dep", nil, &record.Revoke{Node: "a-1"}), RuleRight, "may not write revoke records: ask an operator"},
		{"function beyond the scope", rev("dep", manifest("other")), RuleScope, `may deploy only functions matching hello*, not "other"`},
		{"host beyond the scope", rev("dep", manifest("hello", "evil.com")), RuleScope, `may claim only hosts matching *.ok.com, not "evil.com"`},
		{"pointing beyond the scope", w.sign("dep", nil, &record.Pointer{Function: "hello", Revision: record.ID(wide)}), RuleScope, "may claim only hosts"},
		{"pointing to nothing", w.sign("dep", nil, &record.Pointer{Function: "hello", Revision: perigee.Digest{5}}), RuleReference, "submit the revision before"},
		{"pointing to another function", w.sign("dep", nil, &record.Pointer{Function: "hello2", Revision: record.ID(good)}), RuleReference, "as a revision of function hello2"},
		{"broken manifest", rev("dep", perigee.Manifest{Name: "hello"}), RuleManifest, "wasm is missing"},
		{"revoked key", rev("gone", manifest("hello")), RuleRevoked, "was revoked at"},
		{"used token", w.redeem("used", "second", func(r *record.Redeem) { r.Node = "second-1" }), RuleUsed, "a token works once"},
		{"taken name", w.redeem("fresh", "second", func(r *record.Redeem) { r.Node = "new-1" }), RuleUsed, "belongs to another key"},
		{"stamped before its right", early, RuleClock, "before key"},
	}
	before := n.View().Desired.Digest
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// Together with a good record, which must not be stored either.
			spare, _ := w.deploy("dep", manifest("hello"))
			_, err := n.Submit(t.Context(), spare, tt.raw)
			if got := RuleOf(err); got != tt.rule {
				t.Errorf("rule %q, want %q: %v", got, tt.rule, err)
			}
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q, want it to say %q", err, tt.text)
			}
			var refused *RefusedError
			if errors.As(err, &refused) && refused.Record != record.ID(tt.raw) {
				t.Errorf("names record %s, want %s", refused.Record, record.ID(tt.raw))
			}
			if n.View().Desired.Digest != before {
				t.Fatal("a refused submission changed the state")
			}
		})
	}
	t.Run("a little ahead", func(t *testing.T) { n.submit(t, future(400*time.Millisecond)) })
	t.Run("the last operator", func(t *testing.T) {
		n.submit(t, w.sign("operator", nil, &record.Revoke{Key: keyID("op2")}), w.sign("operator", nil, &record.Revoke{Key: keyID("op3")}))
		_, err := n.Submit(t.Context(), w.sign("operator", nil, &record.Revoke{Key: keyID("operator")}))
		if RuleOf(err) != RuleRight || !strings.Contains(err.Error(), "last operator key") {
			t.Errorf("revoking the last operator: %v", err)
		}
	})
}

// TestTwoRedemptions submits two redemptions of one token at once: exactly one succeeds.
func TestTwoRedemptions(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	n.submit(t, w.token("tok", record.TokenNode))
	raws := [][]byte{
		w.redeem("tok", "a", func(r *record.Redeem) { r.Node = "a-1" }),
		w.redeem("tok", "b", func(r *record.Redeem) { r.Node = "b-1" }),
	}
	errs := make(chan error, len(raws))
	for _, raw := range raws {
		go func() {
			_, err := n.Submit(context.Background(), raw)
			errs <- err
		}()
	}
	failed := 0
	for range raws {
		if err := <-errs; err != nil {
			failed++
			if RuleOf(err) != RuleUsed {
				t.Errorf("refused by %q: %v", RuleOf(err), err)
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d of 2 redemptions failed, want 1", failed)
	}

	n.submit(t, w.token("tok2", record.TokenNode))
	early := w.redeem("tok2", "a", func(r *record.Redeem) { r.Node = "a-2" })
	n.submit(t, w.redeem("tok2", "b", func(r *record.Redeem) { r.Node = "b-2" }))
	if _, err := n.Submit(t.Context(), early); RuleOf(err) != RuleUsed {
		t.Errorf("a redemption stamped before the one that was acknowledged: %v", err)
	}
}

// TestDefer gives a node records from the future: it holds them until their time.
func TestDefer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		n := w.node("fra-1", "fra")
		rev, _ := w.deploy("operator", manifest("hello"))
		ptr := w.signAt(record.HLCAt(time.Now().Add(2*time.Second)), "operator", nil, &record.Pointer{Function: "hello", Revision: record.ID(rev)})
		held, fresh, err := n.take([][]byte{rev, ptr})
		if err != nil || len(held) != 1 || fresh != 1 {
			t.Fatalf("held %d, %v, want the revision only", len(held), err)
		}
		n.start()
		at := within(t, 3*time.Second, "the record's time comes", func() bool { return n.View().Desired.Functions["hello"] != nil })
		if at < 2*time.Second-maxAhead {
			t.Errorf("stored after %s, want not before it is %s ahead", at, maxAhead)
		}
		if n.Now() <= w.hlc {
			t.Error("the clock is not after what was seen")
		}
		stopAll(t, n)
	})
}

// TestPendingBounds floods a node with records of unknown authors and from the future.
func TestPendingBounds(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	people := w.person("dep", record.TokenDeploy, record.Scope{})
	var raws [][]byte
	for i := range maxWaiting + 50 {
		raws = append(raws, w.sign("dep", nil, &record.Pointer{Function: fmt.Sprintf("f%d", i)}))
	}
	for chunk := range slices.Chunk(raws, maxItems) {
		if held, _, err := n.take(chunk); err != nil || len(held) > 0 {
			t.Fatalf("held %d, %v", len(held), err)
		}
	}
	if got := n.core.pending.len(); got != maxWaiting {
		t.Errorf("%d records wait, want %d", got, maxWaiting)
	}
	_, fresh, err := n.take(people)
	// The redemption waits for the token for a moment, in the place of one of the others.
	if err != nil || fresh != 2+maxWaiting-1 || n.core.pending.len() != 0 {
		t.Errorf("with their author %d records are stored, %d wait, %v", fresh, n.core.pending.len(), err)
	}

	big := newPending()
	huge := &entry{raw: make([]byte, maxWaitingBytes/2)}
	for i := range byte(5) {
		e := *huge
		e.id[0] = i
		big.add(&waiting{entry: &e, since: time.Now().Add(time.Duration(i)), author: true})
	}
	if big.len() != 2 || big.bytes > maxWaitingBytes {
		t.Errorf("%d records of %d bytes wait", big.len(), big.bytes)
	}
	big.add(&waiting{entry: &entry{id: perigee.Digest{99}, raw: huge.raw}, stored: true, author: true})
	if big.len() != 3 || len(big.stored()) != 1 {
		t.Error("a record of the log was not kept")
	}
	if due := big.takeDue(time.Now().Add(maxWaitingTime + time.Minute)); len(due) != 0 || big.len() != 1 {
		t.Errorf("after a long time %d wait, want only the one of the log", big.len())
	}
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	good := w.node("fra-1", "fra").conf
	for name, change := range map[string]func(*Config){
		"Identity":  func(c *Config) { c.Identity = nil },
		"Mesh":      func(c *Config) { c.Mesh = nil },
		"Dir":       func(c *Config) { c.Dir = "" },
		"Advertise": func(c *Config) { c.Advertise = netip.AddrPort{} },
		"GossipKey": func(c *Config) { c.GossipKey = []byte("short") },
		"MaxState":  func(c *Config) { c.MaxState = -1 },
		"genesis":   func(c *Config) { c.Genesis = []byte{1} },
	} {
		conf := good
		change(&conf)
		if _, err := New(conf); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("New without a good %s: %v", name, err)
		}
	}
}

// TestDiskFull fills the disk: the node refuses, keeps serving, and accepts when there is room.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	sim := n.conf.FS.(*simdisk.Disk)
	rev, ptr := w.deploy("operator", manifest("hello"))
	n.submit(t, rev, ptr)
	sim.SetRoom(used(sim) + 10)
	rev2, ptr2 := w.deploy("operator", manifest("second"))
	for range 2 {
		_, err := n.Submit(t.Context(), rev2, ptr2)
		if RuleOf(err) != RuleStorage || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room") {
			t.Fatalf("Submit with a full disk: %v", err)
		}
	}
	if d := n.View().Desired; d.Functions["hello"] == nil || d.Functions["second"] != nil {
		t.Errorf("functions %v with a full disk", d.Functions)
	}
	n.submit(t, rev, ptr) // known, nothing to write
	sim.SetRoom(0)
	n.submit(t, rev2, ptr2)
	if got := n.again(w).View().Desired; got.Functions["second"] == nil || got.Digest != n.View().Desired.Digest {
		t.Error("the state after a restart is another")
	}
}

func used(d *simdisk.Disk) (n int64) {
	for _, name := range d.Files() {
		n += int64(len(d.Get(name)))
	}
	return n
}

func TestStateFull(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra", func(c *Config) { c.MaxState = 8 * perigee.KiB })
	var err error
	for i := 0; err == nil && i < 20; i++ {
		rev, ptr := w.deploy("operator", manifest(fmt.Sprintf("f%d", i)))
		_, err = n.Submit(t.Context(), rev, ptr)
	}
	if RuleOf(err) != RuleStorage || !strings.Contains(err.Error(), "full") {
		t.Errorf("Submit above MaxState: %v", err)
	}
	if n.core.set.bytes > 8192 {
		t.Errorf("the state has %d bytes", n.core.set.bytes)
	}
	for i := 0; err == nil || i == 0; i++ { // to the last byte
		_, err = n.Submit(t.Context(), w.sign("operator", nil, &record.Region{Info: perigee.RegionInfo{Code: perigee.Region(fmt.Sprint("r", i))}}))
	}
	for name := range n.View().Desired.Functions { // what the error says to do must help
		n.submit(t, w.sign("operator", n.Heads(name), &record.Pointer{Function: name}))
	}
	rev, ptr := w.deploy("operator", manifest("another"))
	n.submit(t, rev, ptr)
}

func TestBadClock(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra")
	now := time.Now()
	n.core.clock.compare("a-1", now.Add(3*time.Second), now, now)
	n.submit(t, w.sign("operator", nil, &record.Revoke{Node: "x-1"})) // one peer proves nothing
	n.core.clock.compare("b-1", now.Add(3100*time.Millisecond), now, now)
	_, err := n.Submit(t.Context(), w.sign("operator", nil, &record.Revoke{Node: "x-2"}))
	if RuleOf(err) != RuleClock || !strings.Contains(err.Error(), "differs from its peers' by 3s") {
		t.Errorf("Submit to a node whose clock is off: %v", err)
	}
	n.core.clock.forget("a-1")
	n.submit(t, w.sign("operator", nil, &record.Revoke{Node: "x-2"}))
}

func TestClockCompare(t *testing.T) {
	now := time.Now()
	at := func(ms ...int) *clock {
		c := &clock{}
		for i, d := range ms {
			c.compare(perigee.NodeID(fmt.Sprintf("n%d", i)), now.Add(time.Duration(d)*time.Millisecond), now, now)
		}
		return c
	}
	tests := []struct {
		offsets []int
		want    int
	}{
		{nil, 0}, {[]int{900}, 0}, {[]int{900, 1000}, 900}, {[]int{-900, -1000}, -900}, {[]int{900, -900}, 0},
		{[]int{5000, 1, 2}, 1}, {[]int{700, 800, 900}, 700}, {[]int{0, 0, 5000}, 0},
	}
	for _, tt := range tests {
		if got := at(tt.offsets...).off(); got != time.Duration(tt.want)*time.Millisecond {
			t.Errorf("offsets %v: off by %s, want %d ms", tt.offsets, got, tt.want)
		}
	}
	for clocks, peers := range map[int]int{0: 0, 1: 1, 2: 5} {
		c := at(make([]int, clocks)...)
		if !c.known(peers) || peers > 0 && at(make([]int, clocks-1)...).known(peers) {
			t.Errorf("with %d peers %d clocks are not what it takes to know", peers, clocks)
		}
	}
	c := &clock{}
	c.compare("a", now.Add(250*time.Millisecond), now, now.Add(600*time.Millisecond)) // within the round trip
	c.compare("b", now.Add(250*time.Millisecond), now, now.Add(600*time.Millisecond))
	if off := c.off(); off != 0 {
		t.Errorf("a reading within the round trip counts as %s off", off)
	}
	for i := range 2 * maxOffsets {
		c.compare(perigee.NodeID(fmt.Sprint(i)), now, now, now)
	}
	if len(c.offsets) > maxOffsets {
		t.Errorf("%d clocks remembered", len(c.offsets))
	}
}

// TestPoison gives a node a record that makes its checker panic.
func TestPoison(t *testing.T) {
	w := newWorld(t)
	n := w.node("fra-1", "fra", func(c *Config) {
		c.CheckManifest = func(m *perigee.Manifest) error { panic("poison " + m.Name) }
	})
	rev, ptr := w.deploy("operator", manifest("hello"))
	if _, err := n.Submit(t.Context(), rev, ptr); RuleOf(err) != RuleShape {
		t.Errorf("Submit: %v", err)
	}
	if held, _, err := n.take([][]byte{rev, ptr}); err != nil || len(held) != 1 {
		t.Errorf("take holds %d, %v, want only the pointer", len(held), err)
	}
}
