package bundle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// cutOnce stores and deletes blobs until the power fails, and returns what is wrong afterwards.
func cutOnce(t *testing.T, rng *rand.Rand, d *simdisk.Disk) error {
	t.Helper()
	s, err := OpenStore(d, "/node/bundles")
	acked := map[perigee.Digest]bool{}
	for i := 0; err == nil && i < 6; i++ {
		b := small(1 + i*100)
		if err = s.Put(t.Context(), digest.Sum(b), int64(len(b)), bytes.NewReader(b)); err == nil {
			acked[digest.Sum(b)] = true
		}
		if list, _ := s.List(); err == nil && rng.IntN(4) == 0 && len(list) > 0 {
			gone := list[rng.IntN(len(list))]
			delete(acked, gone)
			err = s.Delete(gone)
		}
	}
	if err != nil && !errors.Is(err, simdisk.ErrPower) {
		t.Fatal(err)
	}
	after := d.Crash(rng)
	s, err = OpenStore(after, "/node/bundles")
	if err != nil {
		return err
	}
	for d := range acked {
		if _, err := s.Load(d); err != nil {
			return fmt.Errorf("acknowledged, then lost: %w", err)
		}
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	for _, d := range list {
		if _, err := s.Load(d); err != nil {
			return fmt.Errorf("listed, but not whole: %w", err)
		}
	}
	if left, err := after.ReadDir(s.path(tmpDir)); err != nil || len(left) > 0 {
		return fmt.Errorf("left over: %v, %v", left, err)
	}
	return nil
}

func cut(seed uint64) (*rand.Rand, *simdisk.Disk) {
	rng := rand.New(rand.NewPCG(seed, 0))
	d := simdisk.New()
	d.CutAt = 1 + rng.IntN(50)
	return rng, d
}

func TestStorePowerCut(t *testing.T) {
	for seed := range uint64(500) {
		rng, d := cut(seed)
		if err := cutOnce(t, rng, d); err != nil {
			t.Fatalf("power cut %d: %v", seed, err)
		}
	}
}

const crashEnv = "PERIGEE_BUNDLE_TEST_STORE"

// TestMain lets the test binary be the process that TestStoreKilled kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		os.Exit(storeForEver(dir))
	}
	os.Exit(m.Run())
}

// storeForEver puts blobs into a store and prints the digest of each once it is acknowledged.
func storeForEver(dir string) int {
	s, err := OpenStore(vfs.OS{}, dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := 0; ; i++ {
		b := small(200_000 + i)
		if err := s.Put(context.Background(), digest.Sum(b), int64(len(b)), bytes.NewReader(b)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(digest.Sum(b))
	}
}

func TestStoreKilled(t *testing.T) {
	dir := t.TempDir()
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+dir)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		var acked []perigee.Digest
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d, err := perigee.ParseDigest(lines.Text())
			if err != nil {
				break // the last line, cut off
			}
			if acked = append(acked, d); len(acked) == 1+round {
				must(t, cmd.Process.Kill())
			}
		}
		if err := cmd.Wait(); err == nil || len(acked) <= round {
			t.Fatalf("the process ended by itself after %d blobs: %v", len(acked), err)
		}
		s := open(t, dir)
		for _, d := range acked {
			if _, err := s.Load(d); err != nil {
				t.Errorf("round %d: acknowledged, then lost: %v", round, err)
			}
		}
		list, err := s.List()
		must(t, err)
		for _, d := range list {
			if _, err := s.Load(d); err != nil {
				t.Errorf("round %d: listed, but not whole: %v", round, err)
			}
		}
		if left, err := os.ReadDir(s.path(tmpDir)); err != nil || len(left) > 0 {
			t.Errorf("round %d: left %v, %v", round, left, err)
		}
	}
}
