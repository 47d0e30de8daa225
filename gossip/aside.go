package gossip

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs"
)

// A record is read by every node, so one that breaks its reader would break them all. It is tried where it
// comes in first: folded, and read as the node reads it (Config.Read), before anybody else hears of it. One
// that makes the reader panic is set aside: out of the set, so that it is passed on to nobody, and kept in
// the log and, for a person to look at, in aside/. One that ends the process is told by what the file
// reading.json says at the next start, see reading.

// Aside is a record that is kept without being read.
type Aside struct {
	Record perigee.Digest `json:"record"`
	Why    string         `json:"why"`

	raw []byte
}

// add puts entries into the set and folds it. Those that break the reader are found by halves and set aside; the
// others are returned.
func (c *Core) add(entries []*entry) (good []*entry) {
	if len(entries) == 0 {
		return nil
	}
	why := c.tryAdd(entries)
	switch {
	case why == nil:
		for _, e := range entries {
			c.clock.observe(e.rec.HLC)
		}
		c.welcome(entries)
		return entries
	case len(entries) == 1:
		c.setAside(entries[0].id, entries[0].raw, fmt.Sprint(why))
		return nil
	}
	half := len(entries) / 2
	return slices.Concat(c.add(entries[:half]), c.add(entries[half:]))
}

// tryAdd does so with all or none, and returns what a reader panicked with.
func (c *Core) tryAdd(entries []*entry) (why any) {
	fold := c.fold
	defer func() {
		if why = recover(); why != nil {
			c.set, c.fold = c.set.without(entries), fold
		}
	}()
	c.set.add(entries...)
	c.refold(entries)
	return nil
}

func (c *Core) setAside(id perigee.Digest, raw []byte, why string) {
	if len(c.aside) >= maxRemembered {
		return // it is asked for again, and tried again
	}
	a := Aside{id, why, raw}
	c.aside[id] = a
	c.out.Aside = append(c.out.Aside, a)
}

// settled reports whether a record that is not in the set need not be fetched.
func (c *Core) settled(id perigee.Digest) bool {
	_, aside := c.aside[id]
	return aside || c.outlived[id] || c.pending.has(id)
}

// asideErr refuses what is set aside; nil = it is not.
func (c *Core) asideErr(id perigee.Digest) *RefusedError {
	a, ok := c.aside[id]
	if !ok {
		return nil
	}
	return refuse(RuleShape, "reading the record breaks this release, so %s keeps it without effect and passes it on to nobody: sign another, and report this (%s)", c.self, a.Why).of(id)
}

// admits is authority.admits, for records that may break it.
func admits(auth *authority, e *entry) (err *RefusedError) {
	defer func() {
		if r := recover(); r != nil {
			err = refuse(RuleShape, "reading the record broke the reader: %v", r).of(e.id)
		}
	}()
	return auth.admits(e)
}

// without returns a set without some entries.
func (s *set) without(bad []*entry) *set {
	var rest []*entry
	for _, e := range s.byID {
		if !slices.Contains(bad, e) {
			rest = append(rest, e)
		}
	}
	slices.SortFunc(rest, compareEntries)
	out := newSet()
	out.history = s.history
	out.add(rest...)
	return out
}

// Asides returns the records that are set aside, sorted.
func (g *Gossip) Asides() []Aside {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Values(g.core.aside), func(a, b Aside) int { return compareDigests(a.Record, b.Record) })
}

const (
	asideDir     = "aside"
	readingName  = "reading.json"
	readingMax   = 1 << 20
	readerDeaths = 2 // deaths while one record was read, after which it is not read any more
)

// reading is what the process is about to read, on disk while it does, so that the next one knows what it may
// have died of. It is not synced: what it guards against is the death of a process. Batches that were being
// read at a death are read last by the next start, one by one, and a record that is there at a second
// death is skipped from then on, by this release. The end of a machine is nobody's doing, and does not count.
type reading struct {
	Records []string       `json:"records,omitempty"` // being read
	Deaths  map[string]int `json:"deaths,omitempty"`  // with them
	Release string         `json:"release"`           // that died
	Boot    string         `json:"boot"`              // of the machine; "" = not known: nothing is noted

	fs   vfs.FS
	name string
}

// openReading reads what the last process left, and counts its death.
func openReading(fsys vfs.FS, dir, release, boot string) *reading {
	r := &reading{}
	name := filepath.Join(dir, readingName)
	b, err := vfs.ReadFile(fsys, name, readingMax)
	if err != nil || json.Unmarshal(b, r) != nil || r.Release != release {
		*r = reading{Release: release}
	}
	r.fs, r.name = fsys, name
	if r.Deaths == nil {
		r.Deaths = map[string]int{}
	}
	if r.Boot == boot {
		for _, id := range r.Records {
			r.Deaths[id]++
		}
	} else {
		maps.DeleteFunc(r.Deaths, func(_ string, n int) bool { return n < readerDeaths })
	}
	r.Records, r.Boot = nil, boot
	if len(r.Deaths) > 0 {
		r.save()
	}
	return r
}

// suspect reports whether the process died with a record; skip, that it is not to be read again.
func (r *reading) suspect(id perigee.Digest) (suspect, skip bool) {
	n := r.Deaths[hex.EncodeToString(id[:])]
	return n > 0, n >= readerDeaths
}

// hold takes the suspects out of what the log has.
func (r *reading) hold(raws [][]byte) (rest, held [][]byte) {
	if len(r.Deaths) == 0 {
		return raws, nil
	}
	for _, raw := range raws {
		if suspect, _ := r.suspect(record.ID(raw)); suspect {
			held = append(held, raw)
		} else {
			rest = append(rest, raw)
		}
	}
	return rest, held
}

// begin notes what is about to be read. What can't be noted is read all the same.
func (r *reading) begin(raws [][]byte) {
	if r.Boot == "" {
		return
	}
	r.Records = r.Records[:0]
	for _, raw := range raws {
		id := record.ID(raw)
		r.Records = append(r.Records, hex.EncodeToString(id[:]))
	}
	r.save()
}

// end notes that the process lives. A record that was read alone is cleared of its death.
func (r *reading) end() {
	if r.Boot == "" {
		return
	}
	if len(r.Records) == 1 {
		delete(r.Deaths, r.Records[0])
	}
	r.Records = nil
	if len(r.Deaths) == 0 {
		_ = r.fs.Remove(r.name)
		return
	}
	r.save()
}

func (r *reading) save() {
	b, err := json.Marshal(r)
	if err != nil {
		return // texts and numbers: can't fail
	}
	if f, err := r.fs.Create(r.name); err == nil {
		_, _ = f.Write(b)
		_ = f.Close()
	}
}

// readSuspects reads what the last process may have died of, one by one.
func (g *Gossip) readSuspects(raws [][]byte) {
	for _, raw := range raws {
		id := record.ID(raw)
		if _, skip := g.disk.reading.suspect(id); skip {
			g.core.setAside(id, raw, fmt.Sprintf("the node died %d times while it read it", readerDeaths))
			continue
		}
		g.disk.reading.begin([][]byte{raw})
		g.opaque = append(g.opaque, g.core.read(raw)...)
		g.disk.reading.end()
	}
}

// keepAside tells of a record that was set aside, and keeps it for a person to look at.
func (g *Gossip) keepAside(a Aside) {
	g.metrics.Aside.Inc()
	dir := filepath.Join(g.conf.Dir, asideDir)
	name := filepath.Join(dir, hex.EncodeToString(a.Record[:])+".rec")
	err := g.conf.FS.MkdirAll(dir)
	if err == nil {
		err = vfs.Replace(g.conf.FS, name, a.raw)
	}
	g.logger.Error("record set aside: reading it breaks this release, and it is passed on to nobody", "digest", a.Record, "file", name, "why", a.Why, "err", err)
}
