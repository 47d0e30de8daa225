package usage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// DefaultRows is how many rows a Table has if Config does not say it: 5 MB.
	DefaultRows = 10_000

	// FoldAfter is how long a row must be unused to be folded: see Open.
	FoldAfter = 30 * 24 * time.Hour

	maxRows = 1 << 20
)

// Config says what a Table is to be like.
type Config struct {
	Rows int       // at most so many keys have a row of their own; 0 = DefaultRows
	Now  time.Time // for what is old; zero = the system's time

	// Shared says that another process still counts in the file, after Settle: its rows must stay where
	// they are, so nothing is folded.
	Shared bool
}

// Opened says what Open found and did.
type Opened struct {
	Quarantined string // where a file was moved to that is none of ours, or torn; "" = there was none
	Why         string // what is wrong with it
	Damaged     int    // rows that could not be read and were dropped
	Folded      int    // rows that were folded
	Unfolded    error  // why rows were not folded that should have been
	Unsaved     error  // why there is no file: the table is in memory until a Sync can make one; nil = there is
}

// Open opens the table at path, or makes it. A node must start, so neither a file that can't be used nor a disk
// without room for one is an error: the former is moved aside, without the latter the table is in memory until a
// Sync can make it. Both are reported. An error says that cfg is wrong.
//
// When more than half of the rows are taken, those that were not used for FoldAfter are folded: for each
// function and region they become one row without a revision and a caller. That is done in a new file,
// which then replaces the old one, so a process may be killed at any moment of it.
func Open(path string, cfg Config) (*Table, Opened, error) {
	cfg.Rows = cmp.Or(cfg.Rows, DefaultRows)
	if cfg.Rows < 1 || cfg.Rows > maxRows {
		return nil, Opened{}, fmt.Errorf("open usage: %d rows: use 1 to %d", cfg.Rows, maxRows)
	}
	if cfg.Now.IsZero() {
		cfg.Now = time.Now()
	}
	var report Opened
	t, err := openFile(path, cfg, &report)
	if err != nil {
		report.Unsaved = err
		return inMemory(path, cfg), report, nil
	}
	if cfg.Shared || t.slots == cfg.Rows+1 && t.used <= t.slots/2 {
		return t, report, nil
	}
	return rebuild(path, t, cfg, &report), report, nil
}

// openFile opens the file of a table, or makes it.
func openFile(path string, cfg Config, report *Opened) (*Table, error) {
	h, err := readHead(path)
	if errors.Is(err, errForeign) {
		report.Quarantined, report.Why = fmt.Sprintf("%s.bad-%d", path, cfg.Now.Unix()), err.Error()
		if err := os.Rename(path, report.Quarantined); err != nil {
			return nil, fmt.Errorf("open usage: put aside what is not ours: %w", err)
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, cfg.Rows, cfg.Now)
	}
	if err != nil {
		return nil, fmt.Errorf("open usage: %w", err)
	}
	t, err := load(path, h, report)
	if err != nil {
		return nil, fmt.Errorf("open usage %s: %w", path, err)
	}
	return t, nil
}

// inMemory returns an empty table without a file.
func inMemory(path string, cfg Config) *Table {
	m := newCopied(path, int(fileSize(cfg.Rows+1)))
	head{version, slotSize, uint32(cfg.Rows + 1), 0, cfg.Now.Unix()}.write(m.data())
	rest := slotAt(m.data(), 0)
	rest.take(Key{})
	return &Table{mem: m, rows: map[Key]*slot{{}: rest}, slots: cfg.Rows + 1, used: 1, began: time.Unix(cfg.Now.Unix(), 0).UTC()}
}

var errForeign = errors.New("no usage file of this release")

func readHead(path string) (h head, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return h, err
	}
	var b [checkedTo + 4]byte
	if _, err := io.ReadFull(f, b[:]); err != nil {
		return h, fmt.Errorf("%w: it has %d bytes", errForeign, info.Size())
	}
	o := binary.NativeEndian
	h = head{version: o.Uint32(b[16:]), slot: o.Uint32(b[20:]), slots: o.Uint32(b[24:]), sealed: o.Uint32(b[28:]), began: int64(o.Uint64(b[32:]))}
	switch {
	case string(b[:16]) != magic:
		return h, fmt.Errorf("%w: it begins with %q", errForeign, b[:16])
	case h.version != version:
		return h, fmt.Errorf("%w: version %d, and this one knows %d", errForeign, h.version, version)
	case o.Uint32(b[checkedTo:]) != crc32.Checksum(b[:checkedTo], castagnoli):
		return h, fmt.Errorf("%w: its head is damaged", errForeign)
	case h.slot != slotSize || h.slots < 2 || h.slots > maxRows+1 || info.Size() != fileSize(int(h.slots)):
		return h, fmt.Errorf("%w: %d bytes with %d rows of %d bytes", errForeign, info.Size(), h.slots, h.slot)
	}
	return h, nil
}

func fileSize(slots int) int64 { return headSize + int64(slots)*slotSize }

// create makes an empty table. It appears under its name when it is whole and on disk.
func create(path string, rows int, began time.Time) (*Table, error) {
	tmp := path + ".new"
	if err := writeEmpty(tmp, rows+1, began); err != nil {
		_ = os.Remove(tmp)
		return nil, fmt.Errorf("make usage file: %w", err)
	}
	h, err := readHead(tmp)
	if err != nil {
		return nil, fmt.Errorf("make usage file: %w", err)
	}
	t, err := load(tmp, h, &Opened{})
	if err != nil {
		return nil, fmt.Errorf("make usage file: %w", err)
	}
	if err := replace(tmp, path); err != nil {
		_ = t.mem.close()
		return nil, fmt.Errorf("make usage file: %w", err)
	}
	return t, nil
}

func writeEmpty(path string, slots int, began time.Time) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var block [headSize]byte
	head{version, slotSize, uint32(slots), 0, began.Unix()}.write(block[:])
	for left := fileSize(slots); left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
		clear(block[:checkedTo+4])
	}
	return f.Sync()
}

// load maps a file whose head is good.
func load(path string, h head, report *Opened) (*Table, error) {
	mem, err := openMapping(path, int(fileSize(int(h.slots))))
	if err != nil {
		return nil, err
	}
	t := &Table{mem: mem, rows: map[Key]*slot{}, slots: int(h.slots), began: time.Unix(h.began, 0).UTC()}
	rest := slotAt(mem.data(), 0)
	if k, taken, damaged := rest.owner(); !taken || k != (Key{}) || h.sealed != 0 && rest.broken() {
		if damaged || taken {
			report.Damaged++
		}
		rest.take(Key{})
	}
	t.rows[Key{}] = rest
	// Slots are taken in order; after a loss of power there may be gaps, which later ones fill.
	t.used = 1
	for i := 1; i < t.slots; i++ {
		s := slotAt(mem.data(), i)
		k, taken, damaged := s.owner()
		if _, twice := t.rows[k]; taken && twice {
			taken, damaged = false, true
		}
		if h.sealed != 0 && (taken && s.broken() || !taken && s.check != 0) {
			taken, damaged = false, true
		}
		if damaged {
			report.Damaged++
			s.free()
		}
		if !taken {
			continue
		}
		if i != t.used {
			s = move(s, slotAt(mem.data(), t.used), k)
		}
		t.rows[k] = s
		t.used++
	}
	if h.sealed != 0 { // from here on they change
		head{version, slotSize, h.slots, 0, h.began}.write(mem.data())
		if err := mem.sync(); err != nil {
			return nil, errors.Join(err, mem.close())
		}
	}
	return t, nil
}

// move puts a row into a gap before it. Killed in between, the row is there twice, and the later is
// dropped as damaged by the next load: it is the same.
func move(from, to *slot, k Key) *slot {
	to.free()
	to.key, to.check = from.key, from.check
	for i := range to.count {
		to.count[i].Store(from.count[i].Load())
	}
	to.used.Store(1)
	from.free()
	return to
}

// rebuild copies t into a new file that replaces its own, and folds what is old if it is crowded. It returns t
// as it is where that can't be done.
func rebuild(path string, t *Table, cfg Config, report *Opened) *Table {
	crowded := t.used > min(t.slots, cfg.Rows+1)/2
	old := cfg.Now.Add(-FoldAfter)
	rows, folded := t.Rows(), 0
	for i := range rows {
		r := &rows[i]
		if crowded && !r.Other && (r.Revision != "" || r.Caller != "") && r.Last.Before(old) {
			r.Key = Key{Function: r.Function, Region: r.Region}
			folded++
		}
	}
	if folded == 0 && t.slots == cfg.Rows+1 {
		return t
	}
	n, err := create(path+".fold", cfg.Rows, t.began)
	if err != nil {
		report.Unfolded = err
		return t
	}
	for i := range rows {
		r := &rows[i]
		n.Add(r.Key, &r.Counts, r.First)
		n.Add(r.Key, &Counts{}, r.Last)
	}
	err = n.Sync()
	if err == nil {
		err = replace(path+".fold", path)
	}
	if err != nil {
		report.Unfolded = errors.Join(fmt.Errorf("fold usage: %w", err), n.mem.close())
		return t
	}
	report.Folded = folded
	_ = t.mem.close() // its file is gone
	return n
}

// replace gives a file its name for good: what Sync saves later is lost with a name that is not on disk.
func replace(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
