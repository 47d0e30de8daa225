package node_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// said is what the guest answers that has one value in its environment.
func said(value string) string { return "DB=" + value + "\x00" }

// TestSecrets follows a value from the person who sets it to the guests that get it, and to a node that
// came to be allowed later; nobody else can read it, on no disk it stands in clear.
func TestSecrets(t *testing.T) {
	f := cluster(t, "fra", "fra", "wdc")
	op := f.Operator()
	fn := pack(t, "shop", wasmtest.Environ(), perigee.Policy{Residency: []string{"eu"}, Warm: map[string]int{"fra": 2}})
	fn.Secrets = []string{"DB"}
	_, _, err := deployAs(t.Context(), op, fn)
	wantError(t, "deploy without a value", err, "secret DB has no value", "perigee secret set shop DB")
	_, to, err := op.SetSecret(t.Context(), "shop", "DB", []byte("hunter2"), &fn.Placement)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(to) != "[fra-1 fra-2]" {
		t.Errorf("sealed to %v, want the nodes of the residency", to)
	}
	deploy(t, f, fn)
	served(t, f, "shop", said("hunter2"))

	// A new value reaches the running guests.
	if _, _, err := op.SetSecret(t.Context(), "shop", "DB", []byte("correct horse"), &fn.Placement); err != nil {
		t.Fatal(err)
	}
	served(t, f, "shop", said("correct horse"))

	// A node that joins later is handed the key of the value; one that may not run it is not.
	later, err := f.Join(t.Context(), "fra")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	fn.Placement.Warm = map[string]int{"fra": 3}
	next := deploy(t, f, fn)
	if w := later.View().Observed.Nodes[later.ID()].Revisions[next.Revision]; w != perigee.Warm {
		t.Errorf("the new node has it %s", w)
	}
	served(t, f, "shop", said("correct horse"))

	for _, m := range f.Members() {
		err := filepath.WalkDir(string(m.Dir), func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil
			}
			b, err := os.ReadFile(path)
			if err == nil && (bytes.Contains(b, []byte("hunter2")) || bytes.Contains(b, []byte("correct horse"))) {
				t.Errorf("%s has a value in clear", path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := op.Secrets(t.Context(), "shop")
	if err != nil || len(list) != 1 || list[0].Name != "DB" || !list[0].Used || len(list[0].Secret.Sealed) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
