package node

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
)

// replicator makes this node have what the plan wants of it: it fetches, admits and loads the
// revisions it is a holder of (ensure.go), and lets go of the others once their own holders have
// them (release.go). What is here it says in the node's row.
type replicator struct {
	self     func() perigee.NodeClaims
	gossip   *gossip.Gossip
	plans    *plans
	rollouts *rollouts
	trials   *trials
	secrets  *secrets
	store    *bundle.Store
	disk     *disk
	runtime  *runtime.Runtime
	egress   *egress.Egress
	control  func(perigee.NodeID) http.RoundTripper
	rtt      func(perigee.NodeID) (time.Duration, bool)
	metrics  *metrics
	log      *slog.Logger

	flight  singleflight.Group // by revision and warmth: one admission, one load
	fetches singleflight.Group // by bundle
	urgent  chan struct{}      // one place for each piece of work that somebody waits for
	quiet   chan struct{}      // and for each that nobody does
	life    context.Context    // ends with stop, and with it all work
	end     context.CancelFunc

	rests rests // how long functions are idle here

	here atomic.Pointer[map[perigee.RevisionID]*holding] // immutable; replaced under mu

	mu     sync.Mutex // guards the fields below and what holding says it guards
	work   sync.WaitGroup
	ended  bool // no work may start
	began  time.Time
	trying map[perigee.RevisionID]bool // work that nobody waits for is under way
	failed map[perigee.RevisionID]failure
	liars  map[perigee.NodeID]time.Time   // that sent wrong slices, and until when they are not asked
	coming map[perigee.RevisionID]arrival // of deploys whose records are not written yet
	using  map[perigee.Digest]int         // bundles that are being stored or loaded
	swept  time.Time
	dirty  bool // there may be bundles that nothing needs
}

// holding is a revision that this node has.
type holding struct {
	rev    *perigee.Revision
	warmth perigee.Warmth // Held or Warm
	out    outlets        // if Warm
	values string         // which values of its secrets its guest has, if Warm
	used   atomic.Int64   // when a request last asked for it, in Unix nanoseconds
	short  atomic.Uint32  // idle times of less than a minute since they were last counted

	service service      // what its requests take
	busy    atomic.Int64 // what they took altogether, in nanoseconds

	rescue   time.Time // guarded by mu: until then it stays, though it was fetched for requests only
	unwanted time.Time // guarded by mu: since when nothing asks for it; zero = something does
}

// took counts a request that the guest was started for.
func (h *holding) took(d time.Duration, err error) {
	var full *runtime.Overload
	if errors.As(err, &full) {
		return
	}
	h.busy.Add(int64(d))
	if err == nil {
		h.service.add(d)
	}
}

// failure is a revision that could not be brought here.
type failure struct {
	err   error
	tries int
	next  time.Time
}

const (
	planInterval = 50 * time.Millisecond // at most one round in this time
	sweepEvery   = 2 * time.Second       // retries and lets go even when the View stands still

	// settleTime is how long nothing is fetched after a start: while members are still coming in, a
	// plan over the few that are known wants too much of each.
	settleTime = 2 * time.Second

	maxUrgent = 4 // each piece of work has a module in memory
	maxQuiet  = 2
)

func newReplicator(n *Node, store *bundle.Store, m *metrics) *replicator {
	r := &replicator{
		self: n.Claims, gossip: n.gossip, plans: n.plans, rollouts: n.rollouts, trials: n.trials, secrets: n.secrets, store: store, disk: n.disk, runtime: n.runtime, egress: n.egress,
		control: n.link.Control, rtt: n.link.RTT, metrics: m, log: n.log,
		urgent: make(chan struct{}, maxUrgent), quiet: make(chan struct{}, maxQuiet),
		trying: map[perigee.RevisionID]bool{}, failed: map[perigee.RevisionID]failure{}, liars: map[perigee.NodeID]time.Time{},
		coming: map[perigee.RevisionID]arrival{}, using: map[perigee.Digest]int{},
		dirty: true,
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.here.Store(&map[perigee.RevisionID]*holding{})
	r.trials.told = r.tell
	r.tell()
	return r
}

// run follows the View until ctx ends.
func (r *replicator) run(ctx context.Context) error {
	defer r.stop()
	r.mu.Lock()
	r.began = time.Now()
	r.mu.Unlock()
	changed := r.gossip.Watch(ctx)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for thorough := true; ; {
		r.step(time.Now(), thorough)
		pause(ctx, planInterval)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			thorough = false
		case <-tick.C:
			thorough = true
		}
	}
}

// stop ends all work and waits for it. It may be called more than once.
func (r *replicator) stop() {
	r.end()
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.work.Wait()
}

// aim is what a round wants of one revision.
type aim struct {
	warmth perigee.Warmth // to reach; Absent = what is here is enough
	keep   bool
	spare  bool // it is kept for the case that somebody goes back to it; its code need not stay loaded
}

// step compares the plan with what is here, starts what is missing and lets go of the rest. A
// thorough one looks at the disk, too.
func (r *replicator) step(now time.Time, thorough bool) {
	r.trials.settle(now)
	view := r.gossip.View()
	r.rollouts.refresh(view)
	plans := r.plans.at(view)
	aims := map[perigee.RevisionID]aim{}
	missing := 0
	_, full := r.disk.state()
	for _, fn := range view.Desired.Functions {
		plan := plans.Plan(fn)
		mine := r.rollouts.on(view, fn, r.self().ID)
		if mine != fn {
			r.aimNext(fn, plan, aims, now)
		}
		if full && wanted(plan, r.self().ID) == perigee.Absent {
			r.aimStored(view, fn, aims, now)
		}
		if mine == nil {
			continue
		}
		a := r.aim(view, mine, plan)
		aims[mine.Live.ID] = a
		have := r.warmth(mine.Live.ID)
		if have < a.warmth {
			missing++
			r.keepPrevious(mine, aims)
		}
		if h := r.have(mine.Live.ID); h != nil && h.warmth == perigee.Warm && h.values != versions(view.Desired, &mine.Live.Manifest) && len(unset(view.Desired, &mine.Live.Manifest)) == 0 {
			r.try(mine.Live, perigee.Warm, now)
		}
		if h := r.have(mine.Live.ID); a.warmth == perigee.Held && have == perigee.Held && r.rests.awaited(h, now) {
			r.try(mine.Live, perigee.Warm, now)
		}
		if have < a.warmth || thorough && a.warmth > perigee.Absent && !r.store.Has(mine.Live.Bundle) {
			r.try(mine.Live, a.warmth, now)
		}
		r.aimSpares(mine, plan, aims, now)
	}
	r.release(view, aims, now, thorough)
	r.metrics.revisions(*r.here.Load(), missing)
}

// aim decides what this node should have of a function's live revision.
func (r *replicator) aim(view *perigee.View, fn *perigee.Function, plan placement.Plan) aim {
	self := r.self()
	if want := wanted(plan, self.ID); want > perigee.Absent {
		return aim{warmth: want, keep: true}
	}
	if _, ok := placement.Allowed(fn.Policy(), self, view.Desired.Regions); !ok || covered(view, fn, plan) {
		return aim{}
	}
	// Make before break: what is here stays until every holder has it. That holds for a bundle on
	// disk after a restart, too: others may have none.
	if r.warmth(fn.Live.ID) == perigee.Absent && r.store.Has(fn.Live.Bundle) {
		return aim{warmth: perigee.Held, keep: true}
	}
	return aim{keep: true}
}

// aimNext has a holder keep the bundle of a live revision that it is not to run yet, if it ever is.
func (r *replicator) aimNext(fn *perigee.Function, plan placement.Plan, aims map[perigee.RevisionID]aim, now time.Time) {
	if wanted(plan, r.self().ID) == perigee.Absent {
		return
	}
	aims[fn.Live.ID] = aim{warmth: perigee.Held, keep: true, spare: true}
	if state, _ := r.trials.state(fn.Live.ID); state != perigee.TrialFailed && r.warmth(fn.Live.ID) == perigee.Absent {
		r.try(fn.Live, perigee.Held, now)
	}
}

// aimStored has a node with a full disk say what rests on it: after a start nobody knows that yet, and plans
// take such a node for what it has only.
func (r *replicator) aimStored(view *perigee.View, fn *perigee.Function, aims map[perigee.RevisionID]aim, now time.Time) {
	if !r.allowed(view, &holding{rev: fn.Live}) || !r.store.Has(fn.Live.Bundle) {
		return
	}
	aims[fn.Live.ID] = aim{warmth: perigee.Held, keep: true}
	if state, _ := r.trials.state(fn.Live.ID); state != perigee.TrialFailed && r.warmth(fn.Live.ID) == perigee.Absent {
		r.try(fn.Live, perigee.Held, now)
	}
}

// aimSpares has holders keep the bundles of revisions that somebody may go back to.
func (r *replicator) aimSpares(fn *perigee.Function, plan placement.Plan, aims map[perigee.RevisionID]aim, now time.Time) {
	if wanted(plan, r.self().ID) == perigee.Absent {
		return
	}
	for _, rev := range fn.Kept {
		if _, aimed := aims[rev.ID]; aimed { // as the previous one it is warm for another while
			continue
		}
		aims[rev.ID] = aim{warmth: perigee.Held, keep: true, spare: true}
		if r.warmth(rev.ID) == perigee.Absent {
			r.try(rev, perigee.Held, now)
		}
	}
}

// covered reports whether all planned holders have a function's live revision, and there are some.
func covered(view *perigee.View, fn *perigee.Function, plan placement.Plan) bool {
	for _, id := range plan.Holders {
		if p := view.Observed.Nodes[id]; p == nil || p.Revisions[fn.Live.ID] < wanted(plan, id) {
			return false
		}
	}
	return len(plan.Holders) > 0
}

// keepPrevious keeps the revisions of a function that are warm here until the live one is: who has
// not heard of the new one yet still asks for them.
func (r *replicator) keepPrevious(fn *perigee.Function, aims map[perigee.RevisionID]aim) {
	for id, h := range *r.here.Load() {
		if h.rev.Manifest.Name == fn.Name && id != fn.Live.ID && h.warmth == perigee.Warm {
			aims[id] = aim{keep: true}
		}
	}
}

// neededHere reports whether a live revision is here, wanted elsewhere, and nowhere else yet.
func (r *replicator) neededHere(view *perigee.View) bool {
	plans := r.plans.at(view)
	for _, fn := range view.Desired.Functions {
		h := (*r.here.Load())[fn.Live.ID]
		if h == nil {
			continue
		}
		others := plans.Plan(fn).Holders
		if len(others) == 0 || slices.Contains(others, r.self().ID) {
			continue // nobody else may have it, or this node does not drain
		}
		if !slices.ContainsFunc(others, func(id perigee.NodeID) bool {
			p := view.Observed.Nodes[id]
			return p != nil && p.Revisions[fn.Live.ID] >= wanted(plans.Plan(fn), id)
		}) {
			return true
		}
	}
	return false
}

// try starts to bring a revision here, unless that is under way, failed a moment ago, or can't work
// since nobody has it.
func (r *replicator) try(rev *perigee.Revision, to perigee.Warmth, now time.Time) {
	onDisk := r.store.Has(rev.Bundle)
	if !onDisk && len(r.holders(rev.ID)) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.trying[rev.ID] || now.Before(r.failed[rev.ID].next) || !onDisk && now.Sub(r.began) < settleTime {
		return
	}
	r.trying[rev.ID] = true
	r.work.Go(func() {
		err := r.bring(rev, to, "", r.quiet)
		r.mu.Lock()
		delete(r.trying, rev.ID)
		r.mu.Unlock()
		if err != nil && !errors.Is(err, errStopping) {
			r.log.Warn("can't hold a revision yet", "function", rev.Manifest.Name, "revision", rev.ID, "err", err)
		}
	})
}

// have returns what this node has of a revision, or nil.
func (r *replicator) have(id perigee.RevisionID) *holding { return (*r.here.Load())[id] }

// warmth returns how warm a revision is here.
func (r *replicator) warmth(id perigee.RevisionID) perigee.Warmth {
	if h := r.have(id); h != nil {
		return h.warmth
	}
	return perigee.Absent
}

// setLocked notes that a revision is here, or, with nil, that it is not, and tells the cluster. The
// caller holds mu.
func (r *replicator) setLocked(id perigee.RevisionID, h *holding) {
	old := *r.here.Load()
	here := make(map[perigee.RevisionID]*holding, len(old)+1)
	warmth := make(map[perigee.RevisionID]perigee.Warmth, len(old)+1)
	for other, h := range old {
		if other != id {
			here[other], warmth[other] = h, h.warmth
		}
	}
	if h != nil {
		here[id], warmth[id] = h, h.warmth
	}
	r.here.Store(&here)
	trials := r.trials.row()
	r.gossip.SetRow(func(row *perigee.Row) { row.Revisions, row.Trials = warmth, trials })
}

// tell tells the cluster how trials go.
func (r *replicator) tell() {
	trials := r.trials.row()
	r.gossip.SetRow(func(row *perigee.Row) { row.Trials = trials })
}
