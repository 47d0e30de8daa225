package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestEvents(t *testing.T) {
	every = time.Millisecond
	for path, want := range map[string]int{"/": 10, "/?n=3": 3, "/?n=1000": 10, "/?n=x": 10} {
		w := httptest.NewRecorder()
		events(w, httptest.NewRequest("GET", path, nil))
		if got := strings.Count(w.Body.String(), "event: time\n"); got != want || !w.Flushed || w.Header().Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %d events, %v", path, got, w.Header())
		}
	}
}
