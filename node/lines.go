package node

import (
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

// What a node keeps of guests' lines.
const (
	keepLines = 1000      // of a function
	keepBytes = 256 << 10 // of a function
	keepAll   = 16 << 20  // of all functions together
	lineCost  = 160       // bytes of a line besides its text
)

// lines holds the last lines that the guests of each function logged on this node, in memory only. When
// all functions together have too many, the one that has been silent for longest loses its lines.
type lines struct {
	mu    sync.Mutex // guards all below, and the rings
	rings map[string]*ring
	bytes int
	clock uint64 // counts lines, to know which ring has been silent for longest
	limit int    // of bytes
}

// ring is the last lines of one function. Each line has a number; first is that of the oldest one here.
type ring struct {
	list    []runtime.Line
	first   uint64
	bytes   int
	last    uint64        // lines.clock at the last line
	wake    chan struct{} // closed at the next line; nil = nobody waits
	readers int           // that follow: it is not forgotten
}

func newLines() *lines { return &lines{rings: map[string]*ring{}, limit: keepAll} }

// keep takes a line.
func (l *lines) keep(line runtime.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.ringLocked(line.Function)
	l.clock++
	r.last = l.clock
	n := cost(&line)
	for len(r.list) > 0 && (len(r.list) == keepLines || r.bytes+n > keepBytes) {
		l.dropLocked(r, 1)
	}
	r.list = append(r.list, line)
	r.bytes += n
	l.bytes += n
	for l.bytes > l.limit {
		l.evictLocked()
	}
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

func cost(line *runtime.Line) int { return lineCost + len(line.Text) }

// crashed keeps why a guest failed.
func (l *lines) crashed(function string, rev perigee.RevisionID, request string, err *runtime.GuestError) {
	text := "request failed: " + string(err.Kind)
	if err.Detail != "" {
		text += ": " + err.Detail
	}
	l.keep(runtime.Line{Time: time.Now(), Level: slog.LevelError, Function: function, Revision: rev, Request: request, Text: printableLine(text)})
}

// printableLine makes a text of the runtime's fit for a terminal.
func printableLine(s string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '·'
		}
		return c
	}, s[:min(len(s), 4<<10)])
}

func (l *lines) ringLocked(function string) *ring {
	r := l.rings[function]
	if r == nil {
		r = &ring{}
		l.rings[function] = r
	}
	return r
}

// dropLocked drops the oldest n lines of a ring.
func (l *lines) dropLocked(r *ring, n int) {
	for i := range n {
		c := cost(&r.list[i])
		r.bytes -= c
		l.bytes -= c
		r.list[i] = runtime.Line{}
	}
	r.list = r.list[n:]
	r.first += uint64(n)
}

// evictLocked drops all lines of the function that has been silent for longest.
func (l *lines) evictLocked() {
	name, oldest := "", (*ring)(nil)
	for n, r := range l.rings {
		if len(r.list) > 0 && (oldest == nil || r.last < oldest.last) {
			name, oldest = n, r
		}
	}
	l.dropLocked(oldest, len(oldest.list))
	l.forgetLocked(name, oldest)
}

// forgetLocked forgets a ring that holds nothing and that nobody follows.
func (l *lines) forgetLocked(name string, r *ring) {
	if len(r.list) == 0 && r.readers == 0 {
		delete(l.rings, name)
	}
}

// reader reads the lines of one function, at its own pace. It is for one goroutine.
type reader struct {
	lines    *lines
	function string
	ring     *ring
	next     uint64
}

// open returns a reader that begins with the first line that is not older than since.
func (l *lines) open(function string, since time.Time) *reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.ringLocked(function)
	r.readers++
	next := r.first
	for i := range r.list {
		if !r.list[i].Time.Before(since) {
			break
		}
		next++
	}
	return &reader{l, function, r, next}
}

// read returns up to most lines, how many were dropped before them because this reader was too slow, and,
// if there is no line, a channel that is closed when there is.
func (r *reader) read(most int) (list []runtime.Line, missed uint64, wake <-chan struct{}) {
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	if r.next < r.ring.first {
		missed, r.next = r.ring.first-r.next, r.ring.first
	}
	rest := r.ring.list[r.next-r.ring.first:]
	if len(rest) > 0 {
		list = append(list, rest[:min(most, len(rest))]...)
		r.next += uint64(len(list))
		return list, missed, nil
	}
	if r.ring.wake == nil {
		r.ring.wake = make(chan struct{})
	}
	return nil, missed, r.ring.wake
}

func (r *reader) close() {
	r.lines.mu.Lock()
	defer r.lines.mu.Unlock()
	r.ring.readers--
	r.lines.forgetLocked(r.function, r.ring)
}
