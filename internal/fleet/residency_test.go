package fleet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
)

// What must not be found outside. Clients send the first in requests that no receipt or log quotes.
const (
	plaintext   = "the-plaintext-of-a-client"
	secretValue = "the-value-of-a-secret"
)

// TestResidencyOnDisk moves a function between Europe and North America while nodes die and come back,
// and clients ask everywhere. After each move nothing of it is left on the disks outside: no bundle, no key of
// its host, no key of its secret, nothing that a client or its owner said. At no moment has a node anything
// that neither the old rule nor the new one allows there.
func TestResidencyOnDisk(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	f := start(t, true, "fra", "wdc", "syd", "mad", "sjc")
	place := map[string]string{"fra-1": "eu", "mad-1": "eu", "wdc-1": "na", "sjc-1": "na", "syd-1": "oc"}
	m, archive := hello(t, perigee.Policy{})
	m.Secrets = []string{"KEY"}
	old, asked, passed := "", 0, 0
	moves := 3
	if os.Getenv("PERIGEE_FIGURES") != "" {
		moves = 20
	}
	for step := range moves {
		rule := []string{"eu", "na"}[step%2]
		m.Placement = perigee.Policy{Residency: []string{rule}}
		if _, _, err := f.Operator().SetSecret(t.Context(), "hello", "KEY", []byte(secretValue), &m.Placement); err != nil {
			t.Fatal(err)
		}
		body := archive.Open()
		_, err := f.Operator().DeployWith(t.Context(), node.DeployOptions{Placement: node.PlacementManifest}, m, archive.Digest, perigee.Bytes(archive.Size), body, nil)
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		down := f.Members()[rng.IntN(5)]
		if down != f.Members()[0] && step%3 == 1 { // the first one answers the operator
			if err := down.Kill(); err != nil {
				t.Fatal(err)
			}
		} else {
			down = nil
		}
		for _, member := range f.Members() {
			if member == down {
				continue
			}
			for _, force := range []string{"", "syd", rule} {
				if r, err := askPlainly(t, f, member, force); err == nil && r.status == 200 {
					asked++
					if in := place[string(r.receipt.Node)]; in != rule && in != old {
						t.Errorf("step %d: ran in %s, the rule says %s", step, r.receipt.Node, rule)
					}
					if r.receipt.Via != "" {
						passed++
					}
				}
			}
			if in := place[string(member.ID())]; in != rule && in != old {
				if err := nothingOn(member); err != nil {
					t.Errorf("step %d, at once: %v", step, err)
				}
			}
		}
		if down != nil {
			if err := f.Restart(t.Context(), down); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 30*time.Second, "nothing is left outside", func() error {
			for _, member := range f.Members() {
				if place[string(member.ID())] == rule {
					continue
				}
				if err := nothingOn(member); err != nil {
					return err
				}
			}
			return nil
		})
		old = rule
	}
	if asked < 2*moves || passed == 0 {
		t.Errorf("only %d requests were answered, %d of them passed on", asked, passed)
	}
}

// askPlainly sends a request with the plaintext, in another connection each.
func askPlainly(t *testing.T, f *fleet.Fleet, m *fleet.Member, force string) (response, error) {
	return try(t.Context(), f, m, "X-Plaintext", plaintext, "Perigee-Force-Region", force)
}

// nothingOn reports what a node has on its disk of the function hello.
func nothingOn(m *fleet.Member) error {
	var found []error
	err := filepath.WalkDir(string(m.Dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		rel, _ := filepath.Rel(string(m.Dir), path)
		part, _, _ := strings.Cut(rel, string(filepath.Separator))
		switch {
		case part == "bundles", part == "secrets", part == "web" && strings.Contains(e.Name(), "hello"):
			found = append(found, fmt.Errorf("%s has %s", m.ID(), rel))
			return nil
		case e.Type() != 0:
			return nil // a socket
		}
		b, err := os.ReadFile(path)
		for _, text := range []string{plaintext, secretValue} {
			if bytes.Contains(b, []byte(text)) {
				found = append(found, fmt.Errorf("%s has %q in %s", m.ID(), text, rel))
			}
		}
		return ignoreGone(err)
	})
	return errors.Join(append(found, err)...)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
