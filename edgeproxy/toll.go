package edgeproxy

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// A client of HTTP/2 pays for each frame that it sends, and gets that back with what is answered: a request has a
// few frames around it, and so has what is sent. One that has us read frames for nothing (pings, settings, resets,
// windows, empty or unknown frames) has soon spent what it had. The unit is an eighth of a frame's price, since
// small parts of a body may come faster than a function reads them; what it has read is paid back by the byte.
const (
	tollFrame  = 8
	tollPart   = 1 // for a part of a body of less than tollSmall bytes; larger ones are free
	tollBurst  = 300 * tollFrame
	tollRate   = 50 * tollFrame // a second
	tollAnswer = 16 * tollFrame // back, for the head of a response
	tollData   = 4 * tollFrame  // back, for a part of its body: the client moves two windows
	tollMost   = 16 * tollBurst // what a client can have saved: it moves windows later
	tollSmall  = 1 << 10
)

var errToll = errors.New("too many frames for what was asked: enhance your calm")

// toll is what a connection has left to spend.
type toll struct {
	left  atomic.Int64
	since time.Time // when the last of the rate was taken; of who calls pay
}

func (t *toll) init(now time.Time) {
	t.left.Store(tollBurst)
	t.since = now
}

// pay takes n, and reports whether there was as much.
func (t *toll) pay(n int64) bool {
	if t.left.Add(-n) >= 0 {
		return true
	}
	now := time.Now()
	t.left.Add(int64(min(tollBurst, now.Sub(t.since).Seconds()*tollRate)))
	t.since = now
	return t.left.Load() >= 0
}

// refund gives n back, up to a bound. nil pays nothing.
func (t *toll) refund(n int) {
	if t != nil && n > 0 && t.left.Load() < tollMost {
		t.left.Add(int64(n))
	}
}

// tollConn is a connection of HTTP/2 whose client pays.
type tollConn struct {
	*tls.Conn
	gather  *gather
	toll    *toll
	in, out frameWalk
	ended   func() // called when the toll was not paid
}

// newTollConn is called before the client's preface is read.
func newTollConn(c *tls.Conn, stall time.Duration, t *toll, ended func()) *tollConn {
	t.init(time.Now())
	return &tollConn{Conn: c, gather: newGather(c, stall), toll: t, in: frameWalk{skip: len(http2.ClientPreface)}, ended: ended}
}

// Read reads what the client sends, until it has not paid for it.
func (c *tollConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var due int64
	c.in.walk(p[:n], func(f http2.FrameHeader) { due += price(f) })
	if due > 0 && !c.toll.pay(due) {
		c.ended()
		c.gather.fail(errToll)
		return 0, errToll
	}
	return n, err
}

// Write refunds what an answer is worth.
func (c *tollConn) Write(p []byte) (int, error) {
	var back int
	c.out.walk(p, func(f http2.FrameHeader) {
		switch {
		case f.Type == http2.FrameHeaders:
			back += tollAnswer
		case f.Type == http2.FrameData && f.Length > 0:
			back += tollData
		}
	})
	c.toll.refund(back)
	return c.gather.Write(p)
}

// SetWriteDeadline does nothing: gather has its own.
func (c *tollConn) SetWriteDeadline(time.Time) error { return nil }

// Close sends what was written, and ends the connection.
func (c *tollConn) Close() error {
	_ = c.gather.Close() // never fails
	return c.Conn.Close()
}

// price is what reading a frame costs.
func price(f http2.FrameHeader) int64 {
	switch {
	case f.Type == http2.FrameData && f.Length < tollSmall:
		return tollPart
	case f.Type == http2.FrameData:
		return 0
	case f.Type == http2.FrameSettings:
		return tollFrame * (1 + int64(f.Length/6)) // each of which may move all windows
	}
	return tollFrame
}

// frameWalk finds the headers of frames in a stream of HTTP/2 (RFC 9113, section 4.1).
type frameWalk struct {
	head [9]byte
	have int
	skip int // bytes until the next header
}

func (w *frameWalk) walk(p []byte, each func(http2.FrameHeader)) {
	for len(p) > 0 {
		if n := min(w.skip, len(p)); n > 0 {
			w.skip -= n
			p = p[n:]
			continue
		}
		n := copy(w.head[w.have:], p)
		p = p[n:]
		if w.have += n; w.have < len(w.head) {
			return
		}
		w.have = 0
		size := binary.BigEndian.Uint32(w.head[:4]) >> 8
		w.skip = int(size)
		each(http2.FrameHeader{Length: size, Type: http2.FrameType(w.head[3]), Flags: http2.Flags(w.head[4])})
	}
}
