package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// load opens the log and brings the core to where it was. One bad record never keeps a node from
// starting: what can't be used is reported, kept in the file, and fetched from peers if they have it.
func (g *Gossip) load(fsys vfs.FS, dir string, logger *slog.Logger) error {
	l, f, err := openLog(fsys, dir, sealKey(g.conf.Identity.Key()), g.keptOnDisk)
	if err != nil {
		return err
	}
	g.log = l
	if f.damage.any() {
		g.metrics.Damage.Add(float64(f.Bytes + f.Torn))
		logger.Warn("state was damaged on the disk", "stretches", f.Skipped, "bytes", f.Bytes, "torn", f.Torn, "unsealed", f.Unsealed, "kept_in", badName)
	}
	if f.Quarantine != nil {
		logger.Warn("bytes of the state log not kept", "err", f.Quarantine)
	}
	g.disk.reading = openReading(fsys, dir, perigee.Version, g.conf.Boot)
	sealed, held := g.disk.reading.hold(f.sealed)
	records, more := g.disk.reading.hold(f.records)
	if g.opaque, err = g.core.Load(time.Now(), sealed, records); err != nil {
		return fmt.Errorf("open state in %s: %w", dir, err)
	}
	g.readSuspects(append(held, more...))
	for _, a := range g.core.out.Aside {
		g.keepAside(a)
	}
	if n := len(g.opaque) + g.core.pending.len(); n > 0 {
		logger.Warn("records of the state log without effect", "unreadable", len(g.opaque), "without_author", g.core.pending.len())
	}
	l.idle = g.core.out.Counts.OutlivedBytes
	if err := errors.Join(l.repair(), l.foldIfLong()); err != nil {
		logger.Warn("state log not writable", "err", err)
	}
	return nil
}

// keptOnDisk returns everything that belongs there: what is verified, and what is not.
func (g *Gossip) keptOnDisk() (verified, others [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.core.kept(), append(g.core.waitingLogged(), g.opaque...)
}

// Load gives the core what the node's disk has, once, before the first step: records that it had verified
// before it sealed them, and others. It returns those that this release can't read or use, which stay on the
// disk; an error when the disk is another cluster's.
func (c *Core) Load(now time.Time, sealed, others [][]byte) (opaque [][]byte, err error) {
	entries, opaque, err := c.readAll(sealed, others)
	if err != nil {
		return nil, err
	}
	rest, why := c.tryReplay(entries)
	if why != nil {
		rest = c.replaySlowly(entries)
	}
	return append(opaque, c.leave(now, rest)...), nil
}

// tryReplay replays the log at once, and returns what a reader panicked with.
func (c *Core) tryReplay(entries []*entry) (rest []*entry, why any) {
	defer func() { why = recover() }()
	rest = c.replay(entries)
	c.refold(nil)
	return rest, nil
}

// replaySlowly replays a log that breaks its reader, and sets aside what does.
func (c *Core) replaySlowly(entries []*entry) (rest []*entry) {
	history := c.set.history
	c.set, c.fold = newSet(), nil
	c.set.history = history
	c.set.add(c.geneses...)
	c.refold(nil)
	slices.SortFunc(entries, compareEntries)
	for progress := true; progress; {
		progress, rest = false, nil
		for _, e := range entries {
			if e.governs() && !c.Holds(e.id) && admits(c.fold.auth, e) == nil {
				progress = len(c.add([]*entry{e})) > 0 || progress
			} else if !c.Holds(e.id) {
				rest = append(rest, e)
			}
		}
		entries = rest
	}
	var admitted []*entry
	rest = slices.DeleteFunc(rest, func(e *entry) bool {
		if e.governs() || admits(c.fold.auth, e) != nil {
			return false
		}
		admitted = append(admitted, e)
		return true
	})
	c.add(admitted)
	return rest
}

// read gives the core one more record of the log, and returns it if it can't be used.
func (c *Core) read(raw []byte) (opaque [][]byte) {
	e, err := c.parser.parse(raw)
	if err != nil || c.Holds(record.ID(raw)) {
		return [][]byte{raw}
	}
	if admits(c.fold.auth, e) != nil {
		return c.leave(time.Time{}, []*entry{e})
	}
	c.add([]*entry{e})
	if e.governs() { // what its author wrote was left
		for _, w := range c.pending.takeOrphans() {
			if admits(c.fold.auth, w.entry) == nil {
				c.add([]*entry{w.entry})
			} else {
				c.pending.add(w)
			}
		}
	}
	return nil
}

// readAll parses the records of the disk, each once. Those that this release can't read stay there.
func (c *Core) readAll(sealed, others [][]byte) (entries []*entry, opaque [][]byte, err error) {
	raws := slices.Concat(sealed, others)
	seen := make(map[perigee.Digest]bool, len(raws))
	parsed := make([]*entry, len(raws))
	parallel(len(raws), func(i int) { parsed[i], _ = c.parser.parse(raws[i]) })
	for i, e := range parsed {
		id := record.ID(raws[i])
		switch {
		case seen[id]:
		case e != nil:
			e.sealed = i < len(sealed)
			entries = append(entries, e)
		case c.foreign(raws[i]):
			return nil, nil, ErrForeign
		default:
			opaque = append(opaque, raws[i])
		}
		seen[id] = true
	}
	return entries, opaque, nil
}

// foreign reports whether the record is the genesis of another cluster.
func (c *Core) foreign(raw []byte) bool {
	rec, err := record.Decode(raw)
	return err == nil && rec.Kind == record.KindGenesis && !slices.ContainsFunc(c.geneses, func(g *entry) bool { return bytes.Equal(raw, g.raw) })
}

// replay verifies the records of the log and puts them into the set: those that govern first, until
// no more of them are admitted, then all others. It returns those that are not admitted.
func (c *Core) replay(entries []*entry) (rest []*entry) {
	c.set.add(c.geneses...)
	var governing, others []*entry
	for _, e := range entries {
		if e.governs() {
			governing = append(governing, e)
		} else {
			others = append(others, e)
		}
	}
	slices.SortFunc(governing, compareEntries)
	auth := newAuthority(c.parser.present().Genesis, c.set.governing)
	for progress := true; progress; {
		before := len(governing)
		governing = c.replaySome(auth, governing)
		progress = len(governing) < before
		auth = newAuthority(auth.genesis, c.set.governing)
	}
	return append(governing, c.replaySome(auth, others)...)
}

// leave has records of the log wait that may be admitted later, and returns those that never are.
func (c *Core) leave(now time.Time, rest []*entry) (opaque [][]byte) {
	for _, e := range rest {
		if err := admits(c.fold.auth, e); err != nil && err.Rule == RuleAuthor {
			c.pending.add(&waiting{entry: e, since: now, stored: true, author: true})
		} else {
			opaque = append(opaque, e.raw)
		}
	}
	return opaque
}

// replaySome adds the entries that auth admits and returns the others.
func (c *Core) replaySome(auth *authority, entries []*entry) (rest []*entry) {
	verdicts := make([]*RefusedError, len(entries))
	parallel(len(entries), func(i int) { verdicts[i] = admits(auth, entries[i]) })
	var admitted []*entry
	for i, e := range entries {
		if verdicts[i] != nil {
			rest = append(rest, e)
			continue
		}
		admitted = append(admitted, e)
		c.clock.observe(e.rec.HLC)
	}
	c.set.add(admitted...)
	return rest
}
