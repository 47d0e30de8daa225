package usage

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestRot flips a bit at every 8th byte of a closed table, one at a time: no row says something else than was
// counted, and what is missing is reported.
func TestRot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage")
	u, _ := open(t, path, Config{Rows: 4})
	u.Add(keyA, &one, day)
	u.Add(Key{Function: "b"}, &one, day)
	want := map[Key]Row{}
	for _, r := range u.Rows() {
		want[r.Key] = r
	}
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(good); at += 8 {
		if at > checkedTo+4 && at < headSize {
			continue // zeros that nobody reads
		}
		bad := bytes.Clone(good)
		bad[at+at/8%8] ^= 1 << (at / 64 % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		u, report, err := Open(path, Config{Rows: 4})
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		rows := u.Rows()
		for _, r := range rows {
			if r != want[r.Key] {
				t.Errorf("byte %d: %+v, want %+v", at, r, want[r.Key])
			}
		}
		if len(rows) < len(want) && report.Damaged == 0 && report.Quarantined == "" {
			t.Errorf("byte %d: %d rows of %d, and nothing is reported", at, len(rows), len(want))
		}
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
		if report.Quarantined != "" {
			_ = os.Remove(report.Quarantined)
		}
	}
}
