package node

import (
	"bytes"
	"os"
	"testing"

	"github.com/perigee-edge/perigee/internal/record"
)

// TestCopies flips a bit here and there in each small file, one at a time, and cuts it short: the directory
// opens as the same node all the same, says so once, and the file is as it was. The copies are no
// trouble when they rot.
func TestCopies(t *testing.T) {
	s := newSingle(t)
	s.Close()
	b, err := record.Marshal(seedFile{Advertise: "192.0.2.1:7443"})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(s.dir.path(fileSeeds), withSum(b)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.dir.load(); err != nil { // the copies are made
		t.Fatal(err)
	}
	whole := map[string][]byte{}
	for _, name := range []string{fileGenesis, fileKey, fileChain, fileGossip, fileSigner, fileWeb, fileSeeds} {
		if whole[name], err = os.ReadFile(s.dir.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, good := range whole {
		for at := 0; at < len(good); at += 9 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at / 9 % 8)
			if at == 0 {
				bad = good[:len(good)/2]
			}
			if err := os.WriteFile(s.dir.path(name), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			m, seeds, err := s.dir.load()
			if err != nil {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
			if !m.key().Equal(s.m.key()) || m.identity.Claims().ID != s.ID() || !bytes.Equal(m.gossipKey, s.m.gossipKey) || m.signer == nil || m.genesisDigest != s.m.genesisDigest || seeds.Advertise != "192.0.2.1:7443" {
				t.Errorf("%s, byte %d: another node", name, at)
			}
			if now, _ := os.ReadFile(s.dir.path(name)); !bytes.Equal(now, good) && len(m.rotten) > 0 {
				t.Errorf("%s, byte %d: not restored", name, at)
			}
			if err := os.WriteFile(s.dir.path(name), good, 0o600); err != nil { // a bit in the text around a key means nothing
				t.Fatal(err)
			}
			if m, _, err = s.dir.load(); err != nil || len(m.rotten) != 0 {
				t.Fatalf("%s, byte %d: once more: %v, %v", name, at, m.rotten, err)
			}
		}
		if err := os.WriteFile(s.dir.path(dirCopies)+"/"+name, []byte("junk"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if m, _, err := s.dir.load(); err != nil || len(m.rotten) != 0 {
		t.Errorf("all copies rotten: %v, %v", m.rotten, err)
	}

	// Seeds are hints: without a copy the file is put aside.
	alone(t, s.dir)
	if err := os.WriteFile(s.dir.path(fileSeeds), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, seeds, err := s.dir.load()
	if err != nil || seeds.joined() || m.rotten[fileSeeds] == "" {
		t.Errorf("bad seeds: %+v, %v, %v", seeds, m.rotten, err)
	}
}
