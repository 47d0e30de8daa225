package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/record"
)

// TestDiskFull fills a real disk, a small one in memory, first down to the reserve and then to the last
// byte: the node serves, refuses with words that help, starts again, and recovers by itself.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("no small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := Dir(filepath.Join(disk, "data"))
	founded, err := Found(FoundConfig{Dir: dir, Region: "fra", Domain: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	s := &single{t: t, dir: dir, operator: founded.Operator}
	open := func() {
		t.Helper()
		cfg := singleConfig(t, dir)
		cfg.DiskReserve = 2 * perigee.MiB
		n, err := New(cfg)
		if err != nil {
			t.Fatalf("a node with this disk does not start: %v", err)
		}
		s.Node = n
		t.Cleanup(n.Close)
	}
	open()
	stop := s.run()
	a, b := s.pack("a", guest("1"), perigee.Policy{}), s.pack("b", guest("2"), perigee.Policy{})
	rev := s.deploy(a)
	answers(t, s, "a", "1")
	wait(t, 10*time.Second, "it passed its trial", func() bool { state, _ := s.trials.state(rev.ID); return state == perigee.TrialNone })
	if st := s.status(); st.Disk != "" {
		t.Fatalf("there is room, and the status says %q", st.Disk)
	}

	fill := filepath.Join(disk, "fill")
	fillTo := func(left int64) {
		t.Helper()
		f, err := os.OpenFile(fill, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		free, err := s.disk.fs.Free(disk)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, max(0, free-left))); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	full := func() bool { return s.View().Observed.Nodes[s.ID()].Full }
	refused := func(what string, words ...string) {
		t.Helper()
		_, revision, pointer := s.sign(b)
		_, err := s.deployer.deploy(t.Context(), revision, pointer, b.archive.Open(), func(DeployEvent) {})
		wantErr(t, what, err, append(words, "nothing was changed")...)
		if s.View().Desired.Functions["b"] != nil || s.rep.store.Has(b.archive.Digest) {
			t.Errorf("%s: something of it is there", what)
		}
	}

	// Down to the reserve: no new bundles, but records.
	fillTo(1 << 20)
	wait(t, 5*time.Second, "the row says full", full)
	refused("a deploy", "fra-1", "disk-full")
	wantErr(t, "an offer", s.rep.room(&perigee.Revision{Size: 100}), "no room", "disk_reserve", "make room")
	w := httptest.NewRecorder()
	s.healthHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "disk full") {
		t.Errorf("/readyz says %d %q", w.Code, w.Body)
	}
	if st := s.status(); !strings.Contains(st.Disk, "full: ") {
		t.Errorf("the status says %q", st.Disk)
	}
	if err := s.addRegion("xxa"); err != nil {
		t.Errorf("a record on a disk that is full but for the reserve: %v", err)
	}
	answers(t, s, "a", "1")

	// To the last byte: records are refused, and what was acknowledged is there after a start.
	fillTo(0)
	acked := []perigee.Region{"xxa"}
	for err = nil; err == nil && len(acked) < 1000; { // the last page of the log has room for some
		code := perigee.Region(fmt.Sprintf("xx%d", len(acked)))
		if err = s.addRegion(code); err == nil {
			acked = append(acked, code)
		}
	}
	if gossip.RuleOf(err) != gossip.RuleStorage || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("a record on a full disk: %v", err)
	}
	answers(t, s, "a", "1")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// What a start makes anew need not be there; compiled code is what lets it serve without room.
	for _, name := range []string{fileUsage, "web", dirCopies, fileSeeds, fileSocket} {
		if err := os.RemoveAll(dir.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	fillTo(0)
	open()
	if !full() {
		t.Error("after a start its row does not say that it is full")
	}
	for _, code := range acked {
		if _, ok := s.View().Desired.Regions.Lookup(code); !ok {
			t.Errorf("region %s was acknowledged, and is gone after a start", code)
		}
	}
	s.run()
	answers(t, s, "a", "1")

	// Room again.
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	wait(t, 5*time.Second, "the row says that there is room", func() bool { return !full() })
	if err := s.addRegion("xxb"); err != nil {
		t.Errorf("a record when there is room again: %v", err)
	}
	s.deploy(b)
	answers(t, s, "b", "2")
}

func (s *single) addRegion(code perigee.Region) error {
	s.t.Helper()
	_, raw, err := record.Sign(s.operator, s.m.genesis.Cluster, 1, s.gossip.Now(), nil, &record.Region{Info: perigee.RegionInfo{Code: code}})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.gossip.Submit(s.t.Context(), raw)
	return err
}

// answers requires what a function answers.
func answers(t *testing.T, s *single, function, want string) {
	t.Helper()
	var got []byte
	var code int
	var last error
	defer func() {
		if t.Failed() {
			t.Logf("%s: last error %v, %d %q", function, last, code, got)
		}
	}()
	wait(t, 10*time.Second, function+" answers", func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+function+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Invoke(t.Context(), function, r)
		if last = err; err != nil {
			return false
		}
		defer resp.Body.Close()
		code = resp.StatusCode
		got, err = io.ReadAll(resp.Body)
		return err == nil && code == http.StatusOK
	})
	if !bytes.Equal(got, []byte(want)) {
		t.Errorf("%s answers %d %q, want %q", function, code, got, want)
	}
}
