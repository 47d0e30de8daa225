package placement

import (
	"testing"
	"time"
)

func TestIdle(t *testing.T) {
	const grace = 10 * time.Second
	var unknown, busy, hourly, rare, mixed Idle
	busy.Add(time.Second, 10000)
	for range 20 {
		hourly.Add(time.Hour+30*time.Second, 1)
		rare.Add(9*time.Hour, 1)
	}
	mixed.Add(time.Second, 90)
	mixed.Add(25*time.Minute, 10)
	for _, tt := range []struct {
		name   string
		h      *Idle
		idle   time.Duration
		loaded bool
	}{
		{"unknown", &unknown, KeepIdle - time.Second, true},
		{"unknown", &unknown, KeepIdle, false},
		{"busy", &busy, KeepIdle - time.Second, true},
		{"busy", &busy, KeepIdle, false}, // 99 of 100 came within a minute: it will not come
		{"hourly", &hourly, time.Second, true},
		{"hourly", &hourly, 5 * time.Minute, false},  // no use in keeping it
		{"hourly", &hourly, 55 * time.Minute, true},  // loaded before it is asked for
		{"hourly", &hourly, 66 * time.Minute, true},  // it may be late
		{"hourly", &hourly, 70 * time.Minute, false}, // not so late
		{"rare", &rare, KeepIdle - time.Second, true},
		{"rare", &rare, KeepIdle, false},
		{"mixed", &mixed, 20 * time.Minute, true},
		{"mixed", &mixed, 29 * time.Minute, false},
	} {
		if got := tt.h.Loaded(tt.idle, grace); got != tt.loaded {
			t.Errorf("%s, idle for %v: loaded %v", tt.name, tt.idle, got)
		}
	}
	for range 3 { // a habit that ends is forgotten
		hourly.Add(time.Second, 1<<20)
	}
	if hourly.Loaded(55*time.Minute, grace) {
		t.Error("three million short idle times later it is still an hourly one")
	}
}
