package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-edge/perigee"
)

func trialsIn(t *testing.T, dir string) *trials {
	t.Helper()
	tr, err := openTrials(dir, time.Second, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func (t *trials) mustBegin(tb testing.TB, id perigee.RevisionID) {
	tb.Helper()
	if err := t.begin(id, false, false, false); err != nil {
		tb.Fatal(err)
	}
	t.loaded(id, nil)
}

func wantState(tb testing.TB, t *trials, id perigee.RevisionID, want perigee.Trial) {
	tb.Helper()
	if got, why := t.state(id); got != want {
		tb.Errorf("%s is in state %d (%s), want %d", id, got, why, want)
	}
}

// TestTrialEnds states what ends a trial, and how.
func TestTrialEnds(t *testing.T) {
	for _, tt := range []struct {
		name      string
		good, bad int
		after     time.Duration
		want      perigee.Trial
	}{
		{"no request, no time", 0, 0, 0, perigee.Trying},
		{"no request", 0, 0, 2 * time.Second, perigee.TrialNone},
		{"enough requests", trialRequests, 0, 0, perigee.TrialNone},
		{"enough requests, two bad", trialRequests - 2, 2, 0, perigee.TrialNone},
		{"three bad", 0, trialFaults, 0, perigee.TrialFailed},
		{"one, and bad", 0, 1, 2 * time.Second, perigee.TrialFailed},
		{"one, and bad, so far", 0, 1, 0, perigee.Trying},
		{"one of three bad", 2, 1, 2 * time.Second, perigee.TrialNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := trialsIn(t, t.TempDir())
			tr.mustBegin(t, "r")
			for range tt.good {
				tr.note("r", false)
			}
			for range tt.bad {
				tr.note("r", true)
			}
			tr.settle(time.Now().Add(tt.after))
			wantState(t, tr, "r", tt.want)
		})
	}
	t.Run("nothing to go back to", func(t *testing.T) {
		tr := trialsIn(t, t.TempDir())
		if err := tr.begin("r", true, false, false); err != nil {
			t.Fatal(err)
		}
		tr.loaded("r", nil)
		for range trialFaults {
			tr.note("r", true)
		}
		tr.settle(time.Now().Add(time.Hour))
		wantState(t, tr, "r", perigee.TrialNone)
	})
	t.Run("health path", func(t *testing.T) {
		tr := trialsIn(t, t.TempDir())
		for id, err := range map[perigee.RevisionID]error{"good": nil, "bad": errors.New("it answered 500")} {
			if err := tr.begin(id, false, true, false); err != nil {
				t.Fatal(err)
			}
			tr.loaded(id, nil)
			tr.settle(time.Now().Add(time.Hour))
			wantState(t, tr, id, perigee.Trying)
			tr.probed(id, err)
		}
		tr.settle(time.Now().Add(time.Hour))
		wantState(t, tr, "good", perigee.TrialNone)
		wantState(t, tr, "bad", perigee.TrialFailed)
		if row := tr.row(); len(row) != 1 || row["bad"] != perigee.TrialFailed {
			t.Errorf("row %v, want what failed only", row)
		}
	})
}

// TestTrialDeaths lets the process die while it tries a revision: the second death quarantines it.
func TestTrialDeaths(t *testing.T) {
	dir := t.TempDir()
	tr := trialsIn(t, dir)
	tr.mustBegin(t, "bad")
	tr.mustBegin(t, "good")
	tr.settle(time.Now().Add(time.Hour))
	wantState(t, tr, "good", perigee.TrialNone)
	tr = trialsIn(t, dir)
	wantState(t, tr, "bad", perigee.TrialNone) // it had passed, too

	dir = t.TempDir()
	tr = trialsIn(t, dir)
	tr.mustBegin(t, "bad")
	tr = trialsIn(t, dir)
	wantState(t, tr, "bad", perigee.Untried)
	tr.mustBegin(t, "bad")
	tr.rest() // an end in good order is no death
	tr = trialsIn(t, dir)
	wantState(t, tr, "bad", perigee.Untried)
	tr.mustBegin(t, "bad")
	tr = trialsIn(t, dir)
	wantState(t, tr, "bad", perigee.TrialFailed)
	if err := tr.begin("bad", false, false, false); !errors.Is(err, errFailedTrial) || !strings.Contains(err.Error(), "died 2 times") {
		t.Errorf("begin: %v", err)
	}
	if err := tr.begin("bad", false, false, true); err != nil {
		t.Errorf("begin, forced: %v", err)
	}
	wantState(t, tr, "bad", perigee.TrialNone)
}

// TestTrialFiles: files that are no such thing, and those of revisions that are gone.
func TestTrialFiles(t *testing.T) {
	dir := t.TempDir()
	for name, b := range map[string]string{"0123456789ab": "{", ".half": "", "ba9876543210": `{"state":3}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr := trialsIn(t, dir)
	wantState(t, tr, "0123456789ab", perigee.Untried)
	wantState(t, tr, "ba9876543210", perigee.TrialFailed)
	tr.forget(func(perigee.RevisionID) bool { return false })
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > 0 {
		t.Errorf("left: %v, %v", files, err)
	}
	if err := tr.expect("new", true); err != nil {
		t.Fatal(err)
	}
	wantState(t, tr, "new", perigee.TrialNone)
}
