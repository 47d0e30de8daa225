package usage

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

const childEnv = "PERIGEE_USAGE_CHILD"

// TestMain lets this program be the one that is killed in TestKilled.
func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		addForEver(path)
	}
	os.Exit(m.Run())
}

var (
	day  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	keyA = Key{"hello", "a1b2c3d4e5f6", "fra", "wdc"}
	one  = Counts{
		Requests: 1, Errors: 2, Cut: 3, Fuel: 4, Wall: 5, Guest: 6, PageMicros: 7, PeakPages: 8,
		BytesIn: 9, BytesOut: 10, Fresh: 11, Image: 12, Reset: 13, Cold: 14,
	}
)

func open(t testing.TB, path string, cfg Config) (*Table, Opened) {
	t.Helper()
	u, report, err := Open(path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u, report
}

func find(t testing.TB, u *Table, k Key) Row {
	t.Helper()
	for _, r := range u.Rows() {
		if r.Key == k {
			return r
		}
	}
	t.Fatalf("no row %+v in %+v", k, u.Rows())
	return Row{}
}

func total(u *Table) (c Counts) {
	for _, r := range u.Rows() {
		c.Plus(&r.Counts)
	}
	return c
}

func TestAddIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage")
	u, _ := open(t, path, Config{Now: day})
	if rows := u.Rows(); len(rows) != 0 {
		t.Errorf("a new table has %+v", rows)
	}
	u.Add(keyA, &one, day)
	u.Add(keyA, &Counts{Requests: 1, PeakPages: 3}, day.Add(time.Hour))
	u.Add(Key{"hello", "a1b2c3d4e5f6", "fra", "fn:shop"}, &one, day)
	check := func(when string, u *Table) {
		t.Helper()
		want := one
		want.Requests = 2
		if got := find(t, u, keyA); got.Counts != want || !got.First.Equal(day) || !got.Last.Equal(day.Add(time.Hour)) || got.Other {
			t.Errorf("%s: got %+v, want %+v", when, got, want)
		}
		if n := len(u.Rows()); n != 2 || !u.Began().Equal(day) {
			t.Errorf("%s: %d rows since %v", when, n, u.Began())
		}
	}
	check("at once", u)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	u.Add(keyA, &one, day) // a request that ends late
	if err := u.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	again, report := open(t, path, Config{Now: day})
	check("after a restart", again)
	if report != (Opened{}) {
		t.Errorf("opening it reports %+v", report)
	}
}

// TestAddersLoseNothing is meant for -race, too.
func TestAddersLoseNothing(t *testing.T) {
	u, _ := open(t, filepath.Join(t.TempDir(), "usage"), Config{Rows: 20})
	const workers, each = 8, 2000
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				u.Add(Key{Function: "f" + strconv.Itoa((w+i)%30)}, &Counts{Requests: 1, Fuel: 7, PeakPages: uint64(w)}, day)
				if i%500 == 0 {
					if err := u.Sync(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	if got, want := total(u), (Counts{Requests: workers * each, Fuel: 7 * workers * each, PeakPages: workers - 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRowsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage")
	u, _ := open(t, path, Config{Rows: 3})
	for i := range 10 {
		u.Add(Key{Function: "f" + strconv.Itoa(i)}, &Counts{Requests: 1}, day)
	}
	u.Add(Key{Function: strings.Repeat("f", 300)}, &Counts{Requests: 1}, day)
	for range 2 {
		rest := find(t, u, Key{})
		if len(u.Rows()) != 4 || !rest.Other || rest.Requests != 8 {
			t.Errorf("got %+v", u.Rows())
		}
		u.Close()
		u, _ = open(t, path, Config{Rows: 3, Now: day})
	}
}

func TestOldRowsAreFolded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage")
	u, _ := open(t, path, Config{Rows: 12, Now: day})
	for i := range 4 {
		u.Add(Key{"hello", perigee.RevisionID(fmt.Sprint(i)), "fra", "wdc"}, &one, day)
	}
	u.Add(Key{"hello", "9", "fra", "wdc"}, &one, day.Add(FoldAfter))
	sum := total(u)
	u.Close()
	later := day.Add(FoldAfter + time.Hour)
	u, report := open(t, path, Config{Rows: 12, Now: later})
	if report.Folded != 0 || len(u.Rows()) != 5 {
		t.Errorf("not crowded: %+v, %d rows", report, len(u.Rows()))
	}
	u.Add(Key{"hello", "10", "fra", "wdc"}, &one, later)
	sum.Plus(&one)
	u.Close()
	u, report = open(t, path, Config{Rows: 12, Now: later})
	old := find(t, u, Key{"hello", "", "fra", ""})
	if report.Folded != 4 || len(u.Rows()) != 3 || old.Requests != 4 || !old.First.Equal(day) || old.Other || total(u) != sum {
		t.Errorf("crowded: %+v, %+v", report, u.Rows())
	}
	if !u.Began().Equal(day) {
		t.Errorf("it began %v", u.Began())
	}
	// What was folded is not folded again, and a table may grow.
	u.Close()
	u, report = open(t, path, Config{Rows: 500, Now: later.Add(2 * FoldAfter)})
	if report.Folded != 0 || u.slots != 501 || total(u) != sum {
		t.Errorf("grown: %+v, %+v", report, u.Rows())
	}
}

// TestBadFiles changes a file in each way that its head and its rows can tell.
func TestBadFiles(t *testing.T) {
	good := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "usage")
		u, _ := open(t, path, Config{Rows: 20, Now: day})
		u.Add(keyA, &one, day)
		u.Add(Key{Function: "b"}, &one, day)
		u.Close()
		return path
	}
	for name, c := range map[string]struct {
		break_     func(b []byte) []byte
		quarantine bool
		rows       int
	}{
		"empty":         {func(b []byte) []byte { return nil }, true, 0},
		"a text":        {func(b []byte) []byte { return []byte(strings.Repeat("no usage ", 1000)) }, true, 0},
		"cut short":     {func(b []byte) []byte { return b[:len(b)-1] }, true, 0},
		"too long":      {func(b []byte) []byte { return append(b, 0) }, true, 0},
		"newer":         {func(b []byte) []byte { b[16]++; return b }, true, 0},
		"head":          {func(b []byte) []byte { b[33]++; return b }, true, 0},
		"zeros":         {func(b []byte) []byte { clear(b); return b }, true, 0},
		"key":           {func(b []byte) []byte { b[headSize+slotSize+12]++; return b }, false, 1},
		"mark":          {func(b []byte) []byte { b[headSize+slotSize] = 2; return b }, false, 1},
		"half made row": {func(b []byte) []byte { b[headSize+3*slotSize+20] = 9; return b }, false, 2},
		"same row twice": {func(b []byte) []byte {
			copy(b[headSize+3*slotSize:], b[headSize+slotSize:headSize+2*slotSize])
			return b
		}, false, 2},
		"first row": {func(b []byte) []byte { b[headSize+5]++; return b }, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path := good(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.break_(b), 0o600); err != nil {
				t.Fatal(err)
			}
			u, report := open(t, path, Config{Rows: 20, Now: day})
			if len(u.Rows()) != c.rows || (report.Quarantined != "") != c.quarantine {
				t.Errorf("%+v, rows %+v", report, u.Rows())
			}
			if c.quarantine {
				if _, err := os.Stat(report.Quarantined); err != nil || report.Why == "" {
					t.Errorf("put aside: %v, %q", err, report.Why)
				}
			} else if damaged := name != "half made row"; (report.Damaged == 1) != damaged {
				t.Errorf("%d rows damaged", report.Damaged)
			}
			u.Add(keyA, &Counts{Requests: 1}, day)
			u.Close()
			if u, report = open(t, path, Config{Rows: 20, Now: day}); report != (Opened{}) {
				t.Errorf("the next start reports %+v", report)
			}
			find(t, u, keyA)
		})
	}
}

func TestConfig(t *testing.T) {
	for _, rows := range []int{-1, maxRows + 1} {
		if _, _, err := Open(filepath.Join(t.TempDir(), "usage"), Config{Rows: rows}); err == nil {
			t.Errorf("%d rows are accepted", rows)
		}
	}
}

// TestWithoutFile opens a table where no file can be made: it counts, makes the file when it can, and never in
// the place of another.
func TestWithoutFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	path := filepath.Join(dir, "usage")
	u, report := open(t, path, Config{Rows: 4, Now: day})
	other, _ := open(t, path, Config{Rows: 4, Now: day})
	if report.Unsaved == nil {
		t.Fatal("it has a file")
	}
	u.Add(keyA, &one, day)
	other.Add(keyA, &one, day)
	if err := u.Sync(); err == nil {
		t.Error("it is said to be on disk")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first makes the file, the second writes to it
		u.Add(keyA, &one, day)
		if err := u.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Sync(); err == nil {
		t.Error("the file of another table was replaced")
	}
	u.Add(Key{Function: "b"}, &one, day)
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	u, report = open(t, path, Config{Rows: 4, Now: day})
	if report != (Opened{}) {
		t.Errorf("the next start reports %+v", report)
	}
	if got := find(t, u, keyA).Requests; got != 3 {
		t.Errorf("%d requests, want 3", got)
	}
	find(t, u, Key{Function: "b"})
}

// addForEver says each request after it was counted.
func addForEver(path string) {
	u, _, err := Open(path, Config{Rows: 50})
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		u.Add(Key{Function: "f" + strconv.Itoa(i%40)}, &Counts{Requests: 1, Fuel: 3}, time.Now())
		fmt.Println(i + 1)
	}
}

func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage")
	counted := 0
	for range 5 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childEnv+"="+path)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		last := 0
		for lines.Scan() {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
			if last = n; n == 777 {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = c.Wait() // killed
		u, report := open(t, path, Config{Rows: 50})
		sum := total(u)
		u.Close()
		// One may have been counted that it could not say any more.
		if report != (Opened{}) || last < 777 || sum.Requests < uint64(counted+last) || sum.Requests > uint64(counted+last+1) || sum.Fuel > 3*sum.Requests || sum.Fuel < 3*(sum.Requests-1) {
			t.Fatalf("%d were said, %d before; counted %+v, %+v", last, counted, sum, report)
		}
		counted = int(sum.Requests)
	}
}

func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "usage")
	u, _ := open(f, path, Config{Rows: 2, Now: day})
	u.Add(keyA, &one, day)
	u.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:64], b[headSize:])
	f.Add(b[:64], b[headSize:][:700])
	f.Fuzz(func(t *testing.T, head, rows []byte) {
		file := make([]byte, fileSize(3))
		copy(file[:headSize], head)
		copy(file[headSize:], rows)
		path := filepath.Join(t.TempDir(), "usage")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		u, _ := open(t, path, Config{Rows: 2, Now: day})
		before := total(u)
		u.Add(keyA, &Counts{Requests: 1}, day)
		if total(u).Requests != before.Requests+1 {
			t.Errorf("%d and 1 make %d", before.Requests, total(u).Requests)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	u, _ := open(b, filepath.Join(b.TempDir(), "usage"), Config{})
	keys := make([]Key, 5000)
	for i := range keys {
		keys[i] = Key{"function-" + strconv.Itoa(i%50), "a1b2c3d4e5f6", "fra", "caller-" + strconv.Itoa(i)}
		u.Add(keys[i], &one, day)
	}
	b.Run("one row", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u.Add(keys[0], &one, day)
		}
	})
	b.Run("5000 rows", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			u.Add(keys[i%len(keys)], &one, day)
		}
	})
	b.Run("one row, all processors", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				u.Add(keys[0], &one, day)
			}
		})
	})
}

// BenchmarkWrite is the alternative that was not taken: a write of the row to the file for each request.
func BenchmarkWrite(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "rows"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	var row [slotSize]byte
	for b.Loop() {
		if _, err := f.WriteAt(row[:], headSize); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenNew(b *testing.B) {
	for b.Loop() {
		u, _, err := Open(filepath.Join(b.TempDir(), "usage"), Config{})
		if err != nil {
			b.Fatal(err)
		}
		u.Close()
	}
}
