package gossip

import (
	"crypto/ed25519"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// restore begins the next epoch of a world, with other CAs, as a restore from a backup does. What is signed from
// now on is of it.
func (w *world) restore() {
	w.t.Helper()
	var err error
	w.root, err = identity.NewRoot(w.cluster, time.Now())
	w.must(err)
	w.ca, err = w.root.NewIntermediate(time.Now())
	w.must(err)
	before, until := w.genesis, w.hlc
	w.epoch++
	w.genesis = w.sign("operator", nil, &record.Genesis{
		Cluster: w.cluster, Domain: "fn.example.com", Operator: pub("operator"), Root: w.root.Cert().Raw, WebRoot: []byte{1}, Before: before, Until: until,
	})
}

// node returns the records that make a key a node.
func (w *world) joined(token, key string, id perigee.NodeID) [][]byte {
	return [][]byte{w.token(token, record.TokenNode), w.redeem(token, key, func(r *record.Redeem) { r.Node = id })}
}

// TestEpoch: what a cluster had before it was restored counts after it, as far as the backup goes: what people
// signed does, and no node, no token that nobody had used, and nothing that was sealed.
func TestEpoch(t *testing.T) {
	w := newWorld(t)
	var past [][]byte
	past = append(past, w.person("deployer", record.TokenDeploy, record.Scope{})...)
	past = append(past, w.person("gone", record.TokenDeploy, record.Scope{})...)
	past = append(past, w.joined("token of fra-2", "fra-2 of old", "fra-2")...)
	unused := w.token("unused", record.TokenDeploy)
	revision, pointer := w.deploy("deployer", manifest("hello", "hello.example.com"))
	past = append(past, unused, revision, pointer,
		w.sign("operator", nil, &record.Revoke{Node: "fra-3"}), w.sign("operator", nil, &record.Revoke{Key: keyID("gone")}))
	sealed := w.sign("deployer", nil, &record.Secret{Function: "hello", Name: "KEY"})
	late := w.hlc + 1
	w.hlc++
	lost, _ := w.deploy("deployer", manifest("late"))
	w.hlc = late - 1
	oldRedeem := w.redeem("unused", "somebody")
	w.hlc = late - 1

	w.restore()
	p := w.parser()
	for name, c := range map[string]struct {
		raw  []byte
		want Rule
	}{
		"in the backup":             {revision, ""},
		"after the backup":          {lost, RuleEpoch},
		"sealed to old nodes":       {sealed, RuleEpoch},
		"redeemed after the backup": {oldRedeem, RuleEpoch},
		"the genesis before":        {p.epochs[0].Raw, ""},
	} {
		if _, err := p.parse(c.raw); RuleOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}

	// fra-1 is a node of the new epoch, and redeems a token of the old one, and a new one for a name of the old.
	stolen := w.redeem("unused", "thief")
	again := w.joined("token of new fra-2", "fra-2 of new", "fra-2")
	third := w.joined("token of new fra-3", "fra-3 of new", "fra-3")
	next, nextPointer := w.deploy("deployer", manifest("hello", "hello.example.com"), record.ID(pointer))
	s, f := w.fold(append(append(append(append([][]byte{}, past...), again...), third...), stolen, next, nextPointer)...)
	if fn := f.desired.Functions["hello"]; fn == nil || fn.Live.ID != record.RevisionID(record.ID(next)) || len(fn.Kept) != 1 {
		t.Errorf("hello is %+v", fn)
	}
	if got := ruleOf(s, f, stolen, w); got != "not admitted: right" {
		t.Errorf("a token of the old epoch was redeemed: %q", got)
	}
	for id, who := range map[perigee.NodeID]string{"fra-2": "fra-2 of new", "fra-3": "fra-3 of new"} {
		if key := f.auth.nodes[id]; !key.Equal(pub(who)) {
			t.Errorf("%s is the node with key %x", id, key)
		}
	}
	if len(f.desired.Revoked) > 0 {
		t.Errorf("revoked are %v", f.desired.Revoked)
	}
	if _, ok := f.auth.person(keyID("gone")); ok {
		t.Error("a key that was revoked before the restore is good again")
	}
	if st := f.auth.tokens[keyID("unused")]; st == nil || st.redeemed != nil {
		t.Errorf("the unused token: %+v", st)
	}
}

// TestPast: a node that starts with what Continue wrote has the functions of the backup, and its signed snapshot.
func TestPast(t *testing.T) {
	w := newWorld(t)
	records := append([][]byte{w.genesis}, w.person("deployer", record.TokenDeploy, record.Scope{})...)
	revision, pointer := w.deploy("deployer", manifest("hello"))
	records = append(records, revision, pointer)
	until := w.hlc
	forged := w.sign("stranger", nil, &record.Revoke{Key: keyID("deployer")})
	w.hlc = until
	if _, err := OpenPast(w.genesis, append(records, forged), checkTestManifest); err == nil {
		t.Error("a record of a stranger was taken")
	}
	past, err := OpenPast(w.genesis, records, checkTestManifest)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := past.Person(keyID("deployer")); !ok || p.Role != record.TokenDeploy || past.Until() != w.hlc {
		t.Errorf("deployer is %+v, the last stamp %d of %d", p, past.Until(), w.hlc)
	}
	old := w.genesis
	w.restore()
	disk := simdisk.New()
	node := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	if _, err := past.Continue(old, disk, "/state", node); err == nil {
		t.Error("the same epoch went on")
	}
	desired, err := past.Continue(w.genesis, disk, "/state", node)
	if err != nil || desired.Functions["hello"] == nil {
		t.Fatalf("%+v, %v", desired, err)
	}
	_, found, err := openLog(disk, "/state", sealKey(node), nil)
	if err != nil || len(found.sealed) != len(records)+1 || found.damage.any() {
		t.Errorf("the snapshot has %d records, want %d and the new genesis: %v, %+v", len(found.sealed), len(records), err, found.damage)
	}
}
