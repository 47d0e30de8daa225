package survive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// Rots is the outcome of a campaign of flipped bits.
type Rots struct {
	Flips   int
	Served  int // of them, those after which something wrong was shown or read
	Crashes int // of them, those after which the state or the store did not open, or panicked
	Missed  int // of them, those that nothing noticed
	Why     []string
}

// Rot flips one bit at every 64th byte of each file of a node's state and bundles, one at a time, opens both
// and reads everything: what is shown must be a part of what was written, and what is read whole.
func (w *World) Rot(ctx context.Context) (Rots, error) {
	var sum Rots
	disk := simdisk.New()
	blobs, err := w.fill(ctx, disk)
	if err != nil {
		return sum, err
	}
	for _, name := range disk.Files() {
		if strings.HasSuffix(name, ".bad") {
			continue // what a person may look at
		}
		content := disk.Get(name)
		for at := 0; at < len(content); at += 64 {
			if ctx.Err() != nil {
				return sum, ctx.Err()
			}
			bad := simdisk.New()
			for _, other := range disk.Files() {
				bad.Put(other, disk.Get(other))
			}
			bad.Flip(name, 8*at+at/64%8)
			sum.Flips++
			w.look(bad, blobs, fmt.Sprintf("%s, byte %d", name, at), &sum)
		}
	}
	return sum, nil
}

// fill makes a node with functions, both in the snapshot and in the log, and returns their bundles.
func (w *World) fill(ctx context.Context, disk *simdisk.Disk) (blobs map[string][]byte, err error) {
	g, s, err := w.open(disk)
	if err != nil {
		return nil, err
	}
	blobs = map[string][]byte{}
	hlc := record.HLCAt(w.began)
	for i := range 6 {
		name := fmt.Sprintf("f%d", i)
		blob := bytes.Repeat([]byte(name+" "), 1500+500*i)
		d := digest.Sum(blob)
		if err := s.Put(ctx, d, int64(len(blob)), bytes.NewReader(blob)); err != nil {
			return nil, err
		}
		m := bundle.DefaultManifest()
		m.Name, m.Wasm = name, name+".wasm"
		_, rev, err := record.Sign(w.operator, w.cluster, 1, hlc+1, nil, &record.Revision{Manifest: m, Bundle: d, Size: perigee.Bytes(len(blob))})
		if err != nil {
			return nil, err
		}
		_, ptr, err := record.Sign(w.operator, w.cluster, 1, hlc+2, nil, &record.Pointer{Function: name, Revision: record.ID(rev)})
		if err != nil {
			return nil, err
		}
		hlc += 2
		if _, err := g.Submit(ctx, rev, ptr); err != nil {
			return nil, err
		}
		blobs[name] = blob
		if i == 2 { // all so far goes into the snapshot: a damaged file is folded at the start
			disk.Flip(path.Join(stateDir, "state.log"), 0)
			if g, s, err = w.open(disk); err != nil {
				return nil, err
			}
		}
	}
	return blobs, nil
}

// look opens a node's state and bundles and compares all that they show with what was written.
func (w *World) look(disk *simdisk.Disk, blobs map[string][]byte, what string, sum *Rots) {
	note := func(count *int, format string, args ...any) {
		*count++
		if len(sum.Why) < 10 {
			sum.Why = append(sum.Why, what+": "+fmt.Sprintf(format, args...))
		}
	}
	defer func() {
		if r := recover(); r != nil {
			note(&sum.Crashes, "panic: %v", r)
		}
	}()
	for _, sub := range []string{"tmp", "corrupt"} {
		_ = disk.MkdirAll(path.Join(bundleDir, sub)) // an empty directory is no file, and was not copied
	}
	before := disk.Steps()
	g, s, err := w.open(disk)
	if err != nil {
		note(&sum.Crashes, "%v", err)
		return
	}
	noticed := disk.Steps() > before // the state was written anew
	for name, fn := range g.View().Desired.Functions {
		blob := blobs[name]
		if blob == nil || fn.Live.Bundle != digest.Sum(blob) || int(fn.Live.Size) != len(blob) || fn.Live.Manifest.Wasm != name+".wasm" {
			note(&sum.Served, "function %s is not as it was deployed", name)
		}
	}
	list, err := s.List()
	if err != nil {
		note(&sum.Crashes, "%v", err)
		return
	}
	for _, d := range list {
		r, _, err := s.Open(d)
		if err != nil {
			noticed = true
			continue
		}
		got, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			noticed = true
		} else if !slices.ContainsFunc([]string{"f0", "f1", "f2", "f3", "f4", "f5"}, func(name string) bool { return bytes.Equal(got, blobs[name]) }) {
			note(&sum.Served, "bundle %s has other bytes", d)
		}
	}
	if !noticed {
		note(&sum.Missed, "not noticed")
	}
}
