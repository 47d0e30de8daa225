package simdisk

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// sector is what a disk writes whole or not at all.
const sector = 512

// Crash returns the disk as the next start finds it, by chance within what a real one may leave:
//
//   - of the changes of names in a directory that were not synced, the first ones happened; a rename between
//     two directories happened in both or in none;
//   - of the writes to a file that were not synced, each sector is there or not; one that is not reads as it
//     was before, or as zeros where nothing was; the length is the old one, the new one, or one between.
func (d *Disk) Crash(rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := New()
	names := maps.Clone(d.durable)
	stopped := map[string]bool{}
	for _, o := range d.ops {
		happened := rng.IntN(3) > 0
		for _, name := range o.names {
			happened = happened && !stopped[filepath.Dir(name)]
		}
		if happened {
			o.apply(names)
			continue
		}
		for _, name := range o.names {
			stopped[filepath.Dir(name)] = true
		}
	}
	kept := map[*inode]*inode{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n := names[name]
		if p := after.names[filepath.Dir(name)]; p == nil || !p.dir {
			continue // its directory never reached the disk
		}
		if kept[n] == nil {
			data := n.crash(rng)
			kept[n] = &inode{dir: n.dir, data: data, keep: len(data)}
		}
		after.names[name], after.durable[name] = kept[n], kept[n]
	}
	return after
}

// crash returns what a file has after the power failed.
func (n *inode) crash(rng *rand.Rand) []byte {
	old := append(slices.Clone(n.data[:n.keep]), n.lost...)
	if n.keep == len(n.data) && len(n.lost) == 0 {
		return old
	}
	size := len(old)
	switch short, long := min(len(old), len(n.data)), max(len(old), len(n.data)); rng.IntN(3) {
	case 0:
		size = len(n.data)
	case 1:
		size = short + rng.IntN(long-short+1)
	}
	out := make([]byte, size)
	copy(out, old)
	all := rng.IntN(2) == 0
	for at := n.keep / sector * sector; at < size; at += sector {
		if end := min(at+sector, size, len(n.data)); at < end && (all || rng.IntN(2) == 0) {
			copy(out[max(at, n.keep):], n.data[max(at, n.keep):max(end, n.keep)])
		}
	}
	return out
}
