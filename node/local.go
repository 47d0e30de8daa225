package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/placement"
	"github.com/perigee-edge/perigee/runtime"
	"github.com/perigee-edge/perigee/usage"
)

// local is this node's runtime as edgeproxy sees it.
type local struct{ n *Node }

// Invoke runs the revision here. A live one that is not loaded is brought here first: the node holds
// it without keeping it warm, or no node that has it could serve. Any other is "not here".
func (l local) Invoke(ctx context.Context, fn *perigee.Function, rev perigee.RevisionID, w http.ResponseWriter, r *http.Request) (edgeproxy.Result, error) {
	res, h, err := l.warm(ctx, fn, rev, w)
	if err != nil {
		return res, err
	}
	m := &metered{ResponseWriter: w, result: res, bill: bill{
		table: l.n.usage, cold: res.Start == edgeproxy.StartCold,
		key: usage.Key{Function: fn.Name, Revision: rev, Region: l.n.Claims().Region, Caller: callerOf(ctx, r)},
	}, head: r.Method == http.MethodHead}
	defer m.lost()
	asked := r
	if r.Header.Get("Upgrade") != "" { // what follows the head is for the origin, and not for the guest
		c := *r
		c.Body, c.ContentLength = http.NoBody, 0
		ctx, m.upgrade = egress.WithUpgrade(ctx)
		asked = &c
	}
	defer m.close()
	began := time.Now()
	used, err := l.n.runtime.Invoke(ctx, rev, m, asked, h.out.next)
	if errors.Is(err, runtime.ErrNotLoaded) { // its code slept and is gone from the cache; nothing was started
		l.n.rep.unloaded(h)
		if res, h, err = l.warm(ctx, fn, rev, w); err != nil {
			return res, err
		}
		m.result, m.cold, began = res, true, time.Now()
		used, err = l.n.runtime.Invoke(ctx, rev, m, asked, h.out.next)
	}
	m.end(used, err)
	h.took(time.Since(began), err)
	guest := (*runtime.GuestError)(nil)
	if errors.As(err, &guest) {
		l.n.lines.crashed(fn.Name, rev, r.Header.Get(edgeproxy.HeaderRequestID), guest)
	}
	if err == nil || guest != nil {
		l.n.trials.note(rev, guest != nil)
	}
	res.Fuel = used.Fuel
	if err == nil {
		err = m.tunnel(ctx, r.Body)
	}
	return res, l.refused(rev, err)
}

// warm returns a revision that is loaded, after bringing it here if it is the live one.
func (l local) warm(ctx context.Context, fn *perigee.Function, rev perigee.RevisionID, w http.ResponseWriter) (res edgeproxy.Result, h *holding, err error) {
	res.Start = edgeproxy.StartWarm
	began := time.Now()
	h = l.n.rep.have(rev)
	if state, why := l.n.trials.state(rev); state == perigee.TrialFailed && fn.Rollout != placement.RolloutAll {
		return res, nil, l.notHere(fmt.Errorf("%w: %s", errFailedTrial, why))
	}
	if h == nil || h.warmth < perigee.Warm {
		mine := l.n.rollouts.on(l.n.View(), fn, l.n.ID())
		if mine == nil || mine.Live.ID != rev {
			return res, nil, l.notHere(nil)
		}
		accept(w)
		if err := l.n.rep.demand(ctx, mine.Live); err != nil {
			return res, nil, l.notHere(err)
		}
		if h = l.n.rep.have(rev); h == nil {
			return res, nil, l.notHere(nil)
		}
		res.Start, res.StartTook = edgeproxy.StartCold, time.Since(began)
	}
	l.n.rep.rests.asked(h, time.Now())
	return res, h, nil
}

// callerOf says for whom a request is counted: the function that sent it, or the region where it came in.
func callerOf(ctx context.Context, r *http.Request) string {
	if name := perigee.CallerFrom(ctx); name != "" {
		return "fn:" + name
	}
	return r.Header.Get(edgeproxy.HeaderEntryRegion)
}

func (l local) notHere(err error) error {
	return &perigee.HopError{Node: l.n.ID(), Code: perigee.RefusedNotHere, Err: err}
}

// refused translates the runtime's errors into the words of the request path.
func (l local) refused(rev perigee.RevisionID, err error) error {
	var (
		guest *runtime.GuestError
		full  *runtime.Overload
	)
	switch {
	case errors.Is(err, runtime.ErrNotLoaded):
		return l.notHere(nil)
	case errors.As(err, &full):
		load := l.Load(rev)
		return &perigee.HopError{Node: l.n.ID(), Code: perigee.RefusedOverloaded, Load: &load, Limit: full.Limit}
	case errors.As(err, &guest):
		return &edgeproxy.GuestError{Kind: edgeproxy.Fault(guest.Kind), Detail: guest.Detail, Limit: guest.Limit}
	}
	return err
}

// Load returns the load of a revision here.
func (l local) Load(rev perigee.RevisionID) perigee.Load {
	load, _ := l.n.runtime.Stats(rev)
	if h := l.n.rep.have(rev); h != nil {
		load.Service = h.service.us.Load()
	}
	return load
}

// warmUp starts a function here in the background, unless it is under way.
func (l local) warmUp(fn *perigee.Function) { l.n.rep.warmUp(fn.Live) }
