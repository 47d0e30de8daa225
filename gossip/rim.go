package gossip

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// rim connects the core with the world: it gives it events one at a time and carries out what it
// asks for.
type rim struct {
	mu   sync.Mutex    // guards the core
	poke chan struct{} // room for one: at changed; never closed

	stateMu sync.Mutex // guards the fields below
	at      time.Time  // when the core wants a Tick; zero = never
	asked   uint64     // number of the last question asked of the core
	replies map[uint64]chan<- Reply
	results map[uint64]chan<- Outcome
	spawn   func(func(context.Context)) // nil while Run does not run
}

// step gives the core an event and carries out the effects. It returns when what was to be stored is
// stored; messages to peers are sent by goroutines of their own.
func (g *Gossip) step(e Event) { g.perform(g.stepCore(e)) }

// stepCore gives the core an event and publishes what it made of it, so that Views come in order.
func (g *Gossip) stepCore(e Event) Effects {
	g.mu.Lock()
	defer g.mu.Unlock()
	start := time.Now()
	out := g.core.Step(start, e)
	if out.Desired {
		g.metrics.Held.Set(float64(len(g.core.set.byID)))
		g.metrics.State.Set(float64(g.core.set.bytes))
		g.publishDesired(g.core.fold)
	}
	g.metrics.Waiting.Set(float64(g.core.pending.len()))
	g.metrics.Step.Observe(time.Since(start).Seconds())
	return out
}

func (g *Gossip) perform(out Effects) {
	g.metrics.count(out.Counts)
	for _, err := range out.Refused {
		g.logger.Debug("not taken from a peer", "err", err)
	}
	for _, a := range out.Aside {
		g.keepAside(a)
	}
	if out.Observed {
		g.wakeObserver()
	}
	if out.Outrun.Node != "" {
		g.own.outrun(out.Outrun)
	}
	g.wakeAt(out.Wake)
	for _, r := range out.Replies {
		deliver(&g.rim, g.replies, r.Number, r)
	}
	for _, r := range out.Outcomes {
		deliver(&g.rim, g.results, r.Number, r)
	}
	for _, c := range out.Calls {
		g.send(c)
	}
	if len(out.Store) > 0 {
		for _, out := range g.disk.store(out.Store, g.stepCore) {
			g.perform(out)
		}
	}
}

// deliver hands something to whoever waits for it.
func deliver[T any](r *rim, waiting map[uint64]chan<- T, number uint64, what T) {
	r.stateMu.Lock()
	ch := waiting[number]
	delete(waiting, number)
	r.stateMu.Unlock()
	if ch != nil {
		ch <- what
	}
}

// ask gives the core a question and waits for what answers it, or until ctx ends.
func ask[T any](ctx context.Context, g *Gossip, waiting map[uint64]chan<- T, event func(number uint64) Event) (answer T, err error) {
	ch := make(chan T, 1)
	g.stateMu.Lock()
	g.asked++
	number := g.asked
	waiting[number] = ch
	g.stateMu.Unlock()
	g.step(event(number))
	select {
	case answer = <-ch:
		return answer, nil
	case <-ctx.Done():
		g.stateMu.Lock()
		delete(waiting, number)
		g.stateMu.Unlock()
		return answer, context.Cause(ctx)
	}
}

func (g *Gossip) wakeAt(t time.Time) {
	g.stateMu.Lock()
	changed := !g.at.Equal(t)
	g.at = t
	g.stateMu.Unlock()
	if changed {
		select {
		case g.poke <- struct{}{}:
		default:
		}
	}
}

// tickLoop gives the core its Ticks.
func (g *Gossip) tickLoop(ctx context.Context) {
	for ctx.Err() == nil {
		g.stateMu.Lock()
		at := g.at
		g.stateMu.Unlock()
		d := time.Hour
		if !at.IsZero() {
			d = time.Until(at)
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
			g.step(Tick{})
		case <-g.poke:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// run lets the rim send messages; a nil spawn takes this back.
func (g *Gossip) run(spawn func(func(context.Context))) {
	g.stateMu.Lock()
	g.spawn = spawn
	g.stateMu.Unlock()
}

// send calls a peer, and gives the core the answer.
func (g *Gossip) send(c Call) {
	g.stateMu.Lock()
	defer g.stateMu.Unlock()
	if g.spawn == nil {
		go g.step(Failed{c.Number, errors.New("gossip does not run")})
		return
	}
	g.spawn(func(ctx context.Context) {
		tell, err := g.post(ctx, c)
		if err != nil {
			g.step(Failed{c.Number, err})
		} else {
			g.step(Answered{c.Number, tell})
		}
	})
}

// post sends one message to a peer, reads the answer, and notes whether there was one.
func (g *Gossip) post(ctx context.Context, c Call) (Message, error) {
	body, err := encode(c.Message)
	if err != nil {
		return nil, err
	}
	callCtx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	path, began := pathOf(c.Message), time.Now()
	var reply []byte
	if c.To.Addr.IsValid() {
		reply, err = g.conf.Mesh.CallAddr(callCtx, c.To.Addr, path, body)
	} else {
		reply, err = g.conf.Mesh.Call(callCtx, c.To.ID, path, body)
	}
	switch {
	case err != nil && ctx.Err() == nil && c.To.ID != "":
		g.members.silent(c.To.ID, began)
	case err == nil && !c.To.Addr.IsValid():
		g.members.heard(c.To.ID, time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("call %s of %s: %w", path, c.To.name(), err)
	}
	tell := newTell(path)
	return tell, decode(reply, tell)
}

func (p Peer) name() string {
	if p.ID != "" {
		return string(p.ID)
	}
	return p.Addr.String()
}
