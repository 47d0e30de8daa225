package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/bundle"
	"github.com/perigee-edge/perigee/internal/digest"
	"github.com/perigee-edge/perigee/internal/swarm"
	"github.com/perigee-edge/perigee/placement"
)

// This file is the receiver's side of bundles, which come from several nodes at once, slice by slice.
// Package swarm decides what is asked of whom.

const (
	maxHolders   = 8  // nodes with all of a bundle that are asked for it
	maxReceivers = 32 // nodes that fetch it, too
	lookAgain    = 300 * time.Millisecond
	fetchTick    = 50 * time.Millisecond
	stallSlice   = 10 * time.Second // without a byte
	stallFetch   = 30 * time.Second // without a slice
	distrustTime = 10 * time.Minute // for a node whose slice was wrong
)

// The outcomes of a request for a slice.
const (
	sliceOK      = "ok"
	sliceWrong   = "wrong"   // other bytes than those of the slice
	sliceAbsent  = "absent"  // the node does not have it, though it said so
	sliceBusy    = "busy"    // the node sends too many already
	sliceRefused = "refused" // by a rule
	sliceStalled = "stalled" // nothing came for too long
	sliceFailed  = "failed"  // on the way
	sliceLost    = "lost"    // it could not be written here
	sliceUseless = "useless" // another node was faster
)

var (
	errSliceStalled = fmt.Errorf("nothing came for %v", stallSlice)
	errSliceUseless = errors.New("another node was faster")
)

// fetching is the fetch of one bundle. Its fields belong to the goroutine of run; the others hand it what
// happened through events.
type fetching struct {
	r     *replicator
	rev   *perigee.Revision
	from  perigee.NodeID // has it, before it says so; "" = nobody
	into  *bundle.Partial
	swarm *swarm.Swarm

	ctx     context.Context
	events  chan func()
	work    sync.WaitGroup
	cancels map[swarm.Ask]context.CancelCauseFunc
	later   map[perigee.NodeID]time.Time // when a node that was dropped may be asked again
	errs    map[perigee.NodeID]error     // what was wrong with each last
	gave    map[perigee.NodeID]int       // slices that came from each
	fatal   error
}

// fetch brings a bundle that is not here. Calls for the same bundle share the work.
func (r *replicator) fetch(ctx context.Context, rev *perigee.Revision, from perigee.NodeID) error {
	if r.store.Has(rev.Bundle) {
		return nil
	}
	view := r.gossip.View()
	if rule, ok := placement.Allowed(policyOf(view, rev), r.self(), view.Desired.Regions); !ok {
		return fmt.Errorf("fetch the bundle of %s %s: %s may not hold it: %s", rev.Manifest.Name, rev.ID, r.self().ID, rule)
	}
	if err := r.room(rev); err != nil {
		return fmt.Errorf("fetch the bundle of %s %s: %w", rev.Manifest.Name, rev.ID, err)
	}
	_, err, _ := r.fetches.Do(rev.Bundle.String(), func() (any, error) {
		if r.store.Has(rev.Bundle) {
			return nil, nil
		}
		err := r.fetchSlices(ctx, rev, from)
		r.metrics.fetched(err)
		return nil, err
	})
	if err != nil {
		return fmt.Errorf("fetch the bundle of %s %s: %w", rev.Manifest.Name, rev.ID, err)
	}
	return nil
}

func (r *replicator) fetchSlices(ctx context.Context, rev *perigee.Revision, from perigee.NodeID) error {
	into, err := r.store.Partial(rev.Bundle, int64(rev.Size))
	if err != nil {
		return err
	}
	defer into.Close()
	self := r.self()
	f := &fetching{
		r: r, rev: rev, from: from, into: into, swarm: swarm.New(self.ID, self.Region, into.Count(), time.Now()),
		events: make(chan func(), 64), cancels: map[swarm.Ask]context.CancelCauseFunc{}, later: map[perigee.NodeID]time.Time{}, errs: map[perigee.NodeID]error{}, gave: map[perigee.NodeID]int{},
	}
	here, _, _ := into.After(0)
	for _, i := range here {
		f.swarm.Here(i)
	}
	began := time.Now()
	if err := f.run(ctx); err != nil {
		return err
	}
	if err := into.Commit(ctx); err != nil {
		return err
	}
	r.log.Info("bundle fetched", "function", rev.Manifest.Name, "digest", rev.Bundle, "nodes", len(f.gave), "dur", time.Since(began))
	return nil
}

// run asks for slices until all are here.
func (f *fetching) run(ctx context.Context) error {
	var cancel context.CancelFunc
	f.ctx, cancel = context.WithCancel(ctx)
	defer f.work.Wait()
	defer cancel()
	tick := time.NewTicker(fetchTick)
	defer tick.Stop()
	var looked time.Time
	for f.swarm.Left() > 0 {
		now := time.Now()
		if now.Sub(looked) > lookAgain {
			looked = now
			f.look(now)
		}
		if err := f.hopeless(now); err != nil {
			return err
		}
		for _, a := range f.swarm.Next(now) {
			f.ask(a)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.trouble())
		case event := <-f.events:
			event()
		case <-tick.C:
		}
	}
	return nil
}

// hopeless returns why no slice will come any more, or nil.
func (f *fetching) hopeless(now time.Time) error {
	all, complete := f.swarm.Sources()
	switch idle := now.Sub(f.swarm.Progress()); {
	case f.fatal != nil:
		return f.fatal
	case complete == 0 && len(f.errs) > 0 && (all == 0 || idle > stallSlice):
		return f.trouble()
	case all == 0:
		return errors.New("no node that is up says that it has it")
	case idle > stallFetch:
		return errors.Join(fmt.Errorf("no slice came for %v", stallFetch), f.trouble())
	}
	return nil
}

// trouble says what was wrong with the nodes that were asked.
func (f *fetching) trouble() error {
	var errs []error
	for id, err := range f.errs {
		errs = append(errs, fmt.Errorf("from %s: %w", id, err))
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// look finds nodes to ask: those that say they have the revision, and those that are to get it as this
// one is.
func (f *fetching) look(now time.Time) {
	view := f.r.gossip.View()
	holders := f.r.holders(f.rev.ID)
	if f.from != "" && !slices.Contains(holders, f.from) {
		holders = append([]perigee.NodeID{f.from}, holders...)
	}
	for _, id := range holders[:min(len(holders), maxHolders)] {
		f.join(id, true, now)
	}
	fn := view.Desired.Functions[f.rev.Manifest.Name]
	if fn == nil || fn.Live.ID != f.rev.ID {
		return
	}
	others := slices.DeleteFunc(slices.Clone(f.r.plans.at(view).Plan(fn).Holders), func(id perigee.NodeID) bool {
		p := view.Observed.Nodes[id]
		return id == f.r.self().ID || slices.Contains(holders, id) || p == nil || p.State != perigee.NodeAlive
	})
	others = f.r.nearest(others)
	for _, id := range others[:min(len(others), maxReceivers)] {
		f.join(id, false, now)
	}
}

func (f *fetching) join(id perigee.NodeID, complete bool, now time.Time) {
	if now.Before(f.later[id]) || f.r.distrusted(id, now) {
		return
	}
	src := swarm.Source{ID: id, Complete: complete}
	src.RTT, _ = f.r.rtt(id)
	if p := f.r.gossip.View().Observed.Nodes[id]; p != nil {
		src.Region = p.Region
	}
	if f.swarm.Join(src) && !complete {
		f.work.Go(func() { f.follow(id) })
	}
}

// drop asks a node no more, for a while.
func (f *fetching) drop(id perigee.NodeID, err error, pause time.Duration) {
	f.swarm.Drop(id)
	f.later[id] = time.Now().Add(pause)
	f.errs[id] = err
}

// tell hands an event to run.
func (f *fetching) tell(event func()) {
	select {
	case f.events <- event:
	case <-f.ctx.Done():
	}
}

func (f *fetching) get(ctx context.Context, from perigee.NodeID, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://perigee/bundles/"+f.rev.Manifest.Name+"/"+string(f.rev.ID)+path, nil)
	if err != nil {
		return nil, err
	}
	return f.r.control(from).RoundTrip(req)
}

// follow reads what a receiver says it has, until it has all.
func (f *fetching) follow(id perigee.NodeID) {
	err := f.readList(id)
	if err != nil && f.ctx.Err() == nil {
		f.tell(func() {
			if _, complete := f.swarm.Sources(); complete > 0 || !errors.Is(err, errNotComing) {
				f.errs[id] = err
			}
			f.swarm.Drop(id)
			f.later[id] = time.Now().Add(lookAgain)
		})
	}
}

var (
	errNotComing = errors.New("it does not fetch it")
	errFalseList = errors.New("it says that it has what can't be")
)

func (f *fetching) readList(id perigee.NodeID) error {
	resp, err := f.get(f.ctx, id, "/slices")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return errNotComing
	default:
		return errors.New(errorText(resp.Body))
	}
	in := bufio.NewReader(resp.Body)
	for n := 0; n < f.into.Count(); n++ {
		var b [4]byte
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return err
		}
		f.tell(func() {
			if !f.swarm.Announce(id, int(binary.BigEndian.Uint32(b[:]))) {
				f.drop(id, errFalseList, distrustTime)
			}
		})
	}
	return nil
}

// ask sends a request for a slice and keeps what comes.
func (f *fetching) ask(a swarm.Ask) {
	ctx, cancel := context.WithCancelCause(f.ctx)
	f.cancels[a] = cancel
	f.work.Go(func() {
		outcome, err := f.take(ctx, cancel, a)
		cancel(nil)
		if f.ctx.Err() != nil && outcome != sliceOK {
			return
		}
		f.r.metrics.slices.WithLabelValues(outcome).Inc()
		f.tell(func() { f.settle(a, outcome, err) })
	})
}

// settle draws the conclusions from the outcome of a request.
func (f *fetching) settle(a swarm.Ask, outcome string, err error) {
	delete(f.cancels, a)
	now := time.Now()
	switch outcome {
	case sliceOK:
		f.gave[a.From]++
		for _, other := range f.swarm.Arrived(a, now) {
			if cancel := f.cancels[other]; cancel != nil {
				cancel(errSliceUseless)
			}
		}
	case sliceUseless:
	case sliceBusy:
		f.swarm.Busy(a, now)
	case sliceLost:
		f.fatal = err
	case sliceWrong:
		f.r.distrust(a.From, now)
		f.r.log.Warn("a node sent a wrong slice of a bundle, and is not asked again for a while", "function", f.rev.Manifest.Name, "peer", a.From, "err", err)
		f.drop(a.From, err, distrustTime)
	default:
		f.drop(a.From, err, stallSlice)
	}
}

// take asks for a slice and keeps it, if it is one.
func (f *fetching) take(ctx context.Context, cancel context.CancelCauseFunc, a swarm.Ask) (outcome string, err error) {
	alarm := time.AfterFunc(stallSlice, func() { cancel(errSliceStalled) })
	defer alarm.Stop()
	defer func() {
		switch cause := context.Cause(ctx); {
		case outcome == sliceOK:
		case errors.Is(cause, errSliceStalled):
			outcome, err = sliceStalled, cause
		case errors.Is(cause, errSliceUseless):
			outcome, err = sliceUseless, cause
		}
	}()
	resp, err := f.get(ctx, a.From, "/slices/"+strconv.Itoa(a.Slice))
	if err != nil {
		return sliceFailed, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return sliceAbsent, errors.New(errorText(resp.Body))
	case http.StatusServiceUnavailable:
		return sliceBusy, errors.New(errorText(resp.Body))
	default:
		return sliceRefused, errors.New(errorText(resp.Body))
	}
	var sealed bytes.Buffer
	sealed.Grow(digest.MaxSealed + bytes.MinRead)
	if _, err := sealed.ReadFrom(io.LimitReader(noticed{resp.Body, alarm}, digest.MaxSealed+1)); err != nil {
		return sliceFailed, err
	}
	switch err := f.into.Add(a.Slice, sealed.Bytes()); {
	case errors.Is(err, digest.ErrSlice):
		return sliceWrong, err
	case err != nil:
		return sliceLost, err
	}
	return sliceOK, nil
}

// noticed sets an alarm anew whenever something comes.
type noticed struct {
	r     io.Reader
	alarm *time.Timer
}

func (n noticed) Read(b []byte) (int, error) {
	got, err := n.r.Read(b)
	n.alarm.Reset(stallSlice)
	return got, err
}

// distrust notes that a node sent something that is no slice of what it was asked for.
func (r *replicator) distrust(id perigee.NodeID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.liars[id] = now.Add(distrustTime)
}

// distrusted reports whether a node is not to be asked for bundles now.
func (r *replicator) distrusted(id perigee.NodeID, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until, ok := r.liars[id]; ok && now.After(until) {
		delete(r.liars, id)
	}
	_, bad := r.liars[id]
	return bad
}
