package node

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// TestSecretKeyHandedOver asks a node for the key of a secret as other nodes would: only one that the placement of
// this moment allows, and that is still a member, gets it.
func TestSecretKeyHandedOver(t *testing.T) {
	s := newSingle(t)
	s.run()
	p := s.pack("shop", wasmtest.Answer("hi"), perigee.Policy{Residency: []string{"eu"}})
	s.declare(p)
	wait(t, 10*time.Second, "the node has said how it is", func() bool {
		_, _, err := s.person().SetSecret(t.Context(), "shop", "DB", []byte("hunter2"), &p.m.Placement)
		return err == nil
	})
	version := strconv.FormatUint(s.View().Desired.Secrets["shop"]["DB"].Version, 10)
	ask := func(id perigee.NodeID, region perigee.Region) error {
		_, err := s.secrets.handOver(perigee.NodeClaims{ID: id, Region: region}, "shop", "DB", version)
		return err
	}
	if err := ask(s.ID(), "fra"); err != nil {
		t.Errorf("a node that may run it: %v", err)
	}
	wantErr(t, "one outside the residency", ask(s.ID(), "wdc"), "may not run shop", "residency")
	if _, err := s.person().Revoke(t.Context(), record.Revoke{Node: "fra-9"}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "one that was removed", ask("fra-9", "fra"), "was removed from the cluster")
}

// TestSecretsLeave changes a placement: a node that is outside now keeps neither values nor keys.
func TestSecretsLeave(t *testing.T) {
	s := newSingle(t)
	function := func(name string, policy perigee.Policy) *perigee.Function {
		return &perigee.Function{Name: name, Live: &perigee.Revision{Manifest: perigee.Manifest{Name: name, Placement: policy}}}
	}
	d := &perigee.Desired{Regions: perigee.BuiltinRegions(), Functions: map[string]*perigee.Function{
		"stays": function("stays", perigee.Policy{Residency: []string{"eu"}}), "goes": function("goes", perigee.Policy{Forbid: []string{"eu"}}),
	}}
	for _, name := range []string{"stays", "goes"} {
		s.secrets.opened[secretKey{name, "DB", 1}] = "hunter2"
		if err := s.secrets.keep(filepath.Join(s.secrets.dir, name+".DB"), 1, []byte("key")); err != nil {
			t.Fatal(err)
		}
	}
	s.secrets.leave(d)
	left, err := os.ReadDir(s.secrets.dir)
	if err != nil || len(left) != 1 || left[0].Name() != "stays.DB" {
		t.Errorf("keys left: %v, %v", left, err)
	}
	if _, ok := s.secrets.opened[secretKey{"stays", "DB", 1}]; !ok || len(s.secrets.opened) != 1 {
		t.Errorf("%d values left", len(s.secrets.opened))
	}
}
