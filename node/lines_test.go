package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee/runtime"
)

func line(function string, i int, text string) runtime.Line {
	return runtime.Line{Time: time.Unix(int64(i), 0), Function: function, Request: strconv.Itoa(i), Text: text}
}

func readAll(r *reader) (ids []string, missed uint64) {
	for {
		list, m, _ := r.read(7)
		missed += m
		if len(list) == 0 {
			return ids, missed
		}
		for _, l := range list {
			ids = append(ids, l.Request)
		}
	}
}

func TestLinesAreBounded(t *testing.T) {
	l := newLines()
	for i := range 3 * keepLines {
		l.keep(line("f", i, "x"))
	}
	r := l.open("f", time.Time{})
	ids, _ := readAll(r)
	if len(ids) != keepLines || ids[0] != strconv.Itoa(2*keepLines) {
		t.Errorf("%d lines are kept, the first is %s", len(ids), ids[0])
	}
	r.close()
	for i := range 300 {
		l.keep(line("g", i, strings.Repeat("x", 4096)))
	}
	if b := l.rings["g"].bytes; b > keepBytes || b < keepBytes-8192 {
		t.Errorf("%d bytes of long lines are kept", b)
	}
	sum := 0
	for _, r := range l.rings {
		for i := range r.list {
			sum += cost(&r.list[i])
		}
	}
	if sum != l.bytes {
		t.Errorf("%d bytes are kept, %d are counted", sum, l.bytes)
	}
}

// TestSilentFunctionsAreForgotten fills the node's share.
func TestSilentFunctionsAreForgotten(t *testing.T) {
	l := newLines()
	l.limit = 10 * (lineCost + 1)
	followed := l.open("f3", time.Time{})
	for i := range 20 {
		l.keep(line("f"+strconv.Itoa(i), i, "x"))
	}
	var names []string
	for name := range l.rings {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := "[f10 f11 f12 f13 f14 f15 f16 f17 f18 f19 f3]"; fmt.Sprint(names) != want || l.bytes != l.limit {
		t.Errorf("kept %v with %d bytes, want %s", names, l.bytes, want)
	}
	if ids, missed := readAll(followed); len(ids) != 0 || missed != 1 {
		t.Errorf("the follower got %v and missed %d", ids, missed)
	}
	l.keep(line("f3", 21, "x"))
	if ids, missed := readAll(followed); fmt.Sprint(ids) != "[21]" || missed != 0 {
		t.Errorf("the follower got %v and missed %d", ids, missed)
	}
	followed.close()
	for i := range 20 {
		l.keep(line("g"+strconv.Itoa(i), i, "x"))
	}
	if l.rings["f3"] != nil || len(l.rings) != 10 {
		t.Errorf("%d functions are kept", len(l.rings))
	}
}

func TestReader(t *testing.T) {
	l := newLines()
	for i := range 10 {
		l.keep(line("f", i, "x"))
	}
	r := l.open("f", time.Unix(7, 0))
	if ids, _ := readAll(r); fmt.Sprint(ids) != "[7 8 9]" {
		t.Errorf("since 7: %v", ids)
	}
	_, _, wake := r.read(1)
	select {
	case <-wake:
		t.Error("it is woken, and nothing has come")
	default:
	}
	l.keep(line("f", 10, "x"))
	<-wake
	if ids, missed := readAll(r); fmt.Sprint(ids) != "[10]" || missed != 0 {
		t.Errorf("after it was woken: %v, %d missed", ids, missed)
	}
	// Too slow.
	for i := range keepLines + 5 {
		l.keep(line("f", 100+i, "x"))
	}
	if ids, missed := readAll(r); len(ids) != keepLines || ids[0] != "105" || missed != 5 {
		t.Errorf("%d lines from %s, %d missed", len(ids), ids[0], missed)
	}
	r.close()
	none := l.open("g", time.Time{})
	none.close()
	if l.rings["g"] != nil {
		t.Error("a function that said nothing is remembered")
	}
}

func TestCrashedIsPrintable(t *testing.T) {
	l := newLines()
	l.crashed("f", "a1", "id", &runtime.GuestError{Kind: runtime.GuestTrap, Detail: "at\x1b[2J\n" + strings.Repeat("x", 10_000)})
	r := l.open("f", time.Time{})
	defer r.close()
	list, _, _ := r.read(1)
	if len(list) != 1 || !strings.HasPrefix(list[0].Text, "request failed: trap: at·[2J·x") || len(list[0].Text) > 5000 {
		t.Errorf("got %.100q", list)
	}
}

func TestMergerIsBounded(t *testing.T) {
	var m merger
	for i := range 3 * maxMerged {
		m.add([]LogEvent{{Node: "a", Line: &LogLine{Time: time.Unix(int64(3*maxMerged-i), 0)}}})
	}
	m.add([]LogEvent{{Node: "b", Missed: 3}, {Node: "b", CaughtUp: true}})
	events := m.sorted()
	if len(events) != maxMerged+2 || events[0].Missed != 3 || events[1].Missed != 2*maxMerged {
		t.Fatalf("%d events, %+v, %+v", len(events), events[0], events[1])
	}
	lines := events[2:]
	if !slices.IsSortedFunc(lines, func(a, b LogEvent) int { return a.Line.Time.Compare(b.Line.Time) }) || lines[0].Line.Time.Unix() != 2*maxMerged+1 {
		t.Errorf("the first line is of %v", lines[0].Line.Time)
	}
}
