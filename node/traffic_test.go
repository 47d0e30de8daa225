package node

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

// TestTraffic has a function asked for all the time for some minutes, then much more, and then not at all.
func TestTraffic(t *testing.T) {
	h := &holding{rev: &perigee.Revision{Manifest: perigee.Manifest{Name: "hello"}}, warmth: perigee.Warm}
	idle := &holding{rev: &perigee.Revision{Manifest: perigee.Manifest{Name: "idle"}}}
	here := map[perigee.RevisionID]*holding{"a": h, "b": idle}
	asked := map[string]uint64{"idle": 0}
	var m trafficMeter
	now := time.Now()
	second := func(requests uint64, took time.Duration) (map[string]perigee.Traffic, bool) {
		now = now.Add(time.Second)
		asked["hello"] += requests
		h.busy.Add(int64(took))
		return m.read(here, maps.All(asked), func(id perigee.RevisionID) uint32 { return map[perigee.RevisionID]uint32{"a": 8}[id] }, now)
	}
	if got, _ := m.read(here, maps.All(asked), func(perigee.RevisionID) uint32 { return 8 }, now); len(got) > 0 {
		t.Errorf("before any request: %v", got)
	}
	sudden := 0
	for range 300 {
		if _, now := second(10, 3*time.Second); now {
			sudden++
		}
	}
	if got, _ := second(10, 3*time.Second); got["hello"].Asked < 980 || got["hello"].Asked > 1001 || got["hello"].Busy < 294 || got["hello"].Busy > 301 || got["hello"].Slots != 8 || len(got) != 1 {
		t.Errorf("10 a second, three at once: %v", got)
	}
	if sudden == 0 || sudden > 60 {
		t.Errorf("the beginning was sudden for %d s", sudden)
	}
	for range 5 {
		second(50, 15*time.Second)
	}
	if got, sudden := second(50, 15*time.Second); !sudden || got["hello"].Asked < 3000 {
		t.Errorf("5 times as much, after 6 s: sudden %v, %v", sudden, got)
	}
	for range 600 {
		second(0, 0)
	}
	if got, _ := second(0, 0); len(got) > 0 {
		t.Errorf("ten minutes later: %v", got)
	}
	delete(asked, "hello") // it was removed, and another of the name comes
	second(0, 0)
	asked["hello"] = 1
	if got, _ := second(0, 0); got["hello"].Asked > 100 {
		t.Errorf("one request of a new function: %v", got)
	}
}

// A row tells of the functions with the most traffic.
func TestTrafficOfMany(t *testing.T) {
	all := map[string]perigee.Traffic{"busy": {Busy: 5}, "asked": {Asked: 5}, "both": {Asked: 3, Busy: 3}}
	for i := range trafficMost {
		all[fmt.Sprint("f", i)] = perigee.Traffic{Asked: 1}
	}
	most(all, trafficMost)
	if len(all) != trafficMost || all["busy"].Busy == 0 || all["asked"].Asked == 0 || all["both"].Busy == 0 {
		t.Errorf("%d functions remain, busy %v, asked %v, both %v", len(all), all["busy"], all["asked"], all["both"])
	}
}
