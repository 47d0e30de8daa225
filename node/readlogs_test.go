package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

var errEnough = errors.New("enough")

// TestSlowReader checks that a reader who does not keep up is told how much it lost, and holds up nobody.
func TestSlowReader(t *testing.T) {
	s := newSingle(t)
	for i := range 10 {
		s.lines.keep(line("f", i, "x"))
	}
	got, missed, first := 0, uint64(0), true
	err := s.ownLogs(t.Context(), logQuery{function: "f", follow: true}, func(events []LogEvent) error {
		for _, e := range events {
			missed += e.Missed
			if e.Line != nil {
				got++
			}
		}
		if first {
			first = false
			for i := range keepLines + 100 { // while this one is slow
				s.lines.keep(line("f", 10+i, "x"))
			}
		}
		if got+int(missed) == keepLines+110 {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) || missed != 100 {
		t.Errorf("%v: got %d lines and missed %d", err, got, missed)
	}
	if s.followers.Load() != 0 || s.lines.rings["f"].readers != 0 {
		t.Error("the reader is not forgotten")
	}
}

func TestFollowersAreBounded(t *testing.T) {
	s := newSingle(t)
	s.followers.Store(maxFollowers)
	err := s.ownLogs(t.Context(), logQuery{function: "f", follow: true}, func([]LogEvent) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "try again later") || s.followers.Load() != maxFollowers {
		t.Errorf("%v, %d followers", err, s.followers.Load())
	}
	if err := s.ownLogs(t.Context(), logQuery{function: "f"}, func([]LogEvent) error { return nil }); err != nil {
		t.Errorf("one that does not follow: %v", err)
	}
}

// TestFollowEnds checks that a follower ends with its context, with signs of life until then.
func TestFollowEnds(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSingle(t)
	ctx, cancel := context.WithTimeout(t.Context(), logBeat+500*time.Millisecond)
	defer cancel()
	beats := 0
	err := s.ownLogs(ctx, logQuery{function: "f", follow: true}, func(events []LogEvent) error {
		if len(events) == 0 {
			beats++
		}
		return nil
	})
	if err != nil || beats != 1 {
		t.Errorf("%v, %d signs of life", err, beats)
	}
}

func TestLogQueries(t *testing.T) {
	for query, ok := range map[string]bool{
		"": true, "since=1": true, "since=-1": true, "follow=1": true,
		"since=soon": false, "since=99999999999999999999": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/logs/f?"+query, nil)
		r.SetPathValue("function", "f")
		q, err := parseLogQuery(r)
		if (err == nil) != ok {
			t.Errorf("%q: %+v, %v", query, q, err)
		}
		if ok {
			again := httptest.NewRequest(http.MethodGet, q.path(), nil)
			again.SetPathValue("function", "f")
			if back, err := parseLogQuery(again); err != nil || !back.since.Equal(q.since) || back.follow != q.follow {
				t.Errorf("%q becomes %q: %+v, %v", query, q.path(), back, err)
			}
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/logs/x", nil)
	r.SetPathValue("function", "../usage")
	if _, err := parseLogQuery(r); err == nil {
		t.Error("a path is taken for a function")
	}
}

// TestOnlyNodesAsk checks the control paths without a peer's certificate.
func TestOnlyNodesAsk(t *testing.T) {
	s := newSingle(t)
	for path, h := range map[string]http.HandlerFunc{"/usage": s.serveNodeUsage, "/logs/f": s.serveNodeLogs} {
		rec := httptest.NewRecorder()
		membersOnly(h).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != http.StatusForbidden {
			t.Errorf("%s: %d", path, rec.Code)
		}
	}
}

func TestAskAllNamesWhoIsAsked(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSingle(t)
	failed := func(p *perigee.Peer, err error) { t.Errorf("%s: %v", p.ID, err) }
	asked := ""
	ask := func(_ context.Context, p *perigee.Peer) error {
		asked += fmt.Sprint(p.ID)
		return nil
	}
	if err := s.askAll(t.Context(), "nobody", ask, failed); err == nil || asked != "" {
		t.Errorf("nobody: asked %q, %v", asked, err)
	}
	if err := s.askAll(t.Context(), s.ID(), ask, failed); err != nil || asked != string(s.ID()) {
		t.Errorf("this node: asked %q, %v", asked, err)
	}
	var said error
	err := s.askAll(t.Context(), "", func(ctx context.Context, _ *perigee.Peer) error {
		<-ctx.Done()
		return ctx.Err()
	}, func(_ *perigee.Peer, err error) { said = err })
	if err != nil || said == nil || !strings.Contains(said.Error(), "no answer within") {
		t.Errorf("a node that is silent: %v, %v", said, err)
	}
}
