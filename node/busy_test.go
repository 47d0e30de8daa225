package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestBusy has three requests of a function run all the time for some minutes, and then none.
func TestBusy(t *testing.T) {
	h := &holding{rev: &perigee.Revision{Manifest: perigee.Manifest{Name: "hello"}}}
	idle := &holding{rev: &perigee.Revision{Manifest: perigee.Manifest{Name: "idle"}}}
	here := map[perigee.RevisionID]*holding{"a": h, "b": idle}
	var m busyMeter
	now := time.Now()
	if got := m.read(here, now); len(got) > 0 {
		t.Errorf("before any request: %v", got)
	}
	for range 300 {
		now = now.Add(time.Second)
		h.busy.Add(int64(3 * time.Second))
		m.read(here, now)
	}
	now = now.Add(time.Second)
	h.busy.Add(int64(3 * time.Second))
	if got := m.read(here, now); got["hello"] < 295 || got["hello"] > 305 || len(got) != 1 {
		t.Errorf("three at once: %v", got)
	}
	for range 600 {
		now = now.Add(time.Second)
		m.read(here, now)
	}
	if got := m.read(here, now.Add(time.Second)); len(got) > 0 {
		t.Errorf("ten minutes later: %v", got)
	}
	many := map[perigee.RevisionID]*holding{}
	for i := range busyMost + 10 {
		many[perigee.RevisionID(fmt.Sprint(i))] = &holding{rev: &perigee.Revision{Manifest: perigee.Manifest{Name: fmt.Sprint("f", i)}}}
	}
	m.read(many, now)
	for id, h := range many {
		h.busy.Add(int64(time.Minute))
		if id == "0" {
			h.busy.Add(int64(time.Hour))
		}
	}
	if got := m.read(many, now.Add(time.Minute)); len(got) != busyMost || got["f0"] == 0 {
		t.Errorf("of %d busy functions, the row has %d, the busiest with %d", len(many), len(got), got["f0"])
	}
}
