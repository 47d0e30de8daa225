package edgeproxy

import (
	"net/http"
	"sync"
	"time"
)

// Of a body that nobody wanted the rest may still come for lateBody before the end of the response leaves;
// then the connection is to end (HTTP/1), and the server reads on for lingering, so that a client that still
// sends finds the response and no reset.
const (
	lateBody  = 20 * time.Millisecond
	lingering = time.Second
)

// h2Buffer is what net/http holds back of a response over HTTP/2 before a Write can block.
const h2Buffer = 4 << 10

// stall bounds how long a client may make no progress while it sends or takes a body. It moves the
// deadlines of the connection (h1) or stream (h2) ahead of each read and write, so that a transfer
// may take as long as it likes as long as it moves. Writers without deadlines, as in tests, are
// left alone.
//
// A passed deadline hurts an h1 connection only if it writes then, so the deadline is moved late, and
// left where it is. It ends an h2 stream at once, so there it stands only while a write may block.
type stall struct {
	limit time.Duration
	h1    bool
	read  interface{ SetReadDeadline(time.Time) error }
	write interface{ SetWriteDeadline(time.Time) error }

	// armedWrite says when the write deadline was moved; zero = it is not armed. It is of one goroutine, the one that
	// writes the response, and over HTTP/1 the connection's: the next request finds it where this one left it.
	armedWrite *time.Time
	ownWrite   time.Time
	held       int // bytes written since the last flush

	mu        sync.Mutex // guards the read side: bodies are read by whoever sends them on
	armedRead time.Time
	hurried   bool // the read deadline is nearer than limit
	over      bool
}

func (s *stall) init(w http.ResponseWriter, protoMajor int, limit time.Duration, of *session) {
	s.limit, s.h1, s.armedWrite = limit, protoMajor == 1, &s.ownWrite
	if s.h1 && of != nil {
		s.armedWrite = &of.armedWrite
	}
	s.read, _ = w.(interface{ SetReadDeadline(time.Time) error })
	s.write, _ = w.(interface{ SetWriteDeadline(time.Time) error })
}

// beforeWrite is called before n bytes are written, and before a flush with n = h2Buffer.
func (s *stall) beforeWrite(n int) {
	if s.held += n; s.h1 || s.held >= h2Buffer {
		s.armWrite()
	}
}

// afterWrite is called after each write, and after a flush with flushed = true.
func (s *stall) afterWrite(flushed bool) {
	if flushed {
		s.held = 0
	}
	if !s.h1 && s.write != nil && !s.armedWrite.IsZero() {
		*s.armedWrite = time.Time{}
		_ = s.write.SetWriteDeadline(time.Time{}) // never fails
	}
}

// armWrite moves the write deadline. It saves most calls: the bound is between 3/4 of the limit and
// the limit.
func (s *stall) armWrite() {
	if s.write == nil {
		return
	}
	if now := time.Now(); now.Sub(*s.armedWrite) > s.limit/4 {
		*s.armedWrite = now
		_ = s.write.SetWriteDeadline(now.Add(s.limit)) // fails on closed connections, where Write will
	}
}

// beforeRead moves the read deadline in the same way, and no further than patience. The first read over
// HTTP/1 may write: it asks for a body that the client holds back (100 Continue), and the connection's
// write deadline may be one of an earlier request.
func (s *stall) beforeRead(first bool, patience time.Duration) {
	if s.read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if first && s.h1 && s.write != nil && !s.over {
		_ = s.write.SetWriteDeadline(now.Add(s.limit)) // fails on closed connections, where Read will
	}
	if !s.over && (now.Sub(s.armedRead) > s.limit/4 || patience < s.limit) {
		s.armedRead, s.hurried = now, patience < s.limit
		_ = s.read.SetReadDeadline(now.Add(min(s.limit, patience))) // fails on closed connections, where Read will
	}
}

// relax gives a read under way the whole limit.
func (s *stall) relax() {
	if s.read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && s.hurried {
		s.hurried = false
		s.armedRead = time.Now()
		_ = s.read.SetReadDeadline(s.armedRead.Add(s.limit)) // fails on closed connections
	}
}

// bodyEnded takes the read deadline away: the server reads on in the background, to notice a client
// that goes away, and would take a passed deadline for that.
func (s *stall) bodyEnded() {
	if s.read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		_ = s.read.SetReadDeadline(time.Time{}) // fails on closed connections
		s.armedRead, s.hurried = time.Time{}, false
	}
}

// abandon bounds the reading of a body that the handler leaves unread.
func (s *stall) abandon(after time.Duration) {
	if s.read == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	_ = s.read.SetReadDeadline(time.Now().Add(after)) // fails on closed connections
}
