package gossip

import (
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
)

// check parses records that somebody submits and reports the first reason to refuse one of them. It
// judges them together with what is stored, so that a revision and its pointer can come together.
func (c *Core) check(now time.Time, raws [][]byte) (_ []*entry, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = refuse(RuleShape, "reading the records broke the reader: %v", r)
		}
	}()
	var entries, unknown []*entry
	seen := map[perigee.Digest]bool{}
	for _, raw := range raws {
		e, err := c.parser.parse(raw)
		if err != nil {
			return nil, err
		}
		if err := c.asideErr(e.id); err != nil {
			return nil, err
		}
		if seen[e.id] {
			continue
		}
		seen[e.id] = true
		entries = append(entries, e)
		if !c.Holds(e.id) {
			unknown = append(unknown, e)
		}
	}
	for _, e := range unknown {
		if err := c.clock.checkStamp(e.rec.HLC, now); err != nil {
			return nil, err.of(e.id)
		}
	}
	j := c.judgeWith(unknown)
	for _, e := range unknown {
		if err := j.verdict(e); err != nil {
			return nil, c.explain(j.auth, e, err).of(e.id)
		}
		if err := lockout(j.auth, e); err != nil {
			return nil, err.of(e.id)
		}
		if err := displaces(c.fold.auth, j.auth, e); err != nil {
			return nil, err.of(e.id)
		}
	}
	return entries, nil
}

// judgeWith returns a judge that knows some more entries than are stored.
func (c *Core) judgeWith(more []*entry) judge {
	f := c.fold
	j := judge{auth: f.auth, pointer: f.pointer}
	if slices.ContainsFunc(more, (*entry).governs) {
		governing := slices.Clone(c.set.governing)
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
func (c *Core) explain(auth *authority, e *entry, err *RefusedError) *RefusedError {
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
func (c *Core) confirm(entries []*entry) error {
	j := judge{c.fold.auth, c.fold.revision, c.fold.pointer}
	for _, e := range entries {
		if err := c.asideErr(e.id); err != nil {
			return err
		}
		if err := j.verdict(e); err != nil {
			return err.of(e.id).adding(" (the record is stored, without effect: another one came first)")
		}
	}
	return nil
}
