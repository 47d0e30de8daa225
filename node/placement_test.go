package node_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
)

// TestMove moves a function that has a secret from one side of the world to the other while a client on a
// third asks for it: no request fails, the code is the same, and the side that it left keeps nothing.
func TestMove(t *testing.T) {
	f := cluster(t, "fra", "wdc", "syd")
	op := operator(f, f.Member("wdc-1")) // which never has the bundle
	fn := pack(t, "shop", wasmtest.Environ(), perigee.Policy{Pin: []string{"fra"}, Near: perigee.NearClient})
	fn.Secrets = []string{"DB"}
	if _, _, err := f.Operator().SetSecret(t.Context(), "shop", "DB", []byte("hunter2"), &fn.Placement); err != nil {
		t.Fatal(err)
	}
	first := deploy(t, f, fn)
	served(t, f, "shop", said("hunter2"))

	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan int)
	go func() {
		n := 0
		defer func() { asked <- n }()
		for ; ctx.Err() == nil; n++ {
			a, err := get(t.Context(), f, f.Member("wdc-1"), "shop")
			if err != nil || a.status != http.StatusOK || a.body != said("hunter2") {
				t.Errorf("request %d: %d %q, %v", n, a.status, a.body, err)
			}
		}
	}()
	moved, err := op.SetPlacement(t.Context(), "shop", &perigee.Policy{Pin: []string{"syd"}, Near: perigee.NearClient}, first.Revision)
	if err != nil || !moved.Changed || moved.Brought != "syd-1" || len(moved.Stored) == 0 {
		t.Errorf("move: %+v, %v", moved, err)
	}
	warm(t, f, "shop", first.Revision)
	stop()
	t.Logf("%d requests", <-asked)

	if s := status(t, op, "shop"); s.Live.ID != first.Revision || !slices.Equal(s.Policy().Pin, []string{"syd"}) {
		t.Errorf("revision %s with %+v", s.Live.ID, s.Policy())
	}
	eventually(t, 20*time.Second, "the old side keeps nothing", func() error {
		if left := bundles(t, f.Member("fra-1")); len(left) > 0 {
			return fmt.Errorf("bundles %v", left)
		}
		return nil
	})

	// A narrower residency takes the key of the secret away from a node that was handed it.
	if _, err := op.SetPlacement(t.Context(), "shop", &perigee.Policy{Near: perigee.NearClient}, ""); err != nil {
		t.Fatal(err)
	}
	warm(t, f, "shop", first.Revision)
	keys := func(id perigee.NodeID) int {
		files, err := os.ReadDir(filepath.Join(string(f.Member(id).Dir), "secrets"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	if keys("syd-1") != 1 {
		t.Errorf("syd-1 keeps %d keys of secrets, want the one it was handed", keys("syd-1"))
	}
	if _, err := op.SetPlacement(t.Context(), "shop", &perigee.Policy{Residency: []string{"eu"}, Near: perigee.NearClient, Max: 2}, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "syd-1 and wdc-1 keep no key and no byte", func() error {
		for _, id := range []perigee.NodeID{"syd-1", "wdc-1"} {
			if n, left := keys(id), bundles(t, f.Member(id)); n > 0 || len(left) > 0 {
				return fmt.Errorf("%s: %d keys, %v", id, n, left)
			}
		}
		return nil
	})

	// What is set apart stays over a deploy of other code, and a rollback.
	fn = pack(t, "shop", wasmtest.Answer("two"), fn.Placement)
	fn.Secrets = []string{"DB"}
	second := deploy(t, f, fn)
	for _, want := range []perigee.RevisionID{second.Revision, first.Revision} {
		if s := status(t, op, "shop"); s.Live.ID != want || !slices.Equal(s.Policy().Residency, []string{"eu"}) || len(s.Policy().Pin) > 0 || s.Policy().Max != 2 {
			t.Errorf("revision %s with %+v, want %s in eu", s.Live.ID, s.Policy(), want)
		}
		if want == second.Revision {
			if _, err := op.Rollback(t.Context(), "shop", node.DeployOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if back, err := op.SetPlacement(t.Context(), "shop", nil, ""); err != nil || !back.Changed {
		t.Errorf("back to the manifest: %+v, %v", back, err)
	}
	if s := status(t, op, "shop"); !slices.Equal(s.Policy().Pin, []string{"fra"}) || s.Placement != nil {
		t.Errorf("placement %+v, want the manifest's", s.Policy())
	}

	// Nothing changes for what the cluster can't give, and for what holds already.
	_, err = op.SetPlacement(t.Context(), "shop", &perigee.Policy{Pin: []string{"syd"}}, "0123456789ab")
	wantError(t, "another revision is live", err, "nothing was changed", "not 0123456789ab")
	_, err = op.SetPlacement(t.Context(), "shop", &perigee.Policy{Pin: []string{"nrt"}}, "")
	wantError(t, "a place without a node", err, "change the placement of shop: nothing was changed", `pin = ["nrt"]`)
	_, err = op.SetPlacement(t.Context(), "shop", &perigee.Policy{Pin: []string{"atlantis"}}, "")
	wantError(t, "a place that does not exist", err, "nothing was changed", "atlantis")
	if same, err := op.SetPlacement(t.Context(), "shop", nil, ""); err != nil || same.Changed {
		t.Errorf("what holds already: %+v, %v", same, err)
	}
}
