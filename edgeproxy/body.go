package edgeproxy

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// maxReplay is how much of a request's body is kept, so that it can be sent to another node.
const maxReplay = 64 << 10

// body is the body of a client's request. Each try reads it through a view of its own, from the
// start: what earlier tries have read is kept as long as it is small.
type body struct {
	src     io.Reader // of the server, which closes it
	stall   *stall
	toll    *toll       // of the connection; nil = none is taken
	chunked bool        // its length was not said
	trailer http.Header // filled by src at its end; shared with the requests made from this one

	size atomic.Int64 // bytes read from src
	keep atomic.Bool  // until the response begins
	fail atomic.Pointer[error]

	first func() // called before the first read of src; nil = nothing is to be done

	rate int64 // bytes a second that the client must send before the response begins; negative = any

	mu     sync.Mutex // held while src is read; guards the rest
	waited time.Duration
	kept   []byte // what was read from src, unless gone
	ended  bool
}

// bodyState says whether a body can be sent once more.
type bodyState uint8

const (
	bodyUntouched bodyState = iota // nothing was read, or there is none
	bodyKept                       // all that was read is kept
	bodyGone                       // too much was read
	bodyFailed                     // the client did not send it whole
)

// Of a body that nobody wanted so much is read, so that the connection can be used again. Chunks may be a byte
// each, which costs much more to read.
const (
	maxUnread       = 256 << 10
	maxUnreadChunks = 16 << 10
)

var (
	errBodyGone = errors.New("the request's body was sent already and is too large to keep")
	errBodyLeft = errors.New("the request is over")
)

func newBody(r *http.Request, s *stall, rate int64) *body {
	cleanTrailer(r.Trailer)
	b := &body{src: r.Body, stall: s, chunked: r.ContentLength < 0, trailer: r.Trailer, rate: rate}
	b.keep.Store(true)
	return b
}

// state may be called while another goroutine still reads for a try that failed.
func (b *body) state() bodyState {
	switch {
	case b == nil:
		return bodyUntouched
	case b.fail.Load() != nil:
		return bodyFailed
	case b.size.Load() == 0:
		return bodyUntouched
	case b.size.Load() <= maxReplay:
		return bodyKept
	}
	return bodyGone
}

// err returns why the client did not send the body whole, or nil.
func (b *body) err() error {
	if b == nil {
		return nil
	}
	if e := b.fail.Load(); e != nil {
		return *e
	}
	return nil
}

// settled says that no other try follows, so that nothing more needs to be kept.
func (b *body) settled() {
	if b != nil {
		b.keep.Store(false)
		b.stall.relax()
	}
}

// view returns a reader of the whole body, and one for nobody if b is nil. Closing it ends its reads,
// but not the body.
func (b *body) view() io.ReadCloser {
	if b == nil {
		return http.NoBody
	}
	return &bodyView{body: b}
}

// bodyView is the body as one try reads it.
type bodyView struct {
	body   *body
	off    int64 // guarded by body.mu
	closed atomic.Bool
}

// Read waits until a Read of another view has ended.
func (v *bodyView) Read(p []byte) (int, error) {
	b := v.body
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case v.closed.Load():
		return 0, http.ErrBodyReadAfterClose
	case v.off < int64(len(b.kept)):
		n := copy(p, b.kept[v.off:])
		v.off += int64(n)
		return n, nil
	case v.off != b.size.Load():
		return 0, errBodyGone
	}
	n, err := b.readLocked(p)
	v.off += int64(n)
	return n, err
}

// Close lets a Read of another view go on once the one under way has ended.
func (v *bodyView) Close() error {
	v.closed.Store(true)
	return nil
}

func (b *body) readLocked(p []byte) (int, error) {
	if err := b.err(); err != nil {
		return 0, err
	}
	if b.ended {
		return 0, io.EOF
	}
	if b.first != nil {
		b.first()
		b.first = nil
	}
	began := time.Now()
	b.stall.beforeRead(b.size.Load() == 0, b.patience())
	n, err := b.src.Read(p)
	b.waited += time.Since(began)
	b.toll.refund(n)
	if size := b.size.Add(int64(n)); size <= maxReplay && b.keep.Load() {
		b.kept = append(b.kept, p[:n]...)
	} else {
		b.kept = nil
	}
	switch {
	case err == io.EOF:
		b.ended = true
		b.stall.bodyEnded()
		cleanTrailer(b.trailer)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errBodyStalled
		b.fail.Store(&err)
	case err != nil:
		err = errBodyBroken
		b.fail.Store(&err)
	}
	return n, err
}

// patience returns how long the next bytes may be waited for: a client that sends a byte now and then would
// hold a function for ever. Once the response has begun the two may be talking, at whatever pace.
func (b *body) patience() time.Duration {
	if b.rate < 0 || !b.keep.Load() {
		return b.stall.limit
	}
	earned := time.Duration(float64(b.size.Load()) / float64(b.rate) * float64(time.Second))
	return max(0, b.stall.limit+earned-b.waited)
}

// drain reads the rest of the body for nobody, and reports whether it came to its end. Whoever else reads
// gets an error from now on.
func (b *body) drain() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended && b.fail.CompareAndSwap(nil, &errBodyLeft) {
		most := int64(maxUnread)
		if b.chunked {
			most = maxUnreadChunks
		}
		_, err := io.CopyN(io.Discard, b.src, most)
		b.ended = err == io.EOF
	}
	return b.ended
}

// awaitRead waits until no Read is under way.
func (b *body) awaitRead() {
	b.mu.Lock()
	defer b.mu.Unlock()
}

// atEnd reports whether the body was read to its end. It does not wait for a Read under way.
func (b *body) atEnd() bool {
	if b == nil {
		return true
	}
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.ended
}
