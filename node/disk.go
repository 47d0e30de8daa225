package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/vfs"
)

const (
	diskEvery      = time.Second      // between two looks at the disk
	diskProbe      = 64 << 10         // bytes that fit again, before a disk that refused some counts as usable
	defaultReserve = 64 * perigee.MiB // see Config.DiskReserve
	bigTime        = 10 * time.Minute // that a node counts as full for a bundle that does not fit
	diskProbeFile  = ".room"          // written and removed to see whether there is room
	diskRemedy     = "make room there (`perigee rm` of what is not needed, old files, a larger disk); it takes new ones again by itself"
)

// errNoRoom is returned for a bundle that this node has no room for.
var errNoRoom = errors.New("no room on the disk")

// disk is what this node knows of the room on its disk. A node is full when less than the reserve is free,
// when a bundle that was to come lately did not fit, or when a write found no room, whatever the system
// says is free: files may be used up, or a quota. Then
// it serves what it has and takes no new bundle; the reserve is for the cluster's records, which are small
// and by which people make room. It looks again each second, and recovers by itself.
type disk struct {
	dir     Dir
	reserve perigee.Bytes
	log     *slog.Logger
	told    func(full bool) // called after a change

	refused atomic.Bool   // a write found no room since the last look
	poke    chan struct{} // room for one: look at once

	mu   sync.Mutex // guards what follows
	fs   vfs.FS
	free perigee.Bytes
	why  string        // it is full; "" = it is not
	bad  error         // of the last look; nil = it could be looked at
	big  perigee.Bytes // a bundle that did not fit
	came time.Time     // when it was to come
}

func newDisk(fsys vfs.FS, dir Dir, reserve perigee.Bytes, log *slog.Logger) *disk {
	return &disk{dir: dir, reserve: reserve, log: log, fs: fsys, told: func(bool) {}, poke: make(chan struct{}, 1)}
}

// note hears of a write that found no room.
func (d *disk) note(error) {
	d.refused.Store(true)
	d.wake()
}

func (d *disk) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// run looks at the disk until ctx ends.
func (d *disk) run(ctx context.Context) error {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-d.poke:
		}
		d.look()
	}
}

// look finds out whether the disk is full, and tells when that changed.
func (d *disk) look() {
	d.mu.Lock()
	free, err := d.fs.Free(string(d.dir))
	was := d.why
	d.free, d.bad = perigee.Bytes(free), err
	d.why = d.reason(was != "")
	why := d.why
	d.mu.Unlock()
	if (why == "") == (was == "") {
		return
	}
	if why != "" {
		d.log.Error("disk full: this node serves what it has, and takes no new bundles", "dir", string(d.dir), "err", why)
	} else {
		d.log.Info("disk has room again", "dir", string(d.dir), "free", perigee.Bytes(free).String())
	}
	d.told(why != "")
}

// reason says why the disk is full. One that was needs an eighth more than the reserve, so that it does
// not change its mind all the time; mu is held.
func (d *disk) reason(was bool) string {
	least := d.reserve
	if was {
		least += d.reserve / 8
	}
	if d.bad == nil && d.free < least {
		return fmt.Sprintf("%s free where data_dir is, and the last %s are for the cluster's records (disk_reserve)", d.free, d.reserve)
	}
	if d.bad == nil && d.big > 0 && time.Since(d.came) < bigTime && d.free < d.reserve+d.big {
		return fmt.Sprintf("%s free where data_dir is: a bundle of %s does not fit beside the %s for the cluster's records (disk_reserve)", d.free, d.big, d.reserve)
	}
	d.big = 0
	if d.refused.Load() {
		if err := d.probe(); err != nil {
			return fmt.Sprintf("a write found no room where data_dir is, though %s are free: %v", d.free, err)
		}
		d.refused.Store(false)
	}
	return ""
}

// probe writes a little and takes it away again.
func (d *disk) probe() error {
	name := d.dir.path(diskProbeFile)
	f, err := d.fs.Create(name)
	if err == nil {
		_, err = f.Write(make([]byte, diskProbe))
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close(), d.fs.Remove(name))
	}
	return err
}

// room returns an error, which says what to do, unless a new bundle of this size has its place.
func (d *disk) room(size perigee.Bytes) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.why != "":
		return fmt.Errorf("%w: %s: %s", errNoRoom, d.why, diskRemedy)
	case d.bad == nil && d.free < size+d.reserve:
		d.big, d.came = max(d.big, size), time.Now()
		d.wake()
		return fmt.Errorf("%w: the bundle has %s, %s are free where data_dir is, and the last %s are for the cluster's records (disk_reserve): %s", errNoRoom, size, d.free, d.reserve, diskRemedy)
	}
	return nil
}

// trouble says what an operator should know of the disk; "" = nothing.
func (d *disk) trouble() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.why != "":
		return "full: " + d.why + "; the node serves what it has, and takes no new bundles: " + diskRemedy
	case d.bad != nil:
		return "not known: " + d.bad.Error()
	}
	return ""
}

// state returns what metrics show: the bytes that are free, and whether the disk is full.
func (d *disk) state() (free float64, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return float64(d.free), d.why != ""
}
