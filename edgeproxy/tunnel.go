package edgeproxy

import (
	"context"
	"errors"
	"sync"
	"time"
)

// closeWait is how long a WebSocket may take to end after it was told to.
const closeWait = 5 * time.Second

// goingAway is a close frame of a server with status 1001: it goes away.
var goingAway = []byte{0x88, 2, 1001 >> 8, 1001 & 0xff}

var errWentAway = errors.New("the WebSocket did not end after it was told to")

// tunnel is the way from an origin to a client after their connection became a WebSocket. The bytes pass as
// they are; between two frames, goAway can put the server's word that it goes. The client answers that on the
// other way, and the origin ends.
type tunnel struct {
	send func(p []byte) (int, error) // writes and flushes; called with mu held
	end  context.CancelCauseFunc     // of the request

	mu     sync.Mutex // guards the rest
	frames frames
	away   bool // a close frame is to be sent
	said   bool // it was, or the tunnel is over: nothing may follow
}

// Write passes on what the origin sends.
func (t *tunnel) Write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for end := 0; n < len(p); {
		if t.said {
			return len(p), nil // too late
		}
		for end < len(p) {
			if end += t.frames.pass(p[end:]); t.away && t.frames.between() {
				break
			}
		}
		k, err := t.send(p[n:end])
		if n += k; err != nil {
			return n, err
		}
		if t.away && t.frames.between() {
			t.sayLocked()
		}
	}
	return n, nil
}

// goAway tells the client that the server goes, as soon as no frame is under way. The tunnel is ended if it
// does not end by itself then.
func (t *tunnel) goAway() {
	time.AfterFunc(closeWait, func() { t.end(errWentAway) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.away = true
	if !t.said && t.frames.between() {
		t.sayLocked()
	}
}

func (t *tunnel) sayLocked() {
	t.said = true
	_, _ = t.send(goingAway) // a client that is gone is told nothing
}

// over says that nothing may be sent any more.
func (t *tunnel) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.said = true
}

// tunnels are those that are open, so that a drain can end them.
type tunnels struct {
	mu   sync.Mutex // guards the rest
	open map[*tunnel]bool
	away bool
}

// add is called when a tunnel begins.
func (s *tunnels) add(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*tunnel]bool{}
	}
	s.open[t] = true
	if s.away {
		go t.goAway()
	}
}

// remove is called when it is over.
func (s *tunnels) remove(t *tunnel) {
	t.over()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, t)
}

// goAway tells all that are open, and those that are opened from now on.
func (s *tunnels) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	for t := range s.open {
		go t.goAway() // a client that takes nothing holds up nobody else
	}
}
