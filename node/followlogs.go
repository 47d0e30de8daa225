package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// logFeed is what one follower is sent: what the nodes have kept in one order, and from then on what
// comes, as it comes.
type logFeed struct {
	emit func([]LogEvent) error
	stop context.CancelFunc

	mu      sync.Mutex // guards all below, and emit
	backlog *merger    // nil = it was sent
	waiting map[perigee.NodeID]bool
	since   map[perigee.NodeID]time.Time // of the last line of a node, to go on after
	named   map[perigee.NodeID]bool      // as one that does not answer
}

// followLogs sends the function's lines on all nodes, or on one, until ctx ends or the reader is gone. A
// node that stops answering is named, and followed again when it is back.
func (n *Node) followLogs(ctx context.Context, q logQuery, only perigee.NodeID, emit func([]LogEvent) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &logFeed{
		emit: emit, stop: cancel, backlog: &merger{},
		waiting: map[perigee.NodeID]bool{}, since: map[perigee.NodeID]time.Time{}, named: map[perigee.NodeID]bool{},
	}
	ended := make(chan perigee.NodeID)
	followed := map[perigee.NodeID]bool{} // and not ended
	var all sync.WaitGroup
	defer func() {
		cancel()
		go func() {
			all.Wait()
			close(ended)
		}()
		for range ended {
		}
	}()
	look := func() {
		for _, p := range byID(n.View().Observed.Nodes) {
			err := askable(p)
			switch {
			case only != "" && p.ID != only, followed[p.ID]:
			case err != nil:
				f.ended(p.ID, err)
			default:
				followed[p.ID] = true
				own := f.begin(p.ID, q)
				all.Go(func() {
					if err := n.readLogs(ctx, p, own, f.take); ctx.Err() == nil {
						f.ended(p.ID, err)
					}
					ended <- p.ID
				})
			}
		}
	}
	look()
	patience := time.NewTimer(askTime) // for the slowest to send what it has kept
	defer patience.Stop()
	tick := time.NewTicker(logRedial)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-ended:
			delete(followed, id)
		case <-patience.C:
			f.release()
		case <-tick.C:
			look()
			f.beat()
		}
	}
}

// begin returns the question for a node: what came after its last line.
func (f *logFeed) begin(id perigee.NodeID, q logQuery) logQuery {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, ok := f.since[id]; ok {
		q.since = last.Add(1)
	} else if f.backlog != nil {
		f.waiting[id] = true
	}
	return q
}

// take passes events of a node on.
func (f *logFeed) take(events []LogEvent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		delete(f.named, e.Node)
		if e.Line != nil && e.Line.Time.After(f.since[e.Node]) {
			f.since[e.Node] = e.Line.Time
		}
		if e.CaughtUp {
			delete(f.waiting, e.Node)
		}
	}
	if f.backlog == nil {
		return f.sendLocked(slices.DeleteFunc(events, func(e LogEvent) bool { return e.CaughtUp }))
	}
	f.backlog.add(events)
	if len(f.waiting) == 0 {
		return f.releaseLocked()
	}
	return nil
}

// ended is called when a node has nothing more to send, or can't be asked. It is named once, until
// something comes from it again.
func (f *logFeed) ended(id perigee.NodeID, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.waiting, id); len(f.waiting) == 0 {
		_ = f.releaseLocked()
	}
	if err != nil && !f.named[id] {
		f.named[id] = true
		_ = f.sendLocked([]LogEvent{{Node: id, Error: err.Error()}})
	}
}

// release sends what has been kept so far, and waits for nobody any more.
func (f *logFeed) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.releaseLocked()
}

func (f *logFeed) releaseLocked() error {
	if f.backlog == nil {
		return nil
	}
	events := append(f.backlog.sorted(), LogEvent{CaughtUp: true})
	f.backlog = nil
	return f.sendLocked(events)
}

// beat is a sign of life.
func (f *logFeed) beat() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.sendLocked(nil)
}

// sendLocked sends events to the reader. One that is gone ends everything.
func (f *logFeed) sendLocked(events []LogEvent) error {
	err := f.emit(events)
	if err != nil {
		f.stop()
	}
	return err
}
