package edgeproxy

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// minEncoded is the shortest body that is encoded, in bytes: a shorter one fits into a packet or two anyway.
const minEncoded = 1024

// encodersMemory bounds the memory of the encoders in use. When it is taken, responses go as they are.
const encodersMemory = 64 << 20

// What an encoder holds, measured after 20 MB of text and rounded up.
var encoderSize = [codings]int64{codingGzip: 1280 << 10, codingBrotli: 2560 << 10, codingZstd: 768 << 10}

// encoders compress the bodies of responses. They are kept for the next response, and left to the garbage
// collector when none comes.
type encoders struct {
	inUse atomic.Int64 // bytes
	most  int64
	pools [codings]sync.Pool // of bodyEncoder
}

func newEncoders() *encoders { return &encoders{most: encodersMemory} }

// bodyEncoder is what the three libraries have in common.
type bodyEncoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// take returns an encoder that writes to w; nil = there is no memory for one. give takes it back.
func (e *encoders) take(c coding, w io.Writer) bodyEncoder {
	if e.inUse.Add(encoderSize[c]) > e.most {
		e.inUse.Add(-encoderSize[c])
		return nil
	}
	if enc, ok := e.pools[c].Get().(bodyEncoder); ok {
		enc.Reset(w)
		return enc
	}
	switch c {
	case codingZstd: // a window that every client takes (RFC 9659), and no goroutines
		enc, _ := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true)) // fails for options that contradict only
		return enc
	case codingBrotli:
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 3, LGWin: 17})
	}
	enc, _ := gzip.NewWriterLevel(w, 3) // likewise
	return enc
}

// give takes an encoder back, whatever state it is in.
func (e *encoders) give(c coding, enc bodyEncoder) {
	enc.Reset(io.Discard)
	e.pools[c].Put(enc)
	e.inUse.Add(-encoderSize[c])
}

// encode chooses the coding of a response by its head, and changes that to fit. Bodies leave this gateway
// encoded and reach it as they are: between nodes nothing is.
func (a *answer) encode(status int, h http.Header) {
	if a.encoders == nil || status == http.StatusNoContent || status == http.StatusPartialContent {
		return
	}
	if status == http.StatusNotModified {
		a.keepWeak(h)
		return
	}
	if a.promised >= 0 && a.promised < minEncoded {
		return
	}
	if kind := h["Content-Type"]; len(kind) != 1 || !compressible(kind[0]) || !mayTransform(h) {
		return
	}
	vary(h)
	c := accepted(a.asked["Accept-Encoding"])
	if c == codingIdentity || len(a.asked["Range"]) > 0 || hasElement(a.asked["Cache-Control"], "no-transform") {
		return
	}
	if !a.head {
		if a.encoder = a.encoders.take(c, wire{a}); a.encoder == nil {
			a.metrics.encode("none")
			return
		}
		a.coding = c
		a.metrics.encode(c.String())
	}
	h["Content-Encoding"] = []string{c.String()}
	delete(h, "Content-Length")
	delete(h, "Accept-Ranges") // ranges of what: the function has never seen these bytes
	weakETag(h)
}

// keepWeak gives a 304 the entity tag that the client has, if that was made weak here: caches compare the two.
func (a *answer) keepWeak(h http.Header) {
	if tag := h["Etag"]; len(tag) == 1 && hasElement(a.asked["If-None-Match"], "W/"+tag[0]) {
		vary(h)
		weakETag(h)
	}
}

// wire is where an encoder writes.
type wire struct{ a *answer }

func (w wire) Write(p []byte) (int, error) { return w.a.writePieces(p) }

// endBody writes what the encoder still holds.
func (a *answer) endBody() error {
	if a.encoder == nil {
		return nil
	}
	err := a.encoder.Close()
	a.dropEncoder()
	return err
}

// dropEncoder gives the encoder back; what it holds is lost.
func (a *answer) dropEncoder() {
	if a.encoder != nil {
		a.encoders.give(a.coding, a.encoder)
		a.encoder = nil
	}
}
