package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

const (
	// A revision that a node has for the first time is tried: it passes after trialRequests requests, or
	// after Config.Trial when fewer come.
	trialRequests = 20
	// trialFaults of the first trialRequests requests end the trial as failed; fewer do, if they are
	// at least half of those that came when the time is over.
	trialFaults = 3
	// trialDeaths of this node while it tried a revision end the trial as failed. One may be chance.
	trialDeaths = 2

	defaultTrial = 2 * time.Second
	maxTrialFile = 4 << 10
)

// trials is what this node knows of the revisions it ran, or is about to run, for the first time. It
// is kept on disk, one small file a revision, written before the revision can do harm: a node that
// dies with a revision under trial counts that death when it starts again.
type trials struct {
	dir  string
	soak time.Duration
	log  *slog.Logger
	told func() // called without mu, after something changed that other nodes are to hear

	mu    sync.Mutex // guards all
	byRev map[perigee.RevisionID]*trial
}

// trial is one revision's. The exported fields are on disk.
type trial struct {
	State  perigee.Trial `json:"state"`
	Deaths int           `json:"deaths,omitempty"` // of this node while State was Trying
	Reason string        `json:"reason,omitempty"` // why it failed

	lenient   bool // there is nothing to go back to: faults do not end it
	began     time.Time
	done, bad int
	probing   bool // the manifest's health path has not answered yet
}

func (tr *trial) faults() string {
	return fmt.Sprintf("%d of its first %d requests failed", tr.bad, tr.done)
}

// openTrials reads what a former process knew, and counts its death if it tried something.
func openTrials(dir string, soak time.Duration, log *slog.Logger) (*trials, error) {
	t := &trials{dir: dir, soak: soak, log: log, told: func() {}, byRev: map[perigee.RevisionID]*trial{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the trials of revisions: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the trials of revisions: %w", err)
	}
	for _, f := range files {
		id := perigee.RevisionID(f.Name())
		if strings.HasPrefix(f.Name(), ".") {
			_ = os.Remove(filepath.Join(dir, f.Name())) // half a write
			continue
		}
		tr := &trial{}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		b, whole := unsum(b)
		if err != nil || !whole || len(b) > maxTrialFile || json.Unmarshal(b, tr) != nil {
			tr = &trial{State: perigee.Untried} // it is tried anew
		}
		t.byRev[id] = tr
		if tr.State != perigee.Trying {
			continue
		}
		tr.State = perigee.Untried
		if tr.Deaths++; tr.Deaths >= trialDeaths {
			tr.State, tr.Reason = perigee.TrialFailed, fmt.Sprintf("the node died %d times while it tried it", tr.Deaths)
			log.Error("revision quarantined", "revision", id, "err", tr.Reason)
		}
		if err := t.save(id, tr); err != nil { // a node must start; what can't be noted is not tried, see begin
			log.Warn("note the death of a node that tried a revision", "revision", id, "err", err)
		}
	}
	return t, nil
}

// expect notes a revision that this node has no word of yet: passed says that others proved it.
func (t *trials) expect(id perigee.RevisionID, passed bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byRev[id] != nil {
		return nil
	}
	tr := &trial{State: perigee.Untried}
	if passed {
		tr.State = perigee.TrialNone
	}
	return t.put(id, tr)
}

// begin notes that a revision is about to run here for the first time. It returns an error for one
// that failed, unless forced, and when the note can't be written: what is not noted must not run.
func (t *trials) begin(id perigee.RevisionID, lenient, probe, forced bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.byRev[id]
	if tr == nil {
		tr = &trial{State: perigee.Untried}
	}
	switch {
	case tr.State == perigee.TrialNone:
		return nil // it is on disk already, and a full one takes no note
	case forced:
		tr.State = perigee.TrialNone
		return t.put(id, tr)
	case tr.State == perigee.TrialFailed:
		return fmt.Errorf("%w: %s", errFailedTrial, tr.Reason)
	}
	tr.State, tr.lenient, tr.probing, tr.began, tr.done, tr.bad = perigee.Trying, lenient, probe, time.Time{}, 0, 0
	return t.put(id, tr)
}

// loaded starts the time of a trial; with an error, which says nothing of the revision, it is put off.
func (t *trials) loaded(id perigee.RevisionID, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tr := t.byRev[id]
	if tr == nil || tr.State != perigee.Trying {
		return
	}
	tr.began = time.Now()
	if err != nil {
		tr.State = perigee.Untried
		if err := t.put(id, tr); err != nil {
			t.log.Warn("note that a trial was put off", "revision", id, "err", err)
		}
	}
}

// errFailedTrial is returned for a revision that failed on this node.
var errFailedTrial = errors.New("it failed on this node")

// note counts a request that a revision answered, or spoilt.
func (t *trials) note(id perigee.RevisionID, bad bool) {
	t.mu.Lock()
	tr := t.byRev[id]
	if tr == nil || tr.State != perigee.Trying {
		t.mu.Unlock()
		return
	}
	tr.done++
	if bad {
		tr.bad++
	}
	faults, why := tr.bad >= trialFaults && !tr.lenient, tr.faults()
	t.mu.Unlock()
	if faults {
		t.fail(id, why)
	}
}

// probed notes how the health path answered.
func (t *trials) probed(id perigee.RevisionID, err error) {
	if err != nil {
		t.fail(id, "its health path: "+err.Error())
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.byRev[id]; tr != nil {
		tr.probing = false
	}
}

// settle ends the trials whose time is over, or that have seen enough.
func (t *trials) settle(now time.Time) {
	var changed bool
	failed := map[perigee.RevisionID]string{}
	t.mu.Lock()
	for id, tr := range t.byRev {
		over := now.Sub(tr.began) >= t.soak
		if tr.State != perigee.Trying || tr.began.IsZero() || tr.probing || tr.done < trialRequests && !over {
			continue
		}
		if tr.bad > 0 && 2*tr.bad >= tr.done && !tr.lenient {
			failed[id] = tr.faults()
			continue
		}
		tr.State, tr.Deaths = perigee.TrialNone, 0
		if err := t.put(id, tr); err != nil {
			t.log.Warn("note that a revision passed", "revision", id, "err", err)
		}
		changed = true
		t.log.Info("revision passed", "revision", id)
	}
	t.mu.Unlock()
	for id, why := range failed {
		t.fail(id, why)
	}
	if changed {
		t.told()
	}
}

// fail ends a trial.
func (t *trials) fail(id perigee.RevisionID, why string) {
	t.mu.Lock()
	tr := t.byRev[id]
	if tr == nil || tr.State == perigee.TrialNone || tr.State == perigee.TrialFailed {
		t.mu.Unlock()
		return
	}
	tr.State, tr.Reason = perigee.TrialFailed, why
	if err := t.put(id, tr); err != nil {
		t.log.Warn("note that a revision failed", "revision", id, "err", err)
	}
	t.mu.Unlock()
	t.log.Error("revision quarantined", "revision", id, "err", why)
	t.told()
}

// rest ends the life of a process in good order: what was tried is tried again by the next.
func (t *trials) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, tr := range t.byRev {
		if tr.State == perigee.Trying {
			tr.State = perigee.Untried
			if err := t.put(id, tr); err != nil {
				t.log.Warn("note that a trial was broken off", "revision", id, "err", err)
			}
		}
	}
}

// forget drops the revisions that nothing knows any more.
func (t *trials) forget(known func(perigee.RevisionID) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.byRev {
		if !known(id) {
			delete(t.byRev, id)
			if err := os.Remove(filepath.Join(t.dir, string(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.log.Warn("forget the trial of a revision", "revision", id, "err", err)
			}
		}
	}
}

// state returns what other nodes are to hear of a revision.
func (t *trials) state(id perigee.RevisionID) (perigee.Trial, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr := t.byRev[id]; tr != nil {
		return tr.State, tr.Reason
	}
	return perigee.TrialNone, ""
}

// row returns what this node's row says: nothing of what passed.
func (t *trials) row() map[perigee.RevisionID]perigee.Trial {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out map[perigee.RevisionID]perigee.Trial
	for id, tr := range t.byRev {
		if tr.State != perigee.TrialNone {
			if out == nil {
				out = map[perigee.RevisionID]perigee.Trial{}
			}
			out[id] = tr.State
		}
	}
	return out
}

// put notes a trial in memory and on disk; mu is held.
func (t *trials) put(id perigee.RevisionID, tr *trial) error {
	t.byRev[id] = tr
	return t.save(id, tr)
}

// save writes the file whole or not at all. It is not synced: what it guards against is the death of
// a process, which the system's cache outlives.
func (t *trials) save(id perigee.RevisionID, tr *trial) error {
	b, err := json.Marshal(tr)
	if err != nil {
		return err
	}
	tmp := filepath.Join(t.dir, "."+string(id))
	if err = os.WriteFile(tmp, withSum(b), 0o600); err == nil {
		err = os.Rename(tmp, filepath.Join(t.dir, string(id)))
	}
	if err != nil {
		return fmt.Errorf("note the trial of revision %s: %w", id, err)
	}
	return nil
}
