package edgeproxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/perigee-edge/perigee"
)

// TestNewsOfRules: a node that heard of new rules refuses, and this one, which hears of them a moment later,
// obeys them instead of giving up.
func TestNewsOfRules(t *testing.T) {
	pin := func(place string) func(*perigee.Manifest) {
		return func(m *perigee.Manifest) { m.Placement = perigee.Policy{Pin: []string{place}} }
	}
	for _, c := range []struct {
		name   string
		refuse perigee.RefuseCode
		news   func(*perigee.Manifest) // nil = none come
		want   string
		tried  string
	}{
		{"moved", perigee.RefusedNotAllowed, pin("fra"), "200 from fra ", "[lhr-1 fra-1]"},
		{"moved to where nobody is", perigee.RefusedNotAllowed, pin("nrt"), `503 pin = ["nrt"]`, "[lhr-1]"},
		{"moved, and this node may not see the request any more", perigee.RefusedNotAllowed, func(m *perigee.Manifest) { m.Placement = perigee.Policy{Residency: []string{"eu"}} }, `503 pin = ["lhr"]`, "[lhr-1]"},
		{"no news", perigee.RefusedNotAllowed, nil, `503 pin = ["lhr"]`, "[lhr-1]"},
		{"not here", perigee.RefusedNotHere, pin("fra"), `503 pin = ["lhr"]`, "[lhr-1]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := near()
			w.change(pin("lhr"))
			h := newHops().on("fra-1", answers("from fra "))
			h.on("lhr-1", func(r *http.Request) (*http.Response, perigee.Load, error) {
				if c.news != nil {
					w.change(c.news)
				}
				return refuses("lhr-1", c.refuse)(r)
			})
			spans := &spanLog{}
			rec, _ := send(newProxy(t, w, "wdc-1", failing(nil), h, func(c *Config) { c.Spans, c.TraceSample = spans, 1 }), request("GET", "/said", nil))
			status, text, _ := strings.Cut(c.want, " ")
			if fmt.Sprint(rec.Code) != status || !strings.Contains(rec.Body.String(), text) {
				t.Errorf("%d, want %s\n%s", rec.Code, c.want, rec.Body)
			}
			equal(t, "tried", fmt.Sprint(h.tried()), c.tried)
			equal(t, "what was asked for is told", strings.Contains(fmt.Sprint(spans.all), "/said"), !strings.Contains(c.name, "may not see"))
		})
	}
}
