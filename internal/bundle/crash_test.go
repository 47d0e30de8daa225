package bundle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/digest"
)

var errPower = errors.New("the power is off")

// cutDisk is a disk whose power fails after some steps. It then forgets what was not synced: the
// ends of files, and renames in directories.
type cutDisk struct {
	rng   *rand.Rand
	steps int // until the power fails

	unsynced map[string]string // current path of a file -> directory to sync for its name, "" if its contents are synced
	moved    []move            // renames that are not synced

	forgetSync, forgetDirSync bool // mutants of the store: it did not call these
}

type move struct{ from, to string }

func (d *cutDisk) step() error {
	if d.steps--; d.steps < 0 {
		return errPower
	}
	return nil
}

type cutFile struct {
	diskFile
	disk *cutDisk
}

func (d *cutDisk) create(dir, prefix string) (diskFile, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := realDisk{}.create(dir, prefix)
	if err != nil {
		return nil, err
	}
	d.unsynced[f.Name()] = dir
	return &cutFile{f, d}, nil
}

func (f *cutFile) Write(b []byte) (int, error) {
	if err := f.disk.step(); err != nil {
		return 0, err
	}
	return f.diskFile.Write(b)
}

func (f *cutFile) Sync() error {
	if f.disk.forgetSync {
		return nil
	}
	if err := f.disk.step(); err != nil {
		return err
	}
	delete(f.disk.unsynced, f.Name())
	return nil
}

func (d *cutDisk) rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if dir, ok := d.unsynced[from]; ok {
		delete(d.unsynced, from)
		d.unsynced[to] = dir
	}
	d.moved = append(d.moved, move{from, to})
	return nil
}

func (d *cutDisk) syncDir(dir string) error {
	if d.forgetDirSync {
		return nil
	}
	if err := d.step(); err != nil {
		return err
	}
	kept := d.moved[:0]
	for _, m := range d.moved {
		if filepath.Dir(m.to) != dir {
			kept = append(kept, m)
		}
	}
	d.moved = kept
	return nil
}

// forget is what the power cut does to the disk.
func (d *cutDisk) forget(t *testing.T) {
	t.Helper()
	for path := range d.unsynced {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.Truncate(path, d.rng.Int64N(info.Size()+1))
		}
		must(t, err)
	}
	for i := len(d.moved) - 1; i >= 0; i-- {
		if d.rng.IntN(2) == 0 {
			must(t, os.Rename(d.moved[i].to, d.moved[i].from))
		}
	}
}

// cutOnce stores a few blobs until the power fails, and returns what is wrong afterwards.
func cutOnce(t *testing.T, dir string, d *cutDisk) error {
	t.Helper()
	must(t, os.RemoveAll(dir))
	s, err := openStore(dir, d)
	var acked []perigee.Digest
	for i := 0; err == nil && i < 6; i++ {
		b := small(1 + i*100)
		if err = s.Put(t.Context(), digest.Sum(b), int64(len(b)), bytes.NewReader(b)); err == nil {
			acked = append(acked, digest.Sum(b))
		}
	}
	if err != nil && !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	d.forget(t)
	s, err = openStore(dir, &cutDisk{steps: 100}) // enough
	if err != nil {
		return err
	}
	for _, d := range acked {
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
	if left, err := os.ReadDir(s.path(tmpDir)); err != nil || len(left) > 0 {
		return fmt.Errorf("left over: %v, %v", left, err)
	}
	return nil
}

func newCutDisk(seed uint64) *cutDisk {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &cutDisk{rng: rng, steps: rng.IntN(40), unsynced: map[string]string{}}
}

func TestStorePowerCut(t *testing.T) {
	cuts := 300
	if testing.Short() {
		cuts = 100
	}
	dir := filepath.Join(t.TempDir(), "bundles")
	for seed := range uint64(cuts) {
		if err := cutOnce(t, dir, newCutDisk(seed)); err != nil {
			t.Fatalf("power cut %d: %v", seed, err)
		}
	}
}

// TestPowerCutCatchesMutants shows that the test above notices a store that forgets a sync.
func TestPowerCutCatchesMutants(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bundles")
	for name, mutate := range map[string]func(*cutDisk){
		"no sync of the file":      func(d *cutDisk) { d.forgetSync = true },
		"no sync of the directory": func(d *cutDisk) { d.forgetDirSync = true },
	} {
		caught := 0
		for seed := range uint64(50) {
			d := newCutDisk(seed)
			mutate(d)
			if cutOnce(t, dir, d) != nil {
				caught++
			}
		}
		if caught == 0 {
			t.Errorf("%s: not noticed in 50 power cuts", name)
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
	s, err := OpenStore(dir)
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
