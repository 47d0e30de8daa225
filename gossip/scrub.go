package gossip

import (
	"fmt"

	"github.com/perigee-edge/perigee/internal/vfs"
)

// Scrub reads the state back from the disk and, where it is not as it was written, writes it anew from
// memory, which has all of it. It reports whether there was damage. Submissions wait meanwhile.
func (g *Gossip) Scrub() (damaged bool, err error) {
	g.disk.commitMu.Lock()
	defer g.disk.commitMu.Unlock()
	if damaged, err = g.log.rotten(); err != nil {
		return damaged, fmt.Errorf("scrub the state: %w", err)
	}
	if damaged {
		g.log.dirty = true
	}
	if err := g.log.repair(); err != nil {
		return damaged, fmt.Errorf("scrub the state: %w", err)
	}
	return damaged, nil
}

// rotten reports whether the files differ from what was written to them.
func (l *log) rotten() (bool, error) {
	snap, err := readWhole(l.fs, l.snapPath())
	if err != nil && !vfs.NotExist(err) {
		return false, err
	}
	b, err := readWhole(l.fs, l.path())
	if err != nil && !vfs.NotExist(err) {
		return false, err
	}
	_, _, d := scanLog(b)
	return !l.sealed(snap) || !l.dirty && (d.any() || int64(len(b)) != l.size), nil
}
