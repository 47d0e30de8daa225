package node

import (
	"fmt"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

const (
	// A revision that nothing asks for any more stays for a while, since gateways whose View is a
	// moment older still send requests for it.
	unloadGrace = 10 * time.Second

	// A revision that was fetched for requests only, since no holder could serve them, stays so long.
	rescueTime = time.Minute

	// A deploy that stopped halfway is let go of after this time. It is as long as a deploy may take.
	arrivalGrace = deployTimeout

	maxComing = 64 // deploys under way at once

	fullSweep = 10 * time.Minute // between looks for bundles that nothing needs, when nothing suggests one

	// sweepSettle is how long after a start no bundle is deleted that this node may hold: who holds
	// what is not known yet.
	sweepSettle = time.Minute
)

// arrival is a function as it will be, whose bundle is here before the cluster knows that.
type arrival struct {
	fn     *perigee.Function
	before perigee.Digest // the pointer in force when it came; zero = none
	until  time.Time
}

// expect announces a function whose bundle arrives before its records do.
func (r *replicator) expect(fn *perigee.Function) error {
	id := fn.Live.ID
	r.mu.Lock()
	defer r.mu.Unlock()
	before := headOf(r.gossip.View(), fn.Name)
	if first, again := r.coming[id]; again {
		before = first.before
	} else if len(r.coming) >= maxComing {
		return fmt.Errorf("%d deploys are under way on %s, the limit is %d: try again in a few minutes", len(r.coming), r.self().ID, maxComing)
	}
	r.coming[id] = arrival{fn, before, time.Now().Add(arrivalGrace)}
	return nil
}

// abandon takes back expect.
func (r *replicator) abandon(id perigee.RevisionID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.coming, id)
	r.dirty = true
}

// expected returns the function whose revision was announced, or nil.
func (r *replicator) expected(id perigee.RevisionID) *perigee.Function {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.coming[id].fn
}

// headOf returns the pointer in force; zero = there is no such function.
func headOf(view *perigee.View, name string) (head perigee.Digest) {
	if fn := view.Desired.Functions[name]; fn != nil {
		head = fn.Head
	}
	return head
}

// release lets go of what no aim keeps: it cools what is warm without need, unloads what nothing
// wants, and, if it may look at the disk, deletes bundles.
func (r *replicator) release(view *perigee.View, aims map[perigee.RevisionID]aim, now time.Time, thorough bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.coming {
		if _, known := aims[id]; known && headOf(view, c.fn.Name) != c.before || now.After(c.until) {
			delete(r.coming, id) // the plan has it from here, or nobody
			r.dirty = true
		}
	}
	for id := range r.failed {
		if _, known := aims[id]; !known {
			delete(r.failed, id)
		}
	}
	for id, h := range *r.here.Load() {
		a := aims[id]
		switch {
		case a.keep && a.warmth == perigee.Held && h.warmth == perigee.Warm:
			h.unwanted = time.Time{}
			r.coolLocked(id, h, now, a.spare)
		case a.keep || r.coming[id].fn != nil || h.rescue.After(now) && r.allowed(view, h):
			h.unwanted = time.Time{}
		case h.unwanted.IsZero() && r.allowed(view, h):
			h.unwanted = now
		case now.Sub(h.unwanted) < unloadGrace && r.allowed(view, h):
		default:
			r.dropLocked(id, h)
		}
	}
	if thorough {
		r.secrets.forget(view.Desired)
		known := knownRevisions(view)
		r.rests.forget(view.Desired.Functions)
		r.trials.forget(func(id perigee.RevisionID) bool {
			return known[id] || r.coming[id].fn != nil || r.have(id) != nil
		})
	}
	if thorough && (r.dirty || now.Sub(r.swept) > fullSweep) {
		r.sweepLocked(view, aims, now)
	}
}

// coolLocked unloads what is warm only since requests asked for it, when none is likely to come soon: of a spare,
// when those that are on their way have come. The caller holds mu.
func (r *replicator) coolLocked(id perigee.RevisionID, h *holding, now time.Time, spare bool) {
	idle := now.Sub(time.Unix(0, h.used.Load()))
	if load, _ := r.runtime.Stats(id); load.InFlight > 0 || spare && idle < unloadGrace || !spare && r.rests.loaded(h, idle) {
		return
	}
	held := &holding{rev: h.rev, warmth: perigee.Held}
	held.used.Store(h.used.Load())
	r.setLocked(id, held)
	r.runtime.Unload(id)
	h.out.close()
	r.log.Info("revision unloaded", "function", h.rev.Manifest.Name, "revision", id, "warmth", perigee.Held.String())
}

// dropLocked lets go of a revision. The caller holds mu.
func (r *replicator) dropLocked(id perigee.RevisionID, h *holding) {
	r.setLocked(id, nil)
	r.runtime.Unload(id)
	h.out.close()
	r.dirty = true
	r.log.Info("revision unloaded", "function", h.rev.Manifest.Name, "revision", id, "warmth", perigee.Absent.String())
}

// knownRevisions lists the live revisions of all functions and those that somebody may go back to.
func knownRevisions(view *perigee.View) map[perigee.RevisionID]bool {
	known := make(map[perigee.RevisionID]bool, 2*len(view.Desired.Functions))
	for _, fn := range view.Desired.Functions {
		known[fn.Live.ID] = true
		for _, rev := range fn.Kept {
			known[rev.ID] = true
		}
	}
	return known
}

// allowed reports whether the hard rules, as they are now, let this node have a revision: those of
// the function's live revision, or its own if the function is gone.
func (r *replicator) allowed(view *perigee.View, h *holding) bool {
	_, ok := placement.Allowed(policyOf(view, h.rev), r.self(), view.Desired.Regions)
	return ok
}

// policyOf returns the rules for a revision as they are now: those of the function while it is live,
// else the revision's own.
func policyOf(view *perigee.View, rev *perigee.Revision) *perigee.Policy {
	if fn := view.Desired.Functions[rev.Manifest.Name]; fn != nil {
		return fn.Policy()
	}
	return &rev.Manifest.Placement
}

// sweepLocked deletes the bundles that nothing here needs. The caller holds mu, so that nothing comes
// to need one meanwhile.
func (r *replicator) sweepLocked(view *perigee.View, aims map[perigee.RevisionID]aim, now time.Time) {
	settling := now.Sub(r.began) < sweepSettle
	needed := map[perigee.Digest]bool{}
	for _, fn := range view.Desired.Functions {
		if aims[fn.Live.ID].keep || settling && r.allowed(view, &holding{rev: fn.Live}) {
			needed[fn.Live.Bundle] = true
		}
		for _, rev := range fn.Kept {
			if aims[rev.ID].keep || settling && r.allowed(view, &holding{rev: rev}) {
				needed[rev.Bundle] = true
			}
		}
	}
	for _, h := range *r.here.Load() {
		needed[h.rev.Bundle] = true
	}
	for _, c := range r.coming {
		needed[c.fn.Live.Bundle] = true
	}
	list, err := r.store.List()
	if err != nil {
		r.log.Warn("list bundles", "err", err)
		return
	}
	r.dirty, r.swept = settling, now
	for _, d := range list {
		if needed[d] || r.using[d] > 0 {
			continue
		}
		if err := r.store.Delete(d); err != nil {
			r.log.Warn("delete bundle", "digest", d, "err", err)
			r.dirty = true
			continue
		}
		r.log.Info("bundle deleted", "digest", d)
	}
	if err := r.store.Forget(func(d perigee.Digest) bool { return needed[d] || r.using[d] > 0 }); err != nil {
		r.log.Warn("forget bundles that did not come", "err", err)
		r.dirty = true
	}
}
