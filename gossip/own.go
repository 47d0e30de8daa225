package gossip

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/identity"
	"github.com/perigee-edge/perigee/internal/record"
)

// How often this node says something about itself. A change that routing depends on goes out at
// once and to everybody; others are sampled and told to the region; and an unchanged row is numbered
// anew now and then, so that nodes which compare see that this one lives.
const (
	loudSpacing  = 50 * time.Millisecond
	quietSpacing = 500 * time.Millisecond
	quietRows    = 20 // a second of a whole region, at most
	baseBeat     = 5 * time.Second
	beatEach     = 3 * time.Second // of all nodes together, one row in this time
)

// beat is the time between repetitions of an unchanged row. It grows with the cluster, so that the
// rows of all nodes together stay cheap to read.
func beat(nodes int) time.Duration { return max(baseBeat, beatEach*time.Duration(nodes)) }

// quiet is the time between changes that only the region hears of at once.
func quiet(near int) time.Duration {
	return max(quietSpacing, time.Second*time.Duration(near)/quietRows)
}

// ownRow is what this node says about itself.
type ownRow struct {
	node *identity.Node

	mu     sync.Mutex // guards the fields below
	row    perigee.Row
	loud   bool // a change waits that routing depends on
	quiet  bool // another change waits
	left   bool
	signed time.Time // the last signature
	poke   chan struct{}
}

// set applies a change of the owner. The fields that gossip fills are put back.
func (o *ownRow) set(change func(*perigee.Row)) (changed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	row := o.row
	row.Revisions, row.Trials = maps.Clone(row.Revisions), maps.Clone(row.Trials)
	change(&row)
	row.Revisions, row.Trials = maps.Clone(row.Revisions), maps.Clone(row.Trials) // the caller may keep its own
	row.Node, row.Incarnation, row.Seq, row.Digest, row.Sealing, row.ClockOff = o.row.Node, o.row.Incarnation, o.row.Seq, o.row.Digest, o.row.Sealing, o.row.ClockOff
	loud := row.Addr != o.row.Addr || row.HTTPS != o.row.HTTPS || row.Version != o.row.Version ||
		row.Draining != o.row.Draining || row.Full != o.row.Full || !maps.Equal(row.Revisions, o.row.Revisions) || !maps.Equal(row.Trials, o.row.Trials) ||
		!maps.EqualFunc(row.Optional, o.row.Optional, sameHolders)
	quiet := row.Load != o.row.Load || row.Memory != o.row.Memory || !maps.Equal(row.Near, o.row.Near) || !maps.Equal(row.Traffic, o.row.Traffic) || !maps.EqualFunc(row.Optional, o.row.Optional, slices.Equal)
	if !loud && !quiet {
		return false
	}
	o.row = row
	o.loud, o.quiet = o.loud || loud, o.quiet || quiet
	o.wakeLocked()
	return true
}

// sameHolders reports whether two lists name the same nodes, whatever they gain.
func sameHolders(a, b []perigee.Optional) bool {
	return slices.EqualFunc(a, b, func(a, b perigee.Optional) bool { return a.Node == b.Node })
}

// setDigest notes the digest of the state.
func (o *ownRow) setDigest(d perigee.Digest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.row.Digest != d {
		o.row.Digest, o.quiet = d, true
		o.wakeLocked()
	}
}

// setClockOff notes how far this node's clock is behind its peers'.
func (o *ownRow) setClockOff(off time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := perigee.Offset(off.Round(100 * time.Millisecond)); o.row.ClockOff != d {
		o.row.ClockOff, o.quiet = d, true
		o.wakeLocked()
	}
}

// outrun makes later rows newer than one that this node sent in a former life, whose clock was ahead.
func (o *ownRow) outrun(m mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.newer(markOf(&o.row)) {
		o.row.Incarnation, o.row.Seq, o.loud = m.Incarnation+1, 0, true
		o.wakeLocked()
	}
}

// leave makes the next row the last.
func (o *ownRow) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.left, o.row.Draining = true, true
}

func (o *ownRow) wakeLocked() {
	select {
	case o.poke <- struct{}{}:
	default:
	}
}

// due returns how long to wait until the row shall be signed again.
func (o *ownRow) due(now time.Time, near, nodes int) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	spacing := beat(nodes)
	switch {
	case o.loud:
		spacing = loudSpacing
	case o.quiet:
		spacing = quiet(near)
	}
	return o.signed.Add(spacing).Sub(now)
}

// sign numbers and signs the row as it is now, and says how far it goes.
func (o *ownRow) sign(now time.Time) (raw []byte, row perigee.Row, reach Reach, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	row = o.row
	row.Seq++
	if o.left {
		row.Seq = lastWord
	}
	switch {
	case o.loud || o.left || o.signed.IsZero():
		reach = ReachAll
	case o.quiet:
		reach = ReachNear
	}
	o.loud, o.quiet, o.signed = false, false, now
	raw, err = record.SignRow(o.node.Key(), o.node.Chain(), row)
	if err != nil {
		return nil, row, reach, err
	}
	o.row = row
	return raw, row, reach, nil
}

func (o *ownRow) get() perigee.Row {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.row
}

func (o *ownRow) hasLeft() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.left
}
