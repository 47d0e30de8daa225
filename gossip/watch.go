package gossip

import (
	"context"
	"sync"
)

// watchers are the channels that hear of each new View.
type watchers struct {
	mu  sync.Mutex // guards set; channels are sent to and closed only under it
	set map[chan struct{}]bool
}

// watch returns a channel with room for one signal. It is closed here, when ctx ends.
func (w *watchers) watch(ctx context.Context) <-chan struct{} {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.set == nil {
		w.set = map[chan struct{}]bool{}
	}
	w.set[ch] = true
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.set, ch)
		close(ch)
	})
	return ch
}

func (w *watchers) signal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.set {
		select {
		case ch <- struct{}{}:
		default: // one is pending already
		}
	}
}
