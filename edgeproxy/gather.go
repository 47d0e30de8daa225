package edgeproxy

import (
	"net"
	"sync"
	"time"
)

// gatherMost is how many bytes wait for a connection besides those that are being sent.
const gatherMost = 32 << 10

// gather sends what is written to a connection, in the order of its writing: all that was written while the last
// piece was sent goes as the next one. Responses that are ready at the same time so share a TLS record and a system
// call, which cost more than they do. One that is alone is sent at once.
//
// Write and Close may be called by several goroutines. A failure is told by the next Write.
type gather struct {
	to    net.Conn
	limit time.Duration // for a piece

	mu      sync.Mutex // guards the rest
	work    sync.Cond  // of run: something waits, or nothing more will
	room    sync.Cond  // of Write
	waiting []byte
	err     error
	closed  bool

	armed time.Time     // of run: when the deadline of to was moved
	done  chan struct{} // closed by run at its end
}

// newGather starts the goroutine that sends. Whoever calls it calls Close.
func newGather(to net.Conn, limit time.Duration) *gather {
	g := &gather{to: to, limit: limit, done: make(chan struct{})}
	g.work.L, g.room.L = &g.mu, &g.mu
	go g.run()
	return g
}

// Write takes p to be sent. It blocks while too much waits.
func (g *gather) Write(p []byte) (n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for len(g.waiting) >= gatherMost && g.err == nil && !g.closed {
			g.room.Wait()
		}
		switch {
		case g.err != nil:
			return n, g.err
		case g.closed:
			return n, net.ErrClosed
		}
		part := p[n:min(len(p), n+gatherMost-len(g.waiting))]
		g.waiting = append(g.waiting, part...)
		g.work.Signal()
		if n += len(part); n == len(p) {
			return n, nil
		}
	}
}

// run sends until the connection is closed or broken.
func (g *gather) run() {
	defer close(g.done)
	var sending []byte
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for len(g.waiting) == 0 && g.err == nil && !g.closed {
			if cap(sending)+cap(g.waiting) > h2Buffer {
				sending, g.waiting = nil, nil // a connection on which nothing happens holds little
			}
			g.work.Wait()
		}
		if len(g.waiting) == 0 || g.err != nil {
			return
		}
		sending, g.waiting = g.waiting, sending[:0]
		g.room.Signal()
		g.mu.Unlock()
		err := g.send(sending)
		g.mu.Lock()
		if err != nil && g.err == nil {
			g.err = err
			g.room.Broadcast()
		}
	}
}

// send moves the deadline late: the bound is between 3/4 of the limit and the limit.
func (g *gather) send(p []byte) error {
	if now := time.Now(); now.Sub(g.armed) > g.limit/4 {
		g.armed = now
		_ = g.to.SetWriteDeadline(now.Add(g.limit)) // fails on closed connections, where Write will
	}
	_, err := g.to.Write(p)
	return err
}

// fail drops what waits: nobody is to have it.
func (g *gather) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.work.Signal()
	g.room.Broadcast()
}

// Close returns when what waits was sent, or could not be; after fail at once.
func (g *gather) Close() error {
	g.mu.Lock()
	g.closed = true
	failed := g.err
	g.mu.Unlock()
	g.work.Signal()
	g.room.Broadcast()
	if failed == nil {
		<-g.done
	}
	return nil
}
