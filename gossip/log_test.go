package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// sampleRecords returns things that look like records to the log: they begin as records do.
func sampleRecords(n int) [][]byte {
	var list [][]byte
	for i := range n {
		list = append(list, append([]byte{0x89, 0x01}, bytes.Repeat([]byte{byte(i)}, 5+3*i)...))
	}
	return list
}

// openTest opens a log that keeps what the list has when it is asked, and folds at once.
func openTest(fsys vfs.FS, dir string, kept *[][]byte) (*log, [][]byte, damage, error) {
	l, f, err := openLog(fsys, dir, []byte("key"), func() (verified, others [][]byte) {
		if kept == nil {
			return nil, nil
		}
		return slices.Clone(*kept), nil
	})
	var got [][]byte
	for _, rec := range append(f.sealed, f.records...) {
		if !slices.ContainsFunc(got, func(r []byte) bool { return bytes.Equal(r, rec) }) {
			got = append(got, rec) // a crash between the two files of a fold leaves some in both
		}
	}
	if l != nil {
		l.long = 40
	}
	return l, got, f.damage, err
}

func TestLog(t *testing.T) {
	for _, fsys := range []vfs.FS{simdisk.New(), vfs.OS{}} {
		t.Run(fmt.Sprintf("%T", fsys), func(t *testing.T) {
			dir := t.TempDir()
			var kept [][]byte
			all := sampleRecords(9)
			for i := 0; i < len(all); i += 3 {
				l, got, d, err := openTest(fsys, dir, &kept)
				if err != nil || d.any() {
					t.Fatalf("open: %v, damage %+v", err, d)
				}
				if !slices.EqualFunc(got, all[:i], bytes.Equal) {
					t.Fatalf("%d records, want %d", len(got), i)
				}
				if err := l.append(all[i : i+1]); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, all[i])
				if err := l.append(all[i+1 : i+3]); err != nil {
					t.Fatal(err)
				}
				kept = append(kept, all[i+1:i+3]...)
			}
		})
	}
}

func TestRealFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	l, _, _, err := openTest(vfs.OS{}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.append(sampleRecords(2)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, logName): 0o600} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", name, info.Mode().Perm(), err, want)
		}
	}
	if err := os.Remove(filepath.Join(dir, logName)); err != nil {
		t.Fatal(err)
	}
	if err := l.append(sampleRecords(1)); err == nil {
		t.Error("an append to a file that was removed works as if it was there")
	}
	if err := l.append(sampleRecords(1)); err != nil {
		t.Errorf("the append after it, which writes the file anew: %v", err)
	}
}

// TestPowerCuts cuts the power before each step of writing a log, several times, with different
// luck about what was not synced. What append had returned must be there afterwards.
func TestPowerCuts(t *testing.T) {
	all := sampleRecords(12)
	cuts := 0
	for cutAt := 1; ; cutAt++ {
		done := false
		for seed := range uint64(20) {
			sim := simdisk.New()
			sim.CutAt = cutAt
			acked := writeUntilCut(sim, all)
			done = len(acked) == len(all)
			after := sim.Crash(rand.New(rand.NewPCG(seed, uint64(cutAt))))
			cuts++
			checkAfterCut(t, after, all, acked, fmt.Sprintf("cut at %d, seed %d", cutAt, seed))
		}
		if done {
			break
		}
	}
	t.Logf("%d power cuts", cuts)
}

// writeUntilCut appends batches and opens the log again now and then; it returns what was confirmed.
func writeUntilCut(sim *simdisk.Disk, all [][]byte) (acked [][]byte) {
	for i := 0; i < len(all); {
		l, got, _, err := openTest(sim, "/s", &acked)
		if err != nil || len(got) < len(acked) {
			return acked
		}
		for range 3 {
			n := min(1+i%2, len(all)-i)
			if n == 0 {
				break
			}
			if l.append(all[i:i+n]) != nil {
				return acked
			}
			acked = append(acked, all[i:i+n]...)
			i += n
			if l.foldIfLong() != nil {
				return acked
			}
		}
	}
	return acked
}

func checkAfterCut(t *testing.T, after *simdisk.Disk, all, acked [][]byte, what string) {
	t.Helper()
	var got [][]byte
	l, got, d, err := openTest(after, "/s", &got)
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	if d.Skipped > 0 {
		t.Fatalf("%s: %d bad stretches in the middle", what, d.Skipped)
	}
	if len(got) < len(acked) || len(got) > len(all) || !slices.EqualFunc(got, all[:len(got)], bytes.Equal) {
		t.Fatalf("%s: %d records, %d were confirmed", what, len(got), len(acked))
	}
	more := append([]byte{0x89}, "one more"...)
	if err := l.append([][]byte{more}); err != nil {
		t.Fatalf("%s: append afterwards: %v", what, err)
	}
	_, again, d, err := openTest(after, "/s", nil)
	if err != nil || d.any() || len(again) != len(got)+1 || !bytes.Equal(again[len(got)], more) {
		t.Fatalf("%s: after one more append: %d records, damage %+v, %v", what, len(again), d, err)
	}
}

// TestBitFlips flips each bit of a small log. It must never yield a record that was not written, nor
// lose more than the record that was hit, and the log must be whole again after the next append.
func TestBitFlips(t *testing.T) {
	all := sampleRecords(5)
	file := []byte(logMagic)
	var ends []int
	for _, rec := range all {
		file = appendEntry(file, rec)
		ends = append(ends, len(file))
	}
	for bit := range len(file) * 8 {
		bad := slices.Clone(file)
		bad[bit/8] ^= 1 << (bit % 8)
		sim := simdisk.New()
		sim.Put("/s/"+logName, bad)
		var got [][]byte
		l, got, d, err := openTest(sim, "/s", &got)
		if err != nil {
			t.Fatalf("bit %d: %v", bit, err)
		}
		if !d.any() {
			t.Errorf("bit %d: not noticed", bit)
		}
		hit, _ := slices.BinarySearch(ends, bit/8+1)
		want := slices.Clone(all)
		if bit/8 >= len(logMagic) {
			want = slices.Delete(want, hit, hit+1)
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("bit %d: %d records, want all %d but number %d", bit, len(got), len(want), hit)
		}
		if len(sim.Get("/s/"+badName)) == 0 {
			t.Errorf("bit %d: the bad bytes were not kept", bit)
		}
		if err := l.repair(); err != nil {
			t.Errorf("bit %d: repair: %v", bit, err)
		}
		if _, again, d, err := openTest(sim, "/s", nil); err != nil || d.any() || len(again) != len(got) {
			t.Errorf("bit %d: after the repair %d records, damage %+v, %v", bit, len(again), d, err)
		}
	}
}

func TestScanLog(t *testing.T) {
	all := sampleRecords(3)
	one, two, three := appendEntry(nil, all[0]), appendEntry(nil, all[1]), appendEntry(nil, all[2])
	huge := binary.BigEndian.AppendUint32(nil, record.MaxSize+1)
	tests := []struct {
		name    string
		file    []byte
		records int
		skipped int
		torn    int64
	}{
		{"empty", nil, 0, 0, 0},
		{"magic only", []byte(logMagic), 0, 0, 0},
		{"torn magic", []byte(logMagic)[:3], 0, 0, 3},
		{"no magic", one, 1, 1, 0},
		{"whole", slices.Concat([]byte(logMagic), one, two), 2, 0, 0},
		{"torn head", slices.Concat([]byte(logMagic), one, two[:5]), 1, 0, 5},
		{"torn body", slices.Concat([]byte(logMagic), one, two[:len(two)-1]), 1, 0, int64(len(two) - 1)},
		{"zeros at the end", slices.Concat([]byte(logMagic), one, make([]byte, 100)), 1, 0, 100},
		{"zeros in the middle", slices.Concat([]byte(logMagic), one, make([]byte, 100), two), 2, 1, 0},
		{"two bad stretches", slices.Concat([]byte(logMagic), []byte("x"), one, []byte("yy"), two, three), 3, 2, 0},
		{"a length that is too large", slices.Concat([]byte(logMagic), huge, one[4:], two), 1, 1, 0},
		{"a length of zero", slices.Concat([]byte(logMagic), make([]byte, 4), one[4:], two), 1, 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			records, bad, d := scanLog(tt.file)
			if len(records) != tt.records || d.Skipped != tt.skipped || d.Torn != tt.torn || int64(len(bad)) != d.Bytes+d.Torn {
				t.Errorf("%d records, %d bad bytes, %+v, want %d records, %d stretches, %d torn",
					len(records), len(bad), d, tt.records, tt.skipped, tt.torn)
			}
		})
	}
}

// TestDiskTrouble lets each kind of step fail in turn. The failed append must leave no trace, and
// the log must work again when the trouble is over.
func TestDiskTrouble(t *testing.T) {
	for _, op := range []string{"append", "write", "sync", "close", "write truncate", "sync truncate", "write sync truncate"} {
		t.Run(op, func(t *testing.T) {
			sim := simdisk.New()
			all := sampleRecords(4)
			var kept [][]byte
			l, _, _, err := openTest(sim, "/s", &kept)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.append(all[:1]); err != nil {
				t.Fatal(err)
			}
			kept = all[:1]
			sim.Fail = func(step, _ string) error {
				if bytes.Contains([]byte(op), []byte(step)) {
					return syscall.EIO
				}
				return nil
			}
			for range 3 {
				if err := l.append(all[1:2]); !errors.Is(err, syscall.EIO) {
					t.Fatalf("append while the disk is in trouble: %v", err)
				}
				if op == "append" {
					break // the next one writes the whole file, which this trouble does not hit
				}
			}
			sim.Fail = nil
			if err := l.append(all[2:3]); err != nil {
				t.Fatalf("append after the trouble: %v", err)
			}
			_, got, d, err := openTest(sim, "/s", nil)
			want := [][]byte{all[0], all[2]}
			if err != nil || d.any() || !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%d records, damage %+v, %v, want the first and the third", len(got), d, err)
			}
		})
	}
	t.Run("full", func(t *testing.T) {
		sim := simdisk.New()
		l, _, _, err := openTest(sim, "/s", nil)
		if err != nil {
			t.Fatal(err)
		}
		sim.Room = 40
		if err := l.append(sampleRecords(9)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("append to a full disk: %v", err)
		}
		sim.Room = 0
		if err := l.append(sampleRecords(9)); err != nil {
			t.Errorf("append when there is room again: %v", err)
		}
	})
}

func FuzzScanLog(f *testing.F) {
	file := []byte(logMagic)
	for _, rec := range sampleRecords(4) {
		file = appendEntry(file, rec)
	}
	f.Add(file)
	f.Add(file[:len(file)-3])
	f.Add(append(slices.Clone(file), 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, bad, d := scanLog(b)
		total := int64(len(bad))
		for _, rec := range records {
			total += int64(entryHead + len(rec))
		}
		if rest := int64(len(b)) - total; rest != 0 && rest != int64(len(logMagic)) {
			t.Fatalf("%d of %d bytes are unaccounted for: %+v", rest, len(b), d)
		}
	})
}
