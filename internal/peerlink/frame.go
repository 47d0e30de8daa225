package peerlink

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/quic-go/quic-go/quicvarint"
)

type frameType byte

const (
	frameRequest  frameType = 0x01
	frameAccepted frameType = 0x02
	frameRefused  frameType = 0x03
	frameResponse frameType = 0x04
	frameData     frameType = 0x05
	frameEnd      frameType = 0x06
	frameRaw      frameType = 0x07

	firstSkippable frameType = 0x80

	frameInterim frameType = 0x80 // older releases skip it
)

const (
	frameVersion = 1

	maxHead    = 64 << 10 // payload of a request, response or end frame
	maxSmall   = 1 << 10  // payload of an accepted, refused or raw frame
	maxFields  = 256
	maxSkipped = 16 // frames skipped in a row

	// dataChunk is how much of a body goes into one frame. It is a little less than what quic-go
	// hands to the kernel in one call (20 KiB), and what a response may hold back until it is full
	// or flushed.
	dataChunk = 16 << 10
)

// formatError is the peer's breach of the format. It becomes a reset with its code.
type formatError struct {
	code ResetCode
	text string
}

func (e *formatError) Error() string { return "peer frame: " + e.text }

func malformed(format string, args ...any) error {
	return &formatError{ResetProtocol, fmt.Sprintf(format, args...)}
}

// resetCodeOf returns the code to reset a stream with after err.
func resetCodeOf(err error) ResetCode {
	var fe *formatError
	if errors.As(err, &fe) {
		return fe.code
	}
	return ResetProtocol
}

// beginFrame appends a frame header whose length endFrame fills in, and returns where the payload
// starts.
func beginFrame(b []byte, t frameType) ([]byte, int) {
	b = append(b, byte(t), frameVersion, 0x80, 0, 0, 0) // 0x80: the length is a varint of 4 bytes
	return b, len(b)
}

func endFrame(b []byte, payload int) {
	binary.BigEndian.PutUint32(b[payload-4:], 0x80<<24|uint32(len(b)-payload))
}

// frameReader reads the frames of one direction of a stream. It is not safe for concurrent use.
type frameReader struct {
	br   *bufio.Reader // from readerPool; nil after release
	left uint64        // unread bytes of the current data frame
}

var readerPool = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

func newFrameReader(r io.Reader) frameReader {
	br := readerPool.Get().(*bufio.Reader)
	br.Reset(r)
	return frameReader{br: br}
}

// release gives the buffer back. The reader behaves as if at the end of its input afterwards.
func (r *frameReader) release() {
	if r.br != nil {
		r.br.Reset(nil)
		readerPool.Put(r.br)
		r.br, r.left = nil, 0
	}
}

// next reads a frame's header and skips frames that it may skip. It returns io.EOF only between
// frames. For a data frame it sets left; other payloads are read with payload.
func (r *frameReader) next() (frameType, uint64, error) {
	if r.br == nil {
		return 0, 0, io.EOF
	}
	for range maxSkipped + 1 {
		t, size, err := r.header()
		if err != nil {
			return 0, 0, err
		}
		limit := uint64(maxSmall)
		switch t {
		case frameData:
			if size == 0 {
				return 0, 0, malformed("empty data frame")
			}
			r.left = size
			return t, size, nil
		case frameRequest, frameResponse, frameEnd, frameInterim:
			limit = maxHead
		case frameAccepted, frameRefused, frameRaw:
		default:
			if t < firstSkippable {
				return 0, 0, malformed("unknown frame type %#02x: upgrade this node", byte(t))
			}
			limit = maxHead
		}
		if size > limit {
			return 0, 0, malformed("frame type %#02x of %d bytes, the limit is %d", byte(t), size, limit)
		}
		if t < firstSkippable || t == frameInterim {
			return t, size, nil
		}
		if _, err := r.br.Discard(int(size)); err != nil {
			return 0, 0, midFrame(err)
		}
	}
	return 0, 0, malformed("more than %d unknown frames in a row", maxSkipped)
}

func (r *frameReader) header() (frameType, uint64, error) {
	t, err := r.br.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	v, err := r.br.ReadByte()
	if err != nil {
		return 0, 0, midFrame(err)
	}
	if v != frameVersion {
		return 0, 0, &formatError{ResetVersion, fmt.Sprintf("format version %d, this release reads %d: upgrade the older node", v, frameVersion)}
	}
	size, err := quicvarint.Read(r.br)
	if err != nil {
		return 0, 0, midFrame(err)
	}
	return frameType(t), size, nil
}

// payload reads a payload of n bytes, which next has bounded. A long one takes memory only as it
// arrives.
func (r *frameReader) payload(n uint64) (string, error) {
	if n <= uint64(r.br.Size()) {
		b, err := r.br.Peek(int(n))
		if err != nil {
			return "", midFrame(err)
		}
		s := string(b)
		_, err = r.br.Discard(len(b))
		return s, err
	}
	b, err := io.ReadAll(io.LimitReader(r.br, int64(n)))
	if err == nil && uint64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	return string(b), err
}

// data reads bytes of the current data frame.
func (r *frameReader) data(p []byte) (int, error) {
	if uint64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.br.Read(p)
	r.left -= uint64(n)
	if r.left > 0 || n == 0 {
		err = midFrame(err)
	} else {
		err = nil // what follows the frame is told by the next call
	}
	return n, err
}

func midFrame(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frameWriter collects frames and writes them to a stream in few calls, so that a head and a short
// body leave in one packet. It is not safe for concurrent use.
type frameWriter struct {
	w    io.Writer
	err  error   // of a write; what was to follow must not be sent then
	buf  *[]byte // from bufferPool; nil while nothing is held back
	open int     // start of the payload of an unfinished data frame, which is the last frame in buf; 0 = none
}

const bufferSize = dataChunk + 1<<10 // room for a usual head before the first data frame

var bufferPool = sync.Pool{New: func() any { b := make([]byte, 0, bufferSize); return &b }}

// frame appends a whole frame, whose payload fill appends.
func (w *frameWriter) frame(t frameType, fill func([]byte) []byte) {
	w.seal()
	b, at := beginFrame(*w.buffer(), t)
	b = fill(b)
	endFrame(b, at)
	*w.buf = b
}

// data appends p to the body, writing whenever a chunk is full.
func (w *frameWriter) data(p []byte) (n int, err error) {
	for len(p) > 0 {
		room := w.room()
		k := copy(room, p)
		if err := w.grow(k); err != nil {
			return n, err
		}
		n, p = n+k, p[k:]
	}
	return n, nil
}

// room returns free space of the current data frame, at least one byte. The caller puts body bytes
// there and calls grow with their number.
func (w *frameWriter) room() []byte {
	b := *w.buffer()
	if w.open == 0 {
		b, w.open = beginFrame(b, frameData)
	}
	if free := dataChunk - (len(b) - w.open); cap(b)-len(b) < free {
		b = append(make([]byte, 0, len(b)+free), b...)
	}
	*w.buf = b
	return b[len(b) : w.open+dataChunk]
}

func (w *frameWriter) grow(n int) error {
	*w.buf = (*w.buf)[:len(*w.buf)+n]
	if len(*w.buf)-w.open < dataChunk {
		return nil
	}
	return w.flush()
}

func (w *frameWriter) buffer() *[]byte {
	if w.buf == nil {
		w.buf = bufferPool.Get().(*[]byte)
	}
	return w.buf
}

// seal ends the open data frame, or takes it back if it is empty.
func (w *frameWriter) seal() {
	if w.open == 0 {
		return
	}
	b := *w.buf
	if len(b) == w.open {
		*w.buf = b[:w.open-6]
	} else {
		endFrame(b, w.open)
	}
	w.open = 0
}

// flush writes what is held back. After an error it returns that error for ever.
func (w *frameWriter) flush() error {
	if w.buf == nil {
		return w.err
	}
	w.seal()
	if len(*w.buf) > 0 && w.err == nil {
		_, w.err = w.w.Write(*w.buf)
	}
	w.drop()
	return w.err
}

// drop forgets what is held back.
func (w *frameWriter) drop() {
	if w.buf != nil {
		if cap(*w.buf) <= 2*bufferSize {
			*w.buf = (*w.buf)[:0]
			bufferPool.Put(w.buf)
		}
		w.buf, w.open = nil, 0
	}
}
