package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// load opens the log and brings the set to where it was. One bad record never keeps a node from
// starting: what can't be used is reported, kept in the file, and fetched from peers if they have it.
func (a *admitter) load(fsys vfs.FS, dir string, logger *slog.Logger) error {
	l, raws, found, err := openLog(fsys, dir, a.kept)
	if err != nil {
		return err
	}
	a.log = l
	if found.found() {
		a.metrics.Damage.Add(float64(found.Bytes + found.Torn))
		logger.Warn("state log was damaged", "stretches", found.Skipped, "bytes", found.Bytes, "torn", found.Torn, "kept_in", badName)
	}
	if found.Quarantine != nil {
		logger.Warn("bytes of the state log not kept", "err", found.Quarantine)
	}
	entries, err := a.readAll(raws)
	if err != nil {
		return fmt.Errorf("open state in %s: %w", dir, err)
	}
	a.replay(entries)
	if n := len(a.opaque) + a.pending.len(); n > 0 {
		logger.Warn("records of the state log without effect", "unreadable", len(a.opaque), "without_author", a.pending.len())
	}
	if err := a.settle(raws); err != nil {
		logger.Warn("state log not writable", "err", err)
	}
	a.foldLocked(nil)
	return nil
}

// readAll parses the records of the log. Those that this release can't read stay in the file.
func (a *admitter) readAll(raws [][]byte) ([]*entry, error) {
	parsed := make([]*entry, len(raws))
	parallel(len(raws), func(i int) { parsed[i], _ = a.parser.parse(raws[i]) })
	var entries []*entry
	for i, e := range parsed {
		switch {
		case e != nil:
			entries = append(entries, e)
		case a.foreign(raws[i]):
			return nil, ErrForeign
		default:
			a.opaque = append(a.opaque, raws[i])
		}
	}
	return entries, nil
}

// foreign reports whether the record is the genesis of another cluster.
func (a *admitter) foreign(raw []byte) bool {
	rec, err := record.Decode(raw)
	return err == nil && rec.Kind == record.KindGenesis && !bytes.Equal(raw, a.genesis.raw)
}

// replay verifies the records of the log and puts them into the set: those that govern first, until
// no more of them are admitted, then all others.
func (a *admitter) replay(entries []*entry) {
	a.set.add(a.genesis)
	var governing, others []*entry
	for _, e := range entries {
		if e.governs() {
			governing = append(governing, e)
		} else {
			others = append(others, e)
		}
	}
	slices.SortFunc(governing, compareEntries)
	auth := newAuthority(a.genesis.body.(*record.Genesis), a.set.governing)
	for progress := true; progress; {
		before := len(governing)
		governing = a.replaySome(auth, governing)
		progress = len(governing) < before
		auth = newAuthority(auth.genesis, a.set.governing)
	}
	rest := append(governing, a.replaySome(auth, others)...)
	for _, e := range rest {
		if err := auth.admits(e); err.Rule == RuleAuthor {
			a.pending.add(&waiting{entry: e, since: time.Now(), stored: true, author: true})
		} else {
			a.opaque = append(a.opaque, e.raw)
		}
	}
}

// replaySome adds the entries that auth admits and returns the others.
func (a *admitter) replaySome(auth *authority, entries []*entry) (rest []*entry) {
	verdicts := make([]*RefusedError, len(entries))
	parallel(len(entries), func(i int) { verdicts[i] = auth.admits(entries[i]) })
	var admitted []*entry
	for i, e := range entries {
		if verdicts[i] != nil {
			rest = append(rest, e)
			continue
		}
		admitted = append(admitted, e)
		a.clock.observe(e.rec.HLC)
	}
	a.set.add(admitted...)
	return rest
}

// settle writes a new file where there is none or it is damaged.
func (a *admitter) settle(raws [][]byte) error {
	if !slices.ContainsFunc(raws, func(raw []byte) bool { return bytes.Equal(raw, a.genesis.raw) }) {
		a.log.dirty = true
	}
	return a.log.repair()
}
