package peerlink

import (
	"io"
	"net/http"
	"sync"

	"github.com/quic-go/quic-go"
)

// requestBody is the body of a request at the worker. Reading it accepts the request, since the
// requester sends nothing before. Close may be called while Read waits.
type requestBody struct {
	st *quic.Stream
	w  *responder
	r  *http.Request

	mu     sync.Mutex // guards the fields below; a reader holds it while it waits
	fr     frameReader
	remain int64 // bytes that the request's size still promises; -1 = no promise
	err    error // what Read returns from now on
}

// Read reads the body. At its end the trailers are in the request.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	if b.err = b.w.acceptForBody(); b.err != nil {
		return 0, b.err
	}
	n, err := b.read(p)
	if b.remain >= 0 {
		b.remain -= int64(n)
		if b.remain < 0 {
			err = malformed("more data than the request's size")
		} else if b.remain > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
	}
	b.err = streamErr(err)
	return n, b.err
}

func (b *requestBody) read(p []byte) (int, error) {
	if b.fr.left == 0 {
		t, size, err := b.fr.next()
		switch {
		case err != nil:
			return 0, err
		case t == frameEnd:
			_, trailer, err := readEndFrame(&b.fr, size)
			if err != nil {
				return 0, err
			}
			b.r.Trailer = mergeTrailer(b.r.Trailer, trailer)
			return 0, io.EOF
		case t != frameData:
			return 0, malformed("frame type %#02x in a body", byte(t))
		}
	}
	return b.fr.data(p)
}

// Close tells the requester that the rest is not needed.
func (b *requestBody) Close() error {
	b.st.CancelRead(quic.StreamErrorCode(ResetNone)) // nothing if the end was read; wakes a Read
	return nil
}

// giveUp is called when the handler has returned.
func (b *requestBody) giveUp() {
	_ = b.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	b.fr.release()
}
