package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// sleepIdle puts the revisions to sleep that were not used for the longest time, until the mapped code of
// all is within its budget. One that is in use stays awake, and so does the one used last.
func (r *Runtime) sleepIdle() {
	r.mu.RLock()
	var awake []*revision
	total := perigee.Bytes(0)
	for _, rev := range r.revs {
		if !rev.asleep.Load() {
			awake = append(awake, rev)
			total += rev.receipt.Size
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(awake, func(a, b *revision) int { return cmp.Compare(a.last.Load(), b.last.Load()) })
	for _, rev := range awake[:max(0, len(awake)-1)] {
		if total <= r.config.CodeMemory {
			return
		}
		if r.sleep(rev) {
			total -= rev.receipt.Size
		}
	}
}

// sleep gives up the code of a revision that nobody uses, and reports whether it could.
func (r *Runtime) sleep(rev *revision) bool {
	if !rev.waking.TryLock() {
		return false
	}
	defer rev.waking.Unlock()
	r.mu.Lock()
	idle := rev.refs.Load() == 1 && r.revs[rev.id] == rev // acquire needs mu, and sees asleep from here on
	if idle {
		rev.asleep.Store(true)
		rev.refs.Add(1) // Unload must not close it meanwhile
	}
	r.mu.Unlock()
	if idle {
		rev.module.Sleep()
		rev.unref()
		r.config.Metrics.sleeps.Inc()
		rev.logger.Debug("code unmapped")
	}
	return idle
}

// wake maps the code of a sleeping revision again, of which the caller has a reference. Errors:
// ErrNotLoaded if the cache does not have it any more; the revision is unloaded then.
func (r *Runtime) wake(ctx context.Context, rev *revision) error {
	rev.waking.Lock()
	defer rev.waking.Unlock()
	if !rev.asleep.Load() {
		return nil
	}
	start := time.Now()
	done, err := r.queue(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := r.mapAgain(ctx, rev); err != nil {
		r.Unload(rev.id)
		rev.logger.Warn("compiled code can't be mapped again", "err", err)
		return fmt.Errorf("map the code again: %w", ErrNotLoaded)
	}
	rev.asleep.Store(false)
	r.config.Metrics.loadSeconds.Observe(time.Since(start).Seconds())
	return nil
}

// mapAgain maps the code and verifies meanwhile that it is what was compiled: mapping does not run it.
func (r *Runtime) mapAgain(ctx context.Context, rev *revision) error {
	wasm, err := r.keptModule(rev.receipt)
	if err != nil {
		return err
	}
	if err := r.checkCode(rev.receipt); err != nil {
		return err
	}
	var damaged error
	var verify sync.WaitGroup
	verify.Go(func() { _, damaged = r.readReceipt(rev.receipt.Module) })
	err = rev.module.Wake(ctx, wasm)
	verify.Wait()
	damaged = errors.Join(damaged, r.checkCode(rev.receipt))
	if err == nil && damaged != nil {
		rev.module.Sleep()
	}
	return errors.Join(err, damaged)
}
