// Package usage keeps what functions have used on this node, in totals that outlive the process.
//
// There is one row for each function, revision, region that it ran in, and caller. It does not measure
// anything, ask other nodes, or know what a price is. It starts no goroutine: who opens a Table calls
// Sync now and then, and Close at the end. All methods of a Table may be called at once.
//
// The rows are in a file that is mapped into memory, and adding to one is a few atomic additions: the
// pages belong to the system, so that a process killed at any moment loses nothing that it has added.
// What a loss of power takes is what came after the last Sync. On systems without such mappings the file
// is written by Sync, and a killed process loses what came after it.
//
// The file has a fixed size, and its blocks are written when it is made, so that a full disk is an error
// then and not a fault later. A table that got no file counts in the memory of its process, and each Sync tries
// to make the file:
//
//	0     "perigee usage\n\0\0"
//	16    version (uint32), bytes of a row (uint32), rows (uint32), 1 if the rows are sealed (uint32)
//	32    when counting began (int64, Unix seconds)
//	40    CRC-32C of the 40 bytes before (uint32); zeros up to 4096
//	4096  rows of 512 bytes, so that none spans two sectors of a disk:
//	        0    used: 1, else 0 (uint32); written last
//	        4    CRC-32C of the key (uint32)
//	        8    key, 264 bytes: function, revision, region, caller, each with its length before it (uint8)
//	        272  30 counters (uint64), see the constants col…; those without a name are zero, but for the last,
//	             which is the seal: CRC-32C of the row before it
//
// Close seals the rows, and the next Open holds each against its seal: one that changed on the disk meanwhile is
// dropped and reported. A process that is killed leaves rows without seals, which are taken as they are.
//
// Numbers are in the byte order of the machine. The first row takes what has no row of its own (see
// Row.Other). Version 1 is the only one so far.
package usage

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
)

// Key says whose usage a row has.
type Key struct {
	Function string             `json:"function"`
	Revision perigee.RevisionID `json:"revision"` // "" = revisions that were not used for FoldAfter
	Region   perigee.Region     `json:"region"`   // where it ran
	Caller   string             `json:"caller"`   // the region where requests came in, or "fn:" and the function that called; "" with Revision ""
}

// Counts is what requests used. All but PeakPages are sums. A sum wraps around at 2^64, which for
// PageMicros is 585 years of 62 MiB.
type Counts struct {
	Requests   uint64 `json:"requests"`     // given to a guest; refused ones are not counted
	Errors     uint64 `json:"errors"`       // of them, those that failed by the guest's doing: crashes, limits, bad responses
	Cut        uint64 `json:"cut"`          // of them, those ended by the client or a failure of the node
	Fuel       uint64 `json:"fuel"`         // about one unit an instruction
	Wall       uint64 `json:"wall_ns"`      // nanoseconds from the instance to the end of the response
	Guest      uint64 `json:"guest_ns"`     // nanoseconds in the guest's own code
	PageMicros uint64 `json:"page_us"`      // pages of 64 KiB of memory times microseconds of Wall
	PeakPages  uint64 `json:"peak_pages"`   // the most that one request had
	BytesIn    uint64 `json:"bytes_in"`     // of request bodies, as far as they were read
	BytesOut   uint64 `json:"bytes_out"`    // of response bodies
	Fresh      uint64 `json:"starts_fresh"` // instances that ran their start functions
	Image      uint64 `json:"starts_image"` // instances made from an image
	Reset      uint64 `json:"starts_reset"` // instances that served before and were restored
	Cold       uint64 `json:"starts_cold"`  // requests for which the revision was loaded first; each is also one of the three above
}

// The columns of a row, in the order of the file.
const (
	colRequests = iota
	colErrors
	colCut
	colFuel
	colWall
	colGuest
	colPageMicros
	colPeakPages
	colBytesIn
	colBytesOut
	colFresh
	colImage
	colReset
	colCold
	colFirst // Unix seconds
	colLast  // Unix seconds
	columns
)

func (c *Counts) column(i int) *uint64 {
	return [...]*uint64{
		&c.Requests, &c.Errors, &c.Cut, &c.Fuel, &c.Wall, &c.Guest, &c.PageMicros, &c.PeakPages,
		&c.BytesIn, &c.BytesOut, &c.Fresh, &c.Image, &c.Reset, &c.Cold,
	}[i]
}

// Plus adds o to c; the peak is the higher one.
func (c *Counts) Plus(o *Counts) {
	for i := range colFirst {
		switch i {
		case colPeakPages:
			c.PeakPages = max(c.PeakPages, o.PeakPages)
		default:
			*c.column(i) += *o.column(i)
		}
	}
}

// Row is one row of a Table. Sums of rows are exact when nothing is being added; a single row that is
// read while requests end may have some columns of a request and not yet the others.
type Row struct {
	Key
	Counts
	First time.Time `json:"first"` // of the additions, to the second
	Last  time.Time `json:"last"`
	Other bool      `json:"other,omitempty"` // what came when all rows were taken; Key is zero
}

// Table is a file of rows.
type Table struct {
	mu      sync.RWMutex // guards all below; held for reading while counters are added to
	mem     memory
	rows    map[Key]*slot
	used    int // slots taken, the first included
	slots   int
	began   time.Time
	closed  bool        // written with disk held, too
	settled bool        // no new rows
	changed atomic.Bool // since the last Sync

	disk sync.Mutex // held by Sync and Close, and taken before mu: the file stays open for a Sync under way
}

// Add adds to the row of k and makes it if there is none. When all rows are taken it adds to the one
// that is for the rest. After Close it does nothing.
func (t *Table) Add(k Key, c *Counts, now time.Time) {
	t.mu.RLock()
	s, ok := t.rows[k]
	if !ok && !t.closed {
		t.mu.RUnlock()
		t.make(k)
		t.mu.RLock()
		if s, ok = t.rows[k]; !ok {
			s = t.rows[Key{}]
		}
	}
	if !t.closed {
		s.add(c, now.Unix())
		t.changed.Store(true)
	}
	t.mu.RUnlock()
}

// Settle makes no new rows from now on: another process takes the file over and makes them. What has no
// row is added to the one for the rest; all others count on, for both.
func (t *Table) Settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settled = true
}

// make gives k a slot if there is one left.
func (t *Table) make(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.rows[k]; ok || t.closed || t.settled || t.used == t.slots {
		return
	}
	s := slotAt(t.mem.data(), t.used)
	if s.take(k) {
		t.rows[k] = s
		t.used++
	}
}

// Rows returns all rows, in no order. That for the rest is left out as long as it is empty.
func (t *Table) Rows() []Row {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]Row, 0, len(t.rows))
	for k, s := range t.rows {
		if r := s.row(k); k != (Key{}) || r.First.Unix() != 0 {
			out = append(out, r)
		}
	}
	return out
}

// Began returns when counting began: when the file was made.
func (t *Table) Began() time.Time { return t.began }

// Sync puts on disk what was added since the last Sync. It may take as long as the disk does; additions
// do not wait for it.
func (t *Table) Sync() error {
	t.disk.Lock()
	defer t.disk.Unlock()
	return t.syncLocked()
}

func (t *Table) syncLocked() error {
	if t.closed || !t.changed.Swap(false) {
		return nil
	}
	if err := t.mem.sync(); err != nil {
		t.changed.Store(true)
		return fmt.Errorf("save usage: %w", err)
	}
	return nil
}

// Close does a last Sync and lets go of the file.
func (t *Table) Close() error {
	t.disk.Lock()
	defer t.disk.Unlock()
	err := t.syncLocked()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return err
	}
	t.closed = true
	for _, s := range t.rows {
		s.seal()
	}
	t.rows = nil
	if err = errors.Join(err, t.mem.sync()); err == nil { // seals that are said to be there are on disk
		head{version, slotSize, uint32(t.slots), 1, t.began.Unix()}.write(t.mem.data())
		err = t.mem.sync()
	}
	return errors.Join(err, t.mem.close())
}
