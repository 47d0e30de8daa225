package survive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"syscall"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/record"
	"github.com/perigee-edge/perigee/internal/vfs/simdisk"
)

// cutsInARow is how often the power of one node fails, so that recoveries are cut, too.
const cutsInARow = 4

// Cuts is the outcome of a campaign of power cuts.
type Cuts struct {
	Cuts  int // power cuts
	Acked int // writes that were acknowledged before them
	Lost  int // of them, those that were not there afterwards; a node that does not start lost one
	Why   []string
}

// PowerCuts runs nodes whose power fails, until it has failed n times. Each does what a node does with its
// disk: it records regions, deploys and removals, stores bundles and deletes those that were replaced, is killed and
// starts again, and now and then its disk is full or fails for a moment.
func (w *World) PowerCuts(ctx context.Context, seed uint64, n int) (Cuts, error) {
	var sum Cuts
	for i := uint64(0); sum.Cuts < n; i++ {
		t := &trial{world: w, ctx: ctx, rng: rand.New(rand.NewPCG(seed, i)), disk: simdisk.New(), sum: &sum,
			regions: map[perigee.Region]belief[float64]{}, functions: map[string]belief[deployed]{}, now: record.HLCAt(w.began)}
		for range cutsInARow {
			if err := t.run(); err != nil {
				return sum, fmt.Errorf("seed %d, node %d: %w", seed, i, err)
			}
			if ctx.Err() != nil {
				return sum, ctx.Err()
			}
		}
	}
	return sum, nil
}

// trial is one node and what it acknowledged. A write that was under way when the power failed, or that the
// disk refused, may be there or not: it is listed after what was acknowledged.
type trial struct {
	world  *World
	ctx    context.Context
	rng    *rand.Rand
	disk   *simdisk.Disk
	now    record.HLC
	sum    *Cuts
	gossip *gossip.Gossip
	store  *bundle.Store

	regions   map[perigee.Region]belief[float64] // their latitudes
	functions map[string]belief[deployed]
}

// belief is what may be found under a name.
type belief[T any] struct {
	may   []T
	acked bool // else nothing may be found, too
}

func (b belief[T]) or(x T) belief[T] { return belief[T]{append(slices.Clone(b.may), x), b.acked} }
func sure[T any](x T) belief[T]      { return belief[T]{[]T{x}, true} }

// deployed is a revision that is live; zero = the function is removed.
type deployed struct {
	record, bundle perigee.Digest
	size           int
}

// run works until the power fails, and looks at what is left.
func (t *trial) run() error {
	t.disk.CutAt = t.disk.Steps() + 1 + t.rng.IntN(150)
	err := t.start()
	for err == nil {
		err = t.step()
	}
	if !errors.Is(err, simdisk.ErrPower) {
		return err
	}
	t.sum.Cuts++
	t.sum.Acked += len(t.regions) + 2*len(t.functions) // a deploy is records and a bundle
	t.disk = t.disk.Crash(t.rng)
	return t.check()
}

func (t *trial) start() (err error) {
	t.gossip, t.store, err = t.world.open(t.disk)
	return err
}

// step does one thing. Trouble of the disk is no error, as long as there is power.
func (t *trial) step() error {
	trouble := t.rng.IntN(8)
	switch trouble {
	case 0: // nearly full
		free := int64(t.rng.IntN(3000))
		used := int64(0)
		for _, name := range t.disk.Files() {
			used += int64(len(t.disk.Get(name)))
		}
		t.disk.SetRoom(used + free + 1)
	case 1:
		at := t.rng.IntN(12)
		t.disk.SetFail(func(op, _ string) error {
			if op == "open" || op == "read" || op == "readdir" { // that would be rot
				return nil
			}
			if at--; at == 0 {
				return syscall.EIO
			}
			return nil
		})
	}
	err := t.act()
	t.disk.SetRoom(0)
	t.disk.SetFail(nil)
	if trouble < 2 && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO)) && !errors.Is(err, simdisk.ErrPower) {
		return nil
	}
	return err
}

func (t *trial) act() error {
	switch name := fmt.Sprintf("f%d", t.rng.IntN(4)); t.rng.IntN(11) {
	case 0, 1, 2, 3:
		return t.addRegion(perigee.Region(fmt.Sprintf("r%d", t.rng.IntN(6))))
	case 4, 5, 6:
		return t.deploy(name)
	case 7:
		return t.collect()
	case 8:
		return t.remove(name)
	case 9: // killed: what was written is in the system's memory
		return t.start()
	default: // what rested on the disk is read again
		return t.scrub()
	}
}

func (t *trial) sign(parents []perigee.Digest, p record.Payload) ([]byte, error) {
	t.now += 1 << 16
	_, raw, err := record.Sign(t.world.operator, t.world.cluster, 1, t.now, parents, p)
	return raw, err
}

func (t *trial) addRegion(code perigee.Region) error {
	lat := float64(t.rng.IntN(90))
	raw, err := t.sign(nil, &record.Region{Info: perigee.RegionInfo{Code: code, Point: perigee.Point{Lat: lat}}})
	if err != nil {
		return err
	}
	if _, err = t.gossip.Submit(t.ctx, raw); err != nil {
		t.regions[code] = t.regions[code].or(lat)
		return err
	}
	t.regions[code] = sure(lat)
	return nil
}

func (t *trial) deploy(name string) error {
	blob := make([]byte, 2048+t.rng.IntN(3000))
	for i := range blob {
		blob[i] = byte(t.rng.Uint32())
	}
	d := deployed{bundle: digest.Sum(blob), size: len(blob)}
	if err := t.store.Put(t.ctx, d.bundle, int64(len(blob)), bytes.NewReader(blob)); err != nil {
		return err
	}
	m := bundle.DefaultManifest()
	m.Name, m.Wasm = name, name+".wasm"
	rev, err := t.sign(nil, &record.Revision{Manifest: m, Bundle: d.bundle, Size: perigee.Bytes(len(blob))})
	if err != nil {
		return err
	}
	d.record = record.ID(rev)
	ptr, err := t.sign(t.gossip.Heads(name), &record.Pointer{Function: name, Revision: d.record, Past: t.gossip.Past(name)})
	if err != nil {
		return err
	}
	if _, err := t.gossip.Submit(t.ctx, rev, ptr); err != nil {
		t.functions[name] = t.functions[name].or(d)
		return err
	}
	t.functions[name] = sure(d)
	return nil
}

// remove removes a function, and with it all records of it but this one.
func (t *trial) remove(name string) error {
	raw, err := t.sign(t.gossip.Heads(name), &record.Pointer{Function: name, Past: t.gossip.Past(name)})
	if err != nil {
		return err
	}
	if _, err := t.gossip.Submit(t.ctx, raw); err != nil {
		t.functions[name] = t.functions[name].or(deployed{})
		return err
	}
	t.functions[name] = sure(deployed{})
	return nil
}

// collect deletes the bundles that no function needs.
func (t *trial) collect() error {
	list, err := t.store.List()
	if err != nil {
		return err
	}
	for _, d := range list {
		needed := false
		for _, may := range t.functions {
			needed = needed || slices.ContainsFunc(may.may, func(x deployed) bool { return x.bundle == d })
		}
		if !needed {
			if err := t.store.Delete(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// scrub reads every bundle.
func (t *trial) scrub() error {
	list, err := t.store.List()
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := read(t.store, d); err != nil {
			return err
		}
	}
	return nil
}

func read(s *bundle.Store, d perigee.Digest) error {
	r, _, err := s.Open(d)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// check starts the node again and looks for everything. What is there now is on the disk, so that it counts
// as acknowledged from here.
func (t *trial) check() error {
	lost := func(format string, args ...any) {
		t.sum.Lost++
		if len(t.sum.Why) < 10 {
			t.sum.Why = append(t.sum.Why, fmt.Sprintf("after cut %d: ", t.sum.Cuts)+fmt.Sprintf(format, args...))
		}
	}
	if err := t.start(); err != nil {
		lost("no start: %v", err)
		return nil
	}
	v := t.gossip.View().Desired
	for code, b := range t.regions {
		info, there := v.Regions.Lookup(code)
		switch {
		case there && slices.Contains(b.may, info.Point.Lat):
			t.regions[code] = sure(info.Point.Lat)
		case there || b.acked:
			lost("region %s is at %v, want one of %v", code, info.Point.Lat, b.may)
		default:
			delete(t.regions, code)
		}
	}
	for name, b := range t.functions {
		fn, i := v.Functions[name], -1
		if fn != nil {
			i = slices.IndexFunc(b.may, func(d deployed) bool { return record.RevisionID(d.record) == fn.Live.ID })
		}
		switch {
		case i >= 0:
			if err := read(t.store, b.may[i].bundle); err != nil {
				lost("the bundle of %s: %v", name, err)
			}
			t.functions[name] = sure(b.may[i])
		case fn == nil && slices.Contains(b.may, deployed{}):
			t.functions[name] = sure(deployed{})
		case fn != nil || b.acked:
			lost("function %s is not at the revision that was deployed", name)
		default:
			delete(t.functions, name)
		}
	}
	return nil
}
