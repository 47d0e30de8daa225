package node

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/placement"
)

// rollouts keeps how far the functions are whose live revision does not run everywhere yet, which are
// few. The replicator computes them at each of its rounds; requests read them with one atomic load.
type rollouts struct {
	plans *plans
	last  atomic.Pointer[rolloutSet]
}

// rolloutSet is the rollouts of one state of the cluster. It is not changed.
type rolloutSet struct {
	view   *perigee.View
	all    *placement.Rollouts
	byName map[string]*placement.Rollout
}

// refresh computes them anew.
func (r *rollouts) refresh(v *perigee.View) {
	set := &rolloutSet{view: v, all: placement.NewRollouts(v), byName: map[string]*placement.Rollout{}}
	plans := r.plans.at(v)
	for name, fn := range v.Desired.Functions {
		if ro := set.all.Of(fn, plans.Plan(fn), ""); ro != nil {
			set.byName[name] = ro
		}
	}
	r.last.Store(set)
}

// of returns how far a function of the View is; nil = its live revision runs everywhere.
func (r *rollouts) of(v *perigee.View, fn *perigee.Function) *placement.Rollout {
	if set := r.last.Load(); set != nil && set.view.Desired == v.Desired {
		return set.byName[fn.Name]
	}
	return r.said(v).Of(fn, r.plans.at(v).Plan(fn), "") // a deploy came this very moment
}

// said returns what the nodes of a View say, which need not be read again if it was.
func (r *rollouts) said(v *perigee.View) *placement.Rollouts {
	if set := r.last.Load(); set != nil && set.view.Observed == v.Observed && set.view.Desired == v.Desired {
		return set.all
	}
	return placement.NewRollouts(v)
}

// on returns a function as a node is to run it; nil = not at all.
func (r *rollouts) on(v *perigee.View, fn *perigee.Function, id perigee.NodeID) *perigee.Function {
	p := v.Observed.Nodes[id]
	if p == nil {
		return fn
	}
	return r.of(v, fn).On(fn, p)
}

// proven reports whether a function's live revision passed elsewhere, so that a node which gets it only
// now need not try it.
func (r *rollouts) proven(v *perigee.View, fn *perigee.Function, self perigee.NodeID) bool {
	ro := r.said(v).Of(fn, r.plans.at(v).Plan(fn), self)
	return ro == nil || ro.Stage == placement.StageAll
}

const (
	probeTries = 3
	probePause = 200 * time.Millisecond
	probeTime  = 10 * time.Second
)

// probe asks a revision that is tried here for the health path of its manifest.
func (r *replicator) probe(rev *perigee.Revision, h *holding) {
	var err error
	for range probeTries {
		if err = r.probeOnce(rev, h); err == nil || r.life.Err() != nil {
			break
		}
		pause(r.life, probePause)
	}
	if r.life.Err() == nil {
		r.trials.probed(rev.ID, err)
	}
}

func (r *replicator) probeOnce(rev *perigee.Revision, h *holding) error {
	ctx, cancel := context.WithTimeout(r.life, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+rev.Manifest.Name+".internal"+rev.Manifest.Health, nil)
	if err != nil {
		return err
	}
	req.RequestURI, req.RemoteAddr = req.URL.RequestURI(), "127.0.0.1:0"
	w := &statusOnly{header: http.Header{}, code: http.StatusOK}
	if _, err := r.runtime.Invoke(ctx, rev.ID, w, req, h.out.next); err != nil {
		return err
	}
	if w.code >= 500 {
		return fmt.Errorf("it answered %d", w.code)
	}
	return nil
}

// statusOnly keeps the status of a response.
type statusOnly struct {
	header http.Header
	code   int
}

func (w *statusOnly) Header() http.Header         { return w.header }
func (w *statusOnly) WriteHeader(code int)        { w.code = code }
func (w *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
