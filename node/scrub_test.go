package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// TestScrub rots a bundle of a node that has its function loaded: the scrub finds it and says so, the
// function goes on, and the bundle comes back from a peer.
func TestScrub(t *testing.T) {
	s := newSingle(t)
	p := s.pack("a", guest("1"), perigee.Policy{})
	rev := s.deploy(p)
	s.scrub(t.Context())
	if st := s.status(); st.Rotten != 0 || st.Disk != "" {
		t.Errorf("nothing is wrong, and the status says %d, %q", st.Rotten, st.Disk)
	}
	path := filepath.Join(string(s.dir), "bundles", strings.TrimPrefix(p.archive.Digest.String(), "b3:"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[700] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.scrub(t.Context())
	if s.rep.store.Has(rev.Bundle) || s.status().Rotten != 1 {
		t.Errorf("after the scrub: has it: %v, %d files rotten", s.rep.store.Has(rev.Bundle), s.status().Rotten)
	}
	s.want("rotted on the disk", rev.ID, perigee.Warm)
	s.serveFrom(map[perigee.NodeID]peer{"x": honest(t, p)})
	if err := s.rep.bring(rev, perigee.Warm, "x", s.rep.quiet); err != nil || !s.rep.store.Has(rev.Bundle) {
		t.Errorf("not fetched again: %v", err)
	}
}
