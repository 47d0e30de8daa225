package gossip

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// disk carries out what the core wants stored: records go to the log, and what the core makes of
// them follows before the next ones are written. Batches that come together share one sync.
type disk struct {
	log     *log
	reading *reading
	metrics *Metrics
	opaque  [][]byte // entries of the log that this release can't read; kept for one that can

	queueMu sync.Mutex // guards queue
	queue   []*commit

	commitMu sync.Mutex // held by the one caller that writes for all; guards log
}

// commit is a batch on its way to the disk.
type commit struct {
	Batch
	done bool
	out  Effects // of the step that followed
}

// store writes batches. step is called for each, in order, before anything else is written: a log
// that is written anew is made from what the core holds. It returns the effects of those steps.
func (d *disk) store(batches []Batch, step func(Event) Effects) (out []Effects) {
	var mine []*commit
	d.queueMu.Lock()
	for _, b := range batches {
		mine = append(mine, &commit{Batch: b})
	}
	d.queue = append(d.queue, mine...)
	d.queueMu.Unlock()

	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	for _, c := range mine {
		if !c.done { // else the caller before wrote this one too
			d.queueMu.Lock()
			all := d.queue
			d.queue = nil
			d.queueMu.Unlock()
			d.writeLocked(all, step)
		}
		out = append(out, c.out)
	}
	return out
}

func (d *disk) writeLocked(all []*commit, step func(Event) Effects) {
	var raws [][]byte
	for _, c := range all {
		raws = append(raws, c.Raws...)
	}
	start := time.Now()
	err := d.log.append(raws)
	if err != nil {
		d.metrics.AppendFails.Inc()
	} else {
		d.metrics.Append.Observe(time.Since(start).Seconds())
	}
	if err == nil && len(raws) > 0 {
		d.reading.begin(raws)
		defer d.reading.end()
	}
	for _, c := range all {
		c.done, c.out = true, step(Stored{c.Number, err})
		d.log.idle += c.out.Counts.OutlivedBytes
	}
	if err := d.log.foldIfLong(); err != nil { // what was appended is on disk all the same
		d.metrics.AppendFails.Inc()
	}
}

// kept returns the records of the set, all of which were verified.
func (c *Core) kept() [][]byte {
	raws := make([][]byte, 0, len(c.set.byID))
	// Governing records first, so that a reader knows authors before their work.
	for _, e := range c.set.governing {
		raws = append(raws, e.raw)
	}
	for _, e := range slices.SortedFunc(maps.Values(c.set.byID), compareEntries) {
		if !e.governs() {
			raws = append(raws, e.raw)
		}
	}
	return raws
}

// waitingLogged returns the records of the log that have no effect yet.
func (c *Core) waitingLogged() [][]byte {
	raws := c.pending.stored()
	for _, a := range c.aside {
		raws = append(raws, a.raw)
	}
	for _, b := range c.batches {
		if b.source.logged {
			for _, e := range b.entries {
				raws = append(raws, e.raw)
			}
		}
	}
	return raws
}
