package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// TestRestore: a cluster comes back from a backup in a new epoch, with what its first node may hold, by the key of
// an operator and no other.
func TestRestore(t *testing.T) {
	s := newSingle(t)
	here := s.pack("here", guest("hi"), perigee.Policy{})
	s.declare(here)
	s.declare(s.pack("away", guest("hi"), perigee.Policy{Pin: []string{"syd"}}))
	if err := s.rep.store.Put(t.Context(), here.archive.Digest, here.archive.Size, here.archive.Open()); err != nil {
		t.Fatal(err)
	}
	unused := ed25519.PrivateKey(mustKey(t)).Public().(ed25519.PublicKey)
	_, token, err := record.Sign(s.operator, s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Token{
		Kind: record.TokenNode, Public: unused, Signer: "fra-1", Expires: time.Now().Add(time.Hour).Unix(), Region: "fra",
	})
	if err == nil {
		_, err = s.gossip.Submit(t.Context(), token)
	}
	var file bytes.Buffer
	if err == nil {
		err = s.backup(t.Context(), &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := ReadBackup(bytes.NewReader(file.Bytes()))
	if err != nil || b.Functions != 2 || b.Bundles != 1 || b.Epoch != 1 || !slices.Equal(b.Missing, []string{"away"}) {
		t.Fatalf("the backup has %+v, %v", b, err)
	}

	cfg := RestoreConfig{FoundConfig: FoundConfig{Dir: Dir(t.TempDir()), Region: "fra"}, Operator: mustKey(t), Backup: bytes.NewReader(file.Bytes())}
	_, err = Restore(t.Context(), cfg)
	wantErr(t, "with a stranger's key", err, "no operator")
	if cfg.Dir.Member() {
		t.Error("a directory was written with a stranger's key")
	}
	cut := cfg
	cut.Operator, cut.Backup = s.operator, bytes.NewReader(file.Bytes()[:file.Len()-1])
	_, err = Restore(t.Context(), cut)
	wantErr(t, "of a cut file", err, "no whole backup")

	cfg.Operator, cfg.Backup = s.operator, bytes.NewReader(file.Bytes())
	r, err := Restore(t.Context(), cfg)
	if err != nil || r.Epoch != 2 || r.Cluster != s.m.genesis.Cluster || !slices.Equal(r.Missing, []string{"away"}) {
		t.Fatalf("restored %+v, %v", r, err)
	}
	cfg.Backup = bytes.NewReader(file.Bytes())
	_, err = Restore(t.Context(), cfg)
	wantErr(t, "again", err, "already belongs to a cluster")

	old := s.m.genesisDigest
	again := &single{t: t, dir: cfg.Dir, operator: s.operator}
	again.open()
	functions := again.View().Desired.Functions
	if functions["here"] == nil || functions["away"] == nil || !again.rep.store.Has(functions["here"].Live.Bundle) {
		t.Errorf("the node starts with %v", functions)
	}
	_, err = again.renewer.join.known(t.Context(), record.KeyIDOf(unused))
	wantErr(t, "a token of the epoch before", err, "does not know this token")

	again.run()
	addr := again.advertised.String()
	for name, c := range map[string]struct {
		known   perigee.Digest
		trusted bool
		want    string // of the error; "" = none
	}{
		"an operator's word": {old, true, ""},
		"a stranger's word":  {old, false, "is no operator's that is known"},
		"of another cluster": {perigee.Digest{1}, true, "does not follow"},
		"for a node of it":   {again.m.genesisDigest, true, "does not follow"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		e, err := laterEpoch(ctx, addr, c.known, func(key ed25519.PublicKey) bool { return c.trusted && key.Equal(s.operator.Public()) })
		cancel()
		if c.want != "" {
			wantErr(t, name, err, c.want)
		} else if err != nil || e.Number != 2 {
			t.Errorf("%s: epoch %d, %v", name, e.Number, err)
		}
	}
}
