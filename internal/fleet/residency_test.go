package fleet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/fleet"
	"github.com/perigee-edge/perigee/node"
)

// What must not be found outside. Clients send the first in requests that no receipt or log quotes, and ask for
// the second at gateways outside, without TLS.
const (
	plaintext   = "the-plaintext-of-a-client"
	path        = "the-path-of-a-client"
	secretValue = "the-value-of-a-secret"
)

const accessLog = "access.log" // in the directory of a node

// logged is what all nodes log. It is safe for concurrent use.
type logged struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

// lines returns those with a text.
func (l *logged) lines(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.all.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// TestResidencyOnDisk moves a function between Europe and North America while nodes die and come back,
// and clients ask everywhere. After each move nothing of it is left on the disks outside: no bundle, no key of
// its host, no key of its secret, nothing that a client or its owner said. At no moment has a node anything
// that neither the old rule nor the new one allows there.
func TestResidencyOnDisk(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	log := &logged{}
	f := startWith(t, fleet.Config{
		Regions: []perigee.Region{"fra", "wdc", "syd", "mad", "sjc"}, Near: true, Plain: true,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		AccessLog: func(dir node.Dir) io.Writer {
			w, err := os.OpenFile(filepath.Join(string(dir), accessLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.Close() })
			return w
		},
	})
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
				askOutside(t, member)
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
	for _, line := range log.lines(path) {
		t.Errorf("a node logs %s", line)
	}
	if n := len(log.lines("status=308")); n == 0 {
		t.Error("no node logs that it was asked without TLS")
	}
	if asked < 2*moves || passed == 0 {
		t.Errorf("only %d requests were answered, %d of them passed on", asked, passed)
	}
}

// askPlainly sends a request with the plaintext, in another connection each.
func askPlainly(t *testing.T, f *fleet.Fleet, m *fleet.Member, force string) (response, error) {
	return try(t.Context(), f, m, "X-Plaintext", plaintext, "Perigee-Force-Region", force)
}

// askOutside asks a gateway that may not see the request, without TLS, and waits until it has written its line.
func askOutside(t *testing.T, m *fleet.Member) {
	t.Helper()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(string(m.Dir), accessLog))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.Node().HTTPAddr()+"/"+path+"?"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "hello.localhost"
	r.Header.Set("User-Agent", path)
	r.Header.Set("Referer", "https://example.com/"+path)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("%s answers without TLS: %s", m.ID(), resp.Status)
	}
	eventually(t, 10*time.Second, "the line is written", func() error {
		if size() == before {
			return errors.New("it is not")
		}
		return nil
	})
}

// nothingOn reports what a node has on its disk of the function hello.
func nothingOn(m *fleet.Member) error {
	var found []error
	err := filepath.WalkDir(string(m.Dir), func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreGone(err)
		}
		rel, _ := filepath.Rel(string(m.Dir), name)
		part, _, _ := strings.Cut(rel, string(filepath.Separator))
		switch {
		case part == "bundles", part == "secrets", part == "web" && strings.Contains(e.Name(), "hello"):
			found = append(found, fmt.Errorf("%s has %s", m.ID(), rel))
			return nil
		case e.Type() != 0:
			return nil // a socket
		}
		b, err := os.ReadFile(name)
		for _, text := range []string{plaintext, path, secretValue} {
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
