//go:build linux

package cluster_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/lab"
	"github.com/perigee-edge/perigee/internal/lab/cluster"
	"github.com/perigee-edge/perigee/internal/wasmbin/wasmtest"
	"github.com/perigee-edge/perigee/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// six are the regions of a story's nodes; <region>-1 are their names.
var six = []perigee.Region{"fra", "wdc", "syd", "tok", "sao", "mad"}

// story is a test that runs the real program in a lab.
type story struct {
	*testing.T
	lab *lab.Lab
	*cluster.Cluster
}

// begin starts a cluster of the program that $PERIGEE_LAB names, one node in each region. Stories are for `make
// lab`; without the rights they skip, and fail in CI.
func begin(t *testing.T, regions ...perigee.Region) *story {
	t.Helper()
	binary := os.Getenv("PERIGEE_LAB")
	if binary == "" {
		t.Skip("`make lab` runs the stories of the lab: PERIGEE_LAB is to name the program")
	}
	if testing.Short() && !slices.Contains([]string{"TestSix", "TestRemoved", "TestPartition"}, t.Name()) {
		t.Skip("this story is not in the short form")
	}
	if err := lab.Supported(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI must be able to run the lab: %v", err)
		}
		t.Skip(err)
	}
	l, err := lab.New(lab.Config{Binary: binary})
	if err != nil {
		t.Fatal(err)
	}
	s := &story{T: t, lab: l}
	t.Cleanup(func() {
		if t.Failed() && s.Cluster != nil {
			for _, m := range s.Members() {
				t.Logf("--- %s\n%s", m.ID, m.LogEnd())
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Cluster, err = cluster.Found(t.Context(), l, id(regions[0]), regions[0])
	s.must(err)
	for _, r := range regions[1:] {
		_, err := s.Join(t.Context(), id(r), r, lab.NodeConfig{})
		s.must(err)
	}
	s.settle(30*time.Second, s.Members()...)
	return s
}

func id(r perigee.Region) perigee.NodeID { return perigee.NodeID(r + "-1") }

func (s *story) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *story) settle(within time.Duration, members ...*cluster.Member) {
	s.Helper()
	began := time.Now()
	s.must(cluster.Settle(s.Context(), within, members...))
	s.Logf("%d nodes agree after %v", len(members), time.Since(began).Round(time.Millisecond))
}

func (s *story) until(within time.Duration, what string, f func() error) {
	s.Helper()
	began := time.Now()
	s.must(cluster.Until(s.Context(), within, what, f))
	s.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
}

// member returns the node of a region.
func (s *story) member(r perigee.Region) *cluster.Member {
	s.Helper()
	for _, m := range s.Members() {
		if m.ID == id(r) {
			return m
		}
	}
	s.Fatalf("no node in %s", r)
	return nil
}

func (s *story) members(regions ...perigee.Region) (all []*cluster.Member) {
	for _, r := range regions {
		all = append(all, s.member(r))
	}
	return all
}

func machines(members []*cluster.Member) (all []*lab.Node) {
	for _, m := range members {
		all = append(all, m.Node)
	}
	return all
}

// deploy makes a function that answers with a text live, through a node.
func (s *story) deploy(via *cluster.Member, name, text, manifest string) perigee.RevisionID {
	s.Helper()
	f, err := cluster.NewFunction(filepath.Join(s.TempDir(), name), name, wasmtest.Answer(text), manifest, nil)
	s.must(err)
	p, err := s.Operator(s.Context(), via)
	s.must(err)
	d, err := f.Deploy(s.Context(), p)
	for try := 0; err != nil && strings.Contains(err.Error(), "somebody else changed") && try < 5; try++ {
		d, err = f.Deploy(s.Context(), p) // where two sides hear of each other now and then
	}
	s.must(err)
	return d.Revision
}

// get asks a node's gateway for a function.
func get(ctx context.Context, from *cluster.Member, name string) (text, receipt string, err error) {
	client := from.Gateway()
	defer client.CloseIdleConnections()
	client.Timeout = 5 * time.Second
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+name+".lab/", nil)
	if err != nil {
		return "", "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s through %s: %s: %s", name, from.ID, resp.Status, b)
	}
	return string(b), resp.Header.Get("Perigee-Receipt"), err
}

// answers waits until a node's gateway gives this text.
func (s *story) answers(within time.Duration, from *cluster.Member, name, text string) {
	s.Helper()
	s.must(cluster.Until(s.Context(), within, fmt.Sprintf("%s through %s is %q", name, from.ID, text), func() error {
		got, receipt, err := get(s.Context(), from, name)
		if err == nil && got != text {
			err = fmt.Errorf("got %q (%s)", got, receipt)
		}
		return err
	}))
}

// state returns how a node sees another one.
func (s *story) state(from *cluster.Member, of perigee.NodeID) (node.NodeStatus, error) {
	nodes, err := from.Client.Nodes(s.Context())
	if err != nil {
		return node.NodeStatus{}, err
	}
	for _, n := range nodes {
		if n.ID == of {
			return n, nil
		}
	}
	return node.NodeStatus{}, fmt.Errorf("%s does not list %s", from.ID, of)
}

// TestSix joins six nodes over the distances of their regions, deploys, kills a holder, brings it back, drains
// and stops another.
func TestSix(t *testing.T) {
	s := begin(t, six...)
	fra, wdc, syd := s.member("fra"), s.member("wdc"), s.member("syd")
	rev := s.deploy(fra, "hello", "one", `placement.pin = ["wdc", "syd"]`)
	s.must(cluster.Warm(t.Context(), 20*time.Second, "hello", rev, s.Members()...))
	for _, m := range s.Members() {
		s.answers(5*time.Second, m, "hello", "one")
	}

	wdc.Kill()
	began := time.Now()
	if _, _, err := get(t.Context(), fra, "hello"); err != nil {
		t.Errorf("the first request after a holder died: %v", err)
	}
	t.Logf("the first request after a holder died took %v", time.Since(began).Round(time.Millisecond))
	left := s.members("fra", "syd", "tok", "sao", "mad")
	s.settle(20*time.Second, left...)
	next := s.deploy(syd, "hello", "two", `placement.pin = ["wdc", "syd"]`)
	for _, m := range left {
		s.answers(10*time.Second, m, "hello", "two")
	}
	s.must(wdc.Restart(t.Context()))
	s.settle(20*time.Second, s.Members()...)
	s.must(cluster.Warm(t.Context(), 20*time.Second, "hello", next, s.Members()...))
	s.answers(10*time.Second, wdc, "hello", "two")

	// Draining: no more requests for wdc, which goes on running and passes on what comes to it.
	if _, err := wdc.Exec(t.Context(), "node", "drain"); err != nil {
		t.Fatal(err)
	}
	s.until(10*time.Second, "wdc takes no requests", func() error {
		for _, m := range s.Members() {
			_, receipt, err := get(t.Context(), m, "hello")
			if err != nil {
				return err
			}
			if !strings.Contains(receipt, "region=syd") {
				return fmt.Errorf("through %s: %s", m.ID, receipt)
			}
		}
		return nil
	})
	stop, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	if err := wdc.Stop(stop); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	s.settle(5*time.Second, left...)
	if n, err := s.state(fra, wdc.ID); err != nil || n.State != perigee.NodeLeft {
		t.Errorf("%s said goodbye, and fra sees it %s, %v", wdc.ID, n.State, err)
	}
}
