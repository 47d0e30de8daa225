//go:build linux

package cluster_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
)

// TestDiskFull fills the small disk of one node: it goes on, says what is wrong, takes no new bundle, and takes it
// when there is room.
func TestDiskFull(t *testing.T) {
	s := begin(t, "fra", "wdc")
	fra := s.member("fra")
	mad, err := s.Join(t.Context(), "mad-1", "mad", lab.NodeConfig{Disk: 24 * perigee.MiB})
	s.must(err)
	s.settle(20*time.Second, s.Members()...)
	s.deploy(fra, "hello", "hi", `placement.pin = ["mad"]`)
	s.answers(15*time.Second, fra, "hello", "hi")

	big := make([]byte, 30*perigee.MiB)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	f, err := cluster.NewFunction(filepath.Join(t.TempDir(), "big"), "big", wasmtest.Answer("big"), "files = \"public/\"\n[placement]\npin = [\"mad\"]", map[string][]byte{"blob": big})
	s.must(err)
	p, err := s.Operator(t.Context(), fra)
	s.must(err)
	if _, err := f.Deploy(t.Context(), p); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("a bundle larger than the holder's disk: %v", err)
	}
	s.answers(5*time.Second, fra, "hello", "hi")
	if !mad.Running() {
		t.Fatalf("mad-1 ended:\n%s", mad.LogEnd())
	}

	// Now nothing at all fits: not even the records of a deploy that does not concern it.
	const fill = "dd if=/dev/zero of=data/fill bs=64k; dd if=/dev/zero of=data/fill2 bs=512; true"
	if out, err := mad.Run(t.Context(), "sh", "-c", fill); err != nil {
		t.Fatal(err, out)
	}
	var rev perigee.RevisionID
	for i := range 6 { // more than fits into the last block of a file
		rev = s.deploy(fra, "other", fmt.Sprint("try ", i), fmt.Sprintf("placement.pin = [\"wdc\"]\nenv.PAD = %q", strings.Repeat("x", 1500)))
	}
	s.answers(15*time.Second, fra, "other", "try 5")
	s.until(20*time.Second, "it can't store what the others have, and runs", func() error {
		here, err := mad.Client.Status(t.Context())
		if err != nil {
			return err
		}
		there, err := fra.Client.Status(t.Context())
		if err == nil && here.State == there.State {
			err = errors.New("it has the same state")
		}
		return err
	})
	s.answers(5*time.Second, fra, "hello", "hi")
	if out, err := mad.Run(t.Context(), "rm", "data/fill", "data/fill2"); err != nil {
		t.Fatal(err, out)
	}
	s.settle(60*time.Second, s.Members()...)
	mad.Kill()
	s.must(mad.Restart(t.Context()))
	s.settle(40*time.Second, s.Members()...)
	if f, _, err := mad.Client.Function(t.Context(), "other"); err != nil || f.Live.ID != rev {
		t.Errorf("what could not be stored at first is not there: %v", err)
	}
}
