package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
)

// errStopping is returned for work that the end of the node ends.
var errStopping = errors.New("the node is stopping")

const (
	// The time that bringing a revision here may take: for the connection, the queue of admissions
	// and a compilation, and for its bytes.
	workTime   = 3 * time.Minute
	timePerMiB = time.Second

	firstRetry  = time.Second // after a failure, doubled with each up to
	maxRetry    = time.Minute
	refuseRetry = 10 * time.Minute // what was refused is refused again, until this node is upgraded
)

// ensure brings a revision to a warmth here: fetch, verify, admit, load. from is a node that is known
// to have the bundle; "" = ask those that say so. Concurrent calls share the work, which goes on when
// one of them gives up.
func (r *replicator) ensure(ctx context.Context, rev *perigee.Revision, to perigee.Warmth, from perigee.NodeID) error {
	if r.warmth(rev.ID) >= to {
		return nil
	}
	done := r.flight.DoChan(string(rev.ID)+" "+to.String(), func() (any, error) {
		if !r.enter() {
			return nil, errStopping
		}
		defer r.work.Done()
		return nil, r.bring(rev, to, from, r.urgent)
	})
	select {
	case res := <-done:
		return res.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// demand makes a live revision warm for a request. A failure is remembered, so that requests for what
// can't be had cost little.
func (r *replicator) demand(ctx context.Context, rev *perigee.Revision) error {
	view := r.gossip.View()
	if rule, ok := placement.Allowed(policyOf(view, rev), r.self(), view.Desired.Regions); !ok {
		return errors.New(rule)
	}
	r.mu.Lock()
	f := r.failed[rev.ID]
	r.mu.Unlock()
	if time.Now().Before(f.next) {
		return f.err
	}
	if err := r.ensure(ctx, rev, perigee.Warm, ""); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.have(rev.ID); h != nil {
		h.rescue = time.Now().Add(rescueTime)
	}
	return nil
}

// warmUp makes a live revision warm in the background, for the requests that come next. It returns at
// once and does nothing while that is under way, failed a moment ago, or is not allowed here.
func (r *replicator) warmUp(rev *perigee.Revision) {
	r.mu.Lock()
	busy := r.ended || r.trying[rev.ID] || time.Now().Before(r.failed[rev.ID].next)
	if !busy {
		r.trying[rev.ID] = true
		r.work.Go(func() {
			ctx, cancel := context.WithTimeout(r.life, workTime)
			defer cancel()
			err := r.demand(ctx, rev)
			r.mu.Lock()
			delete(r.trying, rev.ID)
			r.mu.Unlock()
			if err != nil && !errors.Is(err, errStopping) {
				r.log.Debug("warm up for a function's callers", "function", rev.Manifest.Name, "revision", rev.ID, "err", err)
			}
		})
	}
	r.mu.Unlock()
}

// unloaded notes that the runtime has let go of a revision by itself, which stays held.
func (r *replicator) unloaded(h *holding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.have(h.rev.ID) == h && h.warmth == perigee.Warm {
		held := &holding{rev: h.rev, warmth: perigee.Held, rescue: h.rescue, unwanted: h.unwanted}
		held.used.Store(h.used.Load())
		r.setLocked(h.rev.ID, held)
		h.out.close()
	}
}

// enter counts one more piece of work, unless the replicator has stopped.
func (r *replicator) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.work.Add(1)
	}
	return !r.ended
}

// use keeps a bundle from being swept until the returned function is called.
func (r *replicator) use(d perigee.Digest) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.using[d]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.using[d]--; r.using[d] == 0 {
			delete(r.using, d)
		}
	}
}

// bring does the work of ensure, when one of the places is free.
func (r *replicator) bring(rev *perigee.Revision, to perigee.Warmth, from perigee.NodeID, places chan struct{}) error {
	defer r.use(rev.Bundle)()
	view := r.gossip.View()
	fn := view.Desired.Functions[rev.Manifest.Name]
	if err := r.trials.expect(rev.ID, fn != nil && fn.Live.ID == rev.ID && r.rollouts.proven(view, fn, r.self().ID)); err != nil {
		return err
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
	case <-r.life.Done():
		return errStopping
	}
	ctx, cancel := context.WithTimeout(r.life, workTime+timePerMiB*time.Duration(rev.Size/perigee.MiB))
	defer cancel()
	err := r.fetch(ctx, rev, from)
	if err == nil {
		err = r.load(ctx, rev, to)
	}
	if errors.Is(err, bundle.ErrCorrupt) { // it rotted on the disk, and is not in the store any more
		if err = r.fetch(ctx, rev, from); err == nil {
			err = r.load(ctx, rev, to)
		}
	}
	if r.life.Err() != nil {
		return errStopping
	}
	r.note(rev.ID, err)
	return err
}

// note remembers how an attempt went.
func (r *replicator) note(id perigee.RevisionID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.failed, id)
		return
	}
	f := r.failed[id]
	wait := min(firstRetry<<min(f.tries, 6), maxRetry)
	var refused *runtime.ErrRefused
	if errors.As(err, &refused) || errors.Is(err, runtime.ErrQuarantined) || errors.Is(err, errFailedTrial) {
		wait = refuseRetry
	}
	r.failed[id] = failure{err: err, tries: f.tries + 1, next: time.Now().Add(wait)}
}

// lastError returns why a revision could not be brought here when it was last tried, or nil.
func (r *replicator) lastError(id perigee.RevisionID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed[id].err
}

// load admits a revision whose bundle is in the store, and loads it if it is to be warm.
func (r *replicator) load(ctx context.Context, rev *perigee.Revision, to perigee.Warmth) error {
	name := rev.Manifest.Name
	values := versions(r.gossip.View().Desired, &rev.Manifest)
	old := r.have(rev.ID)
	again := old != nil && old.warmth == perigee.Warm && to == perigee.Warm && old.values != values // its secrets have changed
	if r.warmth(rev.ID) >= to && !again {
		return nil // only its bundle was missing
	}
	start := time.Now()
	b, err := r.store.Load(rev.Bundle)
	if err != nil {
		return fmt.Errorf("read the bundle of %s %s: %w", name, rev.ID, err)
	}
	if _, err := r.runtime.Admit(ctx, rev.Bundle, b.Wasm); err != nil {
		return fmt.Errorf("%s %s on %s: %w", name, rev.ID, r.self().ID, err)
	}
	h := &holding{rev: rev, warmth: to, values: values}
	h.used.Store(start.UnixNano())
	if old != nil && old.warmth == perigee.Held && to == perigee.Warm && old.used.Load() > 0 {
		h.used.Store(old.used.Load()) // it may be loaded before a request comes
	}
	if to == perigee.Warm {
		if h.out, err = newOutlets(r.egress, &rev.Manifest, b); err != nil {
			return fmt.Errorf("%s %s on %s: %w", name, rev.ID, r.self().ID, err)
		}
		env, err := r.secrets.env(ctx, &rev.Manifest)
		if err != nil {
			return fmt.Errorf("%s %s on %s: %w", name, rev.ID, r.self().ID, err)
		}
		spec := runtime.Spec{Function: name, Digest: rev.Bundle, Wasm: b.Wasm, Files: b.Files, Limits: rev.Manifest.Limits, Env: env, Isolation: rev.Manifest.Isolation, Outbound: h.out.roundTripper()}
		load := r.start
		if again {
			load = func(ctx context.Context, rev *perigee.Revision, spec runtime.Spec) error {
				return r.runtime.Reload(ctx, rev.ID, spec)
			}
		}
		if err := load(ctx, rev, spec); err != nil {
			return fmt.Errorf("%s %s on %s: %w", name, rev.ID, r.self().ID, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.warmth(rev.ID) < to || again { // not if it became warm while it was admitted
		r.setLocked(rev.ID, h)
		r.log.Info("revision here", "function", name, "revision", rev.ID, "warmth", to.String(), "dur", time.Since(start))
	}
	if state, _ := r.trials.state(rev.ID); to == perigee.Warm && state == perigee.Trying && rev.Manifest.Health != "" && !r.ended {
		r.work.Go(func() { r.probe(rev, h) })
	}
	return nil
}

// start loads a revision, under trial if it is the first time. That it is tried is on disk, and on its
// way to the other nodes, before its code can do anything.
func (r *replicator) start(ctx context.Context, rev *perigee.Revision, spec runtime.Spec) error {
	fn := r.gossip.View().Desired.Functions[rev.Manifest.Name]
	first := fn == nil || fn.Live.ID == rev.ID && len(fn.Kept) == 0
	forced := fn != nil && fn.Live.ID == rev.ID && fn.Rollout == placement.RolloutAll
	if err := r.trials.begin(rev.ID, first, rev.Manifest.Health != "", forced); err != nil {
		return err
	}
	if state, _ := r.trials.state(rev.ID); state == perigee.Trying {
		r.tell()
		pause(ctx, headStart)
	}
	err := r.runtime.Load(ctx, rev.ID, spec)
	if errors.Is(err, runtime.ErrQuarantined) {
		r.trials.fail(rev.ID, err.Error())
	}
	r.trials.loaded(rev.ID, err)
	return err
}

// room returns an error, which says what to do, unless a revision's bundle is here or has its place.
func (r *replicator) room(rev *perigee.Revision) error {
	if r.store.Has(rev.Bundle) {
		return nil
	}
	return r.disk.room(rev.Size)
}

// errorText reads what a peer says of an error.
func errorText(r io.Reader) string {
	text, err := io.ReadAll(io.LimitReader(r, 4<<10))
	if s := strings.TrimSpace(string(text)); s != "" || err == nil {
		return s
	}
	return err.Error()
}

// holders lists the other nodes that say they have a revision, nearest first.
func (r *replicator) holders(id perigee.RevisionID) []perigee.NodeID {
	var out []perigee.NodeID
	self := r.self().ID
	for node, p := range r.gossip.View().Observed.Nodes {
		if node != self && p.Revisions[id] >= perigee.Held && (p.State == perigee.NodeAlive || p.State == perigee.NodeSuspect) {
			out = append(out, node)
		}
	}
	return r.nearest(out)
}

// nearest sorts nodes by distance; those without a connection come last.
func (r *replicator) nearest(ids []perigee.NodeID) []perigee.NodeID {
	distance := map[perigee.NodeID]time.Duration{}
	for _, id := range ids {
		distance[id] = time.Hour
		if d, ok := r.rtt(id); ok {
			distance[id] = d
		}
	}
	return slices.SortedFunc(slices.Values(ids), func(a, b perigee.NodeID) int {
		return cmp.Or(cmp.Compare(distance[a], distance[b]), cmp.Compare(a, b))
	})
}
