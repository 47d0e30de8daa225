package edgeproxy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
)

// buffers are for copying bodies. They hold nothing between uses.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

func (b *buffers) get() *[bufferSize]byte  { return b.pool.Get().(*[bufferSize]byte) }
func (b *buffers) put(p *[bufferSize]byte) { b.pool.Put(p) }

// copyHeader takes over the header of a peer's response. There is one Content-Length, and it is the
// one that the body is held to.
func copyHeader(h http.Header, resp *http.Response) {
	maps.Copy(h, resp.Header)
	delete(h, "Content-Length")
	if resp.ContentLength >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(resp.ContentLength, 10)}
	}
}

// copyBody passes on the body of a peer's response as it comes. A read that did not fill the buffer
// means that no more has arrived yet, so what there is goes out at once.
func (v *visit) copyBody(resp *http.Response) error {
	if v.answer.bodiless {
		return nil
	}
	if v.answer.promised < 0 {
		if err := v.answer.FlushError(); err != nil {
			return errClientGone
		}
	}
	buf := v.proxy.buffers.get()
	defer v.proxy.buffers.put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if _, werr := v.answer.Write(buf[:n]); werr != nil {
				if errors.Is(werr, errTooLong) {
					return errLost
				}
				return errClientGone
			}
			if n < bufferSize && v.answer.promised > v.answer.sent {
				if werr := v.answer.FlushError(); werr != nil {
					return errClientGone
				}
			}
		}
		switch {
		case err == io.EOF && v.answer.short():
			return errLost
		case err == io.EOF:
			return nil
		case v.out.Context().Err() != nil:
			return v.out.Context().Err()
		case err != nil:
			return fmt.Errorf("%w whole: %v", errLost, err)
		}
	}
}

// announceTrailer names the trailer fields that the peer announced; WriteHeader drops those that may
// not be sent.
func announceTrailer(resp *http.Response) {
	setOrDelete(resp.Header, "Trailer", slices.Sorted(maps.Keys(resp.Trailer)))
}

// sendTrailer adds the peer's trailer fields; net/http sends them after the body.
func sendTrailer(h http.Header, resp *http.Response) {
	announced := h["Trailer"]
	for name, values := range resp.Trailer {
		if !trailerAllowed(name) {
			continue
		}
		if !slices.Contains(announced, name) {
			name = http.TrailerPrefix + name
		}
		h[name] = values
	}
}
