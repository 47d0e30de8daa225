package gossip

import (
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// admitter verifies records before they reach the writer.
type admitter struct {
	*writer
	parser parser
}

// take stores records that came from a peer or from this node's own log. It returns those that are
// on disk now, and of these the entries that were new. Records that wait or are refused are counted
// and left out; an error means that the disk refused.
func (a *admitter) take(raws [][]byte) (held []perigee.Digest, fresh []*entry, err error) {
	var unknown [][]byte
	for _, raw := range raws {
		id := record.ID(raw)
		switch {
		case a.holds(id):
			held = append(held, id)
		case !a.pending.has(id):
			unknown = append(unknown, raw)
		}
	}
	fresh, err = a.store(a.sift(a.parseAll(unknown), false))
	for _, e := range fresh {
		held = append(held, e.id)
	}
	return held, fresh, err
}

// store commits entries, and then those that waited for them.
func (a *admitter) store(entries []*entry) (fresh []*entry, err error) {
	for len(entries) > 0 {
		added, err := a.commit(entries)
		if err != nil {
			return fresh, err
		}
		fresh = append(fresh, added...)
		entries = nil
		if slices.ContainsFunc(added, (*entry).governs) {
			entries = a.retry(a.pending.takeOrphans())
		}
	}
	return fresh, nil
}

// storeDue commits the entries whose time has come.
func (a *admitter) storeDue(now time.Time) (fresh []*entry, err error) {
	fresh, err = a.store(a.retry(a.pending.takeDue(now)))
	a.metrics.Waiting.Set(float64(a.pending.len()))
	return fresh, err
}

func (a *admitter) retry(list []*waiting) []*entry {
	var mine, others []*entry
	for _, w := range list {
		if w.stored {
			mine = append(mine, w.entry)
		} else {
			others = append(others, w.entry)
		}
	}
	return append(a.sift(mine, true), a.sift(others, false)...)
}

// sift returns the entries that may be stored now, and puts those aside whose author or time has
// not come. stored says that they come from this node's log, where they were admitted before.
func (a *admitter) sift(entries []*entry, stored bool) (admitted []*entry) {
	now := time.Now()
	auth := a.folded.Load().auth
	verdicts := make([]*RefusedError, len(entries))
	parallel(len(entries), func(i int) { verdicts[i] = auth.admits(entries[i]) })
	for i, e := range entries {
		switch err := verdicts[i]; {
		case err == nil && (stored || ahead(e.rec.HLC, now) <= maxAhead):
			admitted = append(admitted, e)
		case err == nil:
			a.pending.add(&waiting{entry: e, since: now, stored: stored})
		case err.Rule == RuleAuthor:
			a.pending.add(&waiting{entry: e, since: now, stored: stored, author: true})
		default:
			a.metrics.Refused.WithLabelValues(string(err.Rule)).Inc()
			a.pending.refuse(e.id, now)
		}
	}
	return admitted
}

// parseAll decodes records, without those that are none.
func (a *admitter) parseAll(raws [][]byte) (entries []*entry) {
	parsed := make([]*entry, len(raws))
	errs := make([]error, len(raws))
	parallel(len(raws), func(i int) { parsed[i], errs[i] = a.parser.parse(raws[i]) })
	for i, e := range parsed {
		if errs[i] != nil {
			a.metrics.Refused.WithLabelValues(string(RuleOf(errs[i]))).Inc()
			a.pending.refuse(record.ID(raws[i]), time.Now())
			continue
		}
		entries = append(entries, e)
	}
	return entries
}

// check parses records that somebody submits and reports the first reason to refuse one of them. It
// judges them together with what is stored, so that a revision and its pointer can come together.
func (a *admitter) check(raws [][]byte) ([]*entry, error) {
	var entries, unknown []*entry
	seen := map[perigee.Digest]bool{}
	for _, raw := range raws {
		e, err := a.parser.parse(raw)
		if err != nil {
			return nil, err
		}
		if seen[e.id] {
			continue
		}
		seen[e.id] = true
		entries = append(entries, e)
		if !a.holds(e.id) {
			unknown = append(unknown, e)
		}
	}
	now := time.Now()
	for _, e := range unknown {
		if err := a.clock.checkStamp(e.rec.HLC, now); err != nil {
			return nil, err.of(e.id)
		}
	}
	j := a.judgeWith(unknown)
	for _, e := range unknown {
		if err := j.verdict(e); err != nil {
			return nil, a.explain(j.auth, e, err).of(e.id)
		}
		if err := lockout(j.auth, e); err != nil {
			return nil, err.of(e.id)
		}
		if err := displaces(a.folded.Load().auth, j.auth, e); err != nil {
			return nil, err.of(e.id)
		}
	}
	return entries, nil
}

// judgeWith returns a judge that knows some more entries than are stored.
func (a *admitter) judgeWith(more []*entry) judge {
	f := a.folded.Load()
	j := judge{auth: f.auth}
	if slices.ContainsFunc(more, (*entry).governs) {
		a.setMu.RLock()
		governing := slices.Clone(a.set.governing)
		a.setMu.RUnlock()
		for _, e := range more {
			if e.governs() {
				governing = insertSorted(governing, e)
			}
		}
		j.auth = newAuthority(f.auth.genesis, governing)
	}
	beside := map[perigee.Digest]*entry{}
	j.revision = func(function string, id perigee.Digest) *entry {
		if e := beside[id]; e != nil && e.function() == function {
			return e
		}
		return f.revision(function, id)
	}
	for _, e := range more {
		if e.rec.Kind == record.KindRevision && j.verdict(e) == nil {
			beside[e.id] = e
		}
	}
	return j
}

// explain improves the text for a governing record of a key that is known, but only since a later
// time: rights to change rights begin with the redemption, by the stamps.
func (a *admitter) explain(auth *authority, e *entry, err *RefusedError) *RefusedError {
	if !e.governs() || err.Rule != RuleAuthor || len(auth.grants[e.rec.Key]) == 0 {
		return err
	}
	return refuse(RuleClock, "the record is stamped %s, before key %s had its right: correct the clock of the machine that signed it, and sign again",
		timeText(e.rec.HLC.Time()), e.rec.Key)
}

// lockout refuses the one revocation that nobody could repair.
func lockout(auth *authority, e *entry) *RefusedError {
	r, ok := e.body.(*record.Revoke)
	if !ok || r.Key == "" || auth.operatorsWithout(r.Key) > 0 {
		return nil
	}
	return refuse(RuleRight, "key %s is the last operator key, and without one nothing can be changed any more: create an operator token and redeem it first", r.Key)
}

// displaces refuses a redemption that is stamped before one that is in force, and would take its
// place: somebody has had the answer already that the other one worked.
func displaces(before, after *authority, e *entry) *RefusedError {
	if _, ok := e.body.(*record.Redeem); !ok || before == after {
		return nil
	}
	for id, verdict := range before.verdicts {
		if verdict == nil && after.verdicts[id] != nil {
			return refuse(RuleUsed, "the token or the node's name was used at the same moment: a token works once, ask an operator for a new one")
		}
	}
	return nil
}

// confirm reports whether stored entries have their effect. They may not, when another record came
// in between.
func (w *writer) confirm(entries []*entry) error {
	f := w.folded.Load()
	j := judge{f.auth, f.revision}
	for _, e := range entries {
		if err := j.verdict(e); err != nil {
			return err.of(e.id).adding(" (the record is stored, without effect: another one came first)")
		}
	}
	return nil
}

// parallel runs f for 0 to n-1 on all processors, and inline when there is little to do.
func parallel(n int, f func(i int)) {
	workers := min(goruntime.GOMAXPROCS(0), n/8)
	if workers < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
