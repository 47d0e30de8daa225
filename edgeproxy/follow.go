package edgeproxy

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy/cache"
)

// ran is what is known of the run now.
func (v *visit) ran() ran { return ran{v.receipt, v.timing, v.where, v.tries} }

// takeRan has the client told where the function ran for another request.
func (v *visit) takeRan(r ran) {
	mine := v.receipt
	v.receipt = r.receipt
	v.receipt.Via, v.receipt.Entry, v.receipt.ID = mine.Via, mine.Entry, mine.ID
	v.timing, v.where, v.tries = r.timing, r.where, r.tries
}

// follow waits for a fetch that another client leads, and returns an entry if there is one for this client, too.
func (v *visit) follow(ctx context.Context, f *fetch, q *question) (*cache.Entry, error) {
	defer f.leave()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.settled:
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, v.blame(ctx, context.Cause(ctx))
	}
	now := time.Now()
	if e := f.entry; e != nil && !f.lone && (f.instead && e.Matches(q.header) || e.Shared(q.header, q.asks, now)) {
		return e, nil
	}
	return nil, nil
}

// lead passes the response to a fetch on to the client as it comes.
func (v *visit) lead(ctx context.Context, f *fetch, plan *cache.Plan) error {
	defer f.leave()
	gone := func() error { return v.blame(ctx, context.Cause(ctx)) }
	for head := false; !head; {
		select {
		case h := <-f.hints:
			maps.Copy(v.answer.Header(), h.header)
			v.answer.WriteHeader(h.status)
			clear(v.answer.Header())
		case <-f.headed:
			head = true
		case <-ctx.Done():
			return gone()
		}
	}
	if f.pending != nil && isConditional(v.in.Header) || f.status == 0 {
		select {
		case <-f.settled:
		case <-ctx.Done():
			return gone()
		}
	}
	v.takeRan(f.ran)
	s := cache.Status{Forward: plan.Why, Stored: f.pending != nil, Detail: f.why}
	select {
	case <-f.settled:
		switch {
		case f.entry != nil && f.instead:
			s.Status, s.Stored = f.status, false
			return v.serveStored(f.entry, cacheStale, s)
		case f.entry != nil && f.pending == nil:
			s.Status = f.status
			return v.serveStored(f.entry, cacheChecked, s)
		case f.entry != nil:
			return v.serveStored(f.entry, cacheMiss, s)
		}
	default:
	}
	if f.status == 0 {
		v.tellCache(cacheMiss, s)
		v.busy = f.visit.busy
		return f.failure()
	}
	if f.pending != nil {
		s.TTL, s.HasTTL = f.pending.Left(time.Now()), true
	}
	v.tellCache(cacheMiss, s)
	return v.stream(ctx, f)
}

// failure returns why there is no response.
func (f *fetch) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(f.err, errClientGone) { // of the cache, which ended it
		return errLost
	}
	return f.err
}

// stream writes the response as it comes.
func (v *visit) stream(ctx context.Context, f *fetch) error {
	h := v.answer.Header()
	maps.Copy(h, f.head)
	v.answer.WriteHeader(f.status)
	if v.answer.bad != nil {
		return v.answer.bad
	}
	if v.answer.promised < 0 && !v.answer.bodiless {
		if v.answer.FlushError() != nil {
			return errClientGone
		}
	}
	for {
		part, over, err := f.next(ctx)
		switch {
		case over && err != nil:
			return errLost
		case over:
			f.mu.Lock()
			maps.Copy(h, f.trailer)
			last := f.last
			f.mu.Unlock()
			v.takeRan(last)
			return nil
		case err != nil:
			return v.blame(ctx, err)
		}
		if _, err := v.answer.Write(part); err != nil {
			return errClientGone
		}
		if v.answer.promised > v.answer.sent {
			if v.answer.FlushError() != nil {
				return errClientGone
			}
		}
	}
}
