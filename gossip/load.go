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
	if g.opaque, err = g.core.Load(time.Now(), f.sealed, f.records); err != nil {
		return fmt.Errorf("open state in %s: %w", dir, err)
	}
	if n := len(g.opaque) + g.core.pending.len(); n > 0 {
		logger.Warn("records of the state log without effect", "unreadable", len(g.opaque), "without_author", g.core.pending.len())
	}
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
	opaque = append(opaque, c.replay(now, entries)...)
	c.refold(nil)
	return opaque, nil
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
	return err == nil && rec.Kind == record.KindGenesis && !bytes.Equal(raw, c.genesis.raw)
}

// replay verifies the records of the log and puts them into the set: those that govern first, until
// no more of them are admitted, then all others.
func (c *Core) replay(now time.Time, entries []*entry) (opaque [][]byte) {
	c.set.add(c.genesis)
	var governing, others []*entry
	for _, e := range entries {
		if e.governs() {
			governing = append(governing, e)
		} else {
			others = append(others, e)
		}
	}
	slices.SortFunc(governing, compareEntries)
	auth := newAuthority(c.genesis.body.(*record.Genesis), c.set.governing)
	for progress := true; progress; {
		before := len(governing)
		governing = c.replaySome(auth, governing)
		progress = len(governing) < before
		auth = newAuthority(auth.genesis, c.set.governing)
	}
	rest := append(governing, c.replaySome(auth, others)...)
	for _, e := range rest {
		if err := auth.admits(e); err.Rule == RuleAuthor {
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
	parallel(len(entries), func(i int) { verdicts[i] = auth.admits(entries[i]) })
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
