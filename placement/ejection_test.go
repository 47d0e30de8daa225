package placement

import (
	"testing"
	"time"
)

func TestEjection(t *testing.T) {
	now := time.Unix(1e9, 0)
	var e Ejection
	away := func(what string, want bool) {
		t.Helper()
		if got := e.Until(now).After(now); got != want {
			t.Errorf("%s: ejected %v, want %v", what, got, want)
		}
	}
	away("a node never talked to", false)
	sent := now
	now = now.Add(300 * time.Millisecond)
	e.Silent(sent, now)
	away("silent", true)
	until := e.Until(now)
	e.Silent(sent, now.Add(time.Millisecond))
	if e.Until(now) != until {
		t.Error("a request sent before the failure was known made the ejection longer")
	}
	now = now.Add(time.Second)
	away("a second later", false)
	if trying, ok := e.Begin(now, false); !trying || !ok {
		t.Errorf("the first after an ejection: trying %v, ok %v", trying, ok)
	}
	away("tried by one", true)
	if _, ok := e.Begin(now, false); ok {
		t.Error("a second request tries the node")
	}
	if trying, ok := e.Begin(now, true); trying || !ok {
		t.Errorf("forced: trying %v, ok %v", trying, ok)
	}
	e.Silent(now, now.Add(time.Second))
	now = now.Add(time.Second)
	now = now.Add(1900 * time.Millisecond)
	away("silent again: twice as long", true)
	now = now.Add(200 * time.Millisecond)
	away("then over", false)
	e.Begin(now, false)
	e.Tried()
	away("the one that tried was given up by its client", false)
	e.Lives()
	if trying, ok := e.Begin(now, false); trying || !ok {
		t.Errorf("a node that answered: trying %v, ok %v", trying, ok)
	}
	for range 20 {
		e.Silent(now, now)
		now = now.Add(time.Nanosecond)
	}
	if d := e.Until(now).Sub(now); d > 30*time.Second {
		t.Errorf("ejected for %v", d)
	}
	e.Leaves(now)
	away("draining", true)
}
