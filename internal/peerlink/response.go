package peerlink

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/quic-go/quic-go"

	"github.com/perigee-edge/perigee"
)

// response waits for the head of the response. The exchange is its body.
func (x *exchange) response(r *http.Request) (*http.Response, error) {
	for {
		t, size, err := x.fr.next()
		if err != nil {
			return nil, x.fail(midFrame(err))
		}
		if t == frameData {
			return nil, x.fail(malformed("data before the response"))
		}
		payload, err := x.fr.payload(size)
		if err != nil {
			return nil, x.fail(err)
		}
		switch t {
		case frameAccepted, frameRefused:
			a, err := x.decodeAnswer(t, payload)
			if err == nil && a.refused {
				err = &quic.StreamError{ErrorCode: quic.StreamErrorCode(a.code), Remote: true}
			}
			if err != nil {
				return nil, x.fail(err)
			}
		case frameInterim:
			if err := x.interim(r.Context(), payload); err != nil {
				return nil, x.fail(err)
			}
		case frameResponse:
			h, err := decodeResponse(payload)
			if err != nil {
				return nil, x.fail(err)
			}
			return x.newResponse(r, &h), nil
		default:
			return nil, x.fail(malformed("frame type %#02x before the response", byte(t)))
		}
	}
}

// interim takes an informational response: the worker wants the body that was held, or says something early.
func (x *exchange) interim(ctx context.Context, payload string) error {
	c := cursor{s: payload}
	status, h := int(min(c.uint(), 1000)), c.fields()
	if c.err == nil && (status < 100 || status > 199) {
		c.fail("status")
	}
	if x.early++; c.err == nil && x.early > maxSkipped {
		return malformed("more than %d interim frames", maxSkipped)
	}
	if c.err != nil {
		return c.err
	}
	if status == http.StatusContinue {
		x.goOn()
		return nil
	}
	if t := httptrace.ContextClientTrace(ctx); t != nil && t.Got1xxResponse != nil {
		return t.Got1xxResponse(status, textproto.MIMEHeader(h))
	}
	return nil
}

func (x *exchange) newResponse(r *http.Request, h *responseHead) *http.Response {
	x.resp = &http.Response{
		Status:     strconv.Itoa(h.status) + " " + http.StatusText(h.status),
		StatusCode: h.status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: h.header, ContentLength: h.size, Body: x, Request: r,
		Trailer: announcedTrailer(h.header),
	}
	if h.size >= 0 {
		h.header["Content-Length"] = []string{strconv.FormatInt(h.size, 10)}
	}
	if r.Method != http.MethodHead && bodyAllowed(h.status) {
		x.remain = h.size
	}
	return x.resp
}

// Read reads the body of the response. At its end the trailers and the worker's last load are known.
func (x *exchange) Read(p []byte) (int, error) {
	if x.over.Load() && x.err == nil {
		return 0, errBodyClosed
	}
	if x.err != nil || len(p) == 0 {
		return 0, x.err
	}
	n, err := x.read(p)
	if x.remain >= 0 {
		if x.remain -= int64(n); x.remain < 0 {
			err = malformed("more data than the response's size")
		}
	}
	switch {
	case err == io.EOF && x.remain > 0:
		x.err = x.fail(io.ErrUnexpectedEOF)
	case err == io.EOF:
		x.err = err
		x.fr.release()
		x.end()
	case err != nil:
		x.err = x.fail(err)
	}
	return n, x.err
}

func (x *exchange) read(p []byte) (int, error) {
	for x.fr.left == 0 {
		t, size, err := x.fr.next()
		switch {
		case err != nil:
			return 0, err
		case t == frameInterim: // the body may be wanted late
			payload, err := x.fr.payload(size)
			if err == nil {
				err = x.interim(context.Background(), payload)
			}
			if err != nil {
				return 0, err
			}
		case t == frameEnd:
			return 0, x.readEnd(size)
		case t != frameData:
			return 0, malformed("frame type %#02x in a body", byte(t))
		}
	}
	return x.fr.data(p)
}

// readEnd reads the last frame and then the end of the stream.
func (x *exchange) readEnd(size uint64) error {
	load, trailer, err := readEndFrame(&x.fr, size)
	if err != nil {
		return err
	}
	x.setLoad(load)
	x.resp.Trailer = mergeTrailer(x.resp.Trailer, trailer)
	return io.EOF
}

// readEndFrame reads the payload of an end frame and the end of the stream behind it.
func readEndFrame(fr *frameReader, size uint64) (perigee.Load, http.Header, error) {
	payload, err := fr.payload(size)
	if err != nil {
		return perigee.Load{}, nil, err
	}
	c := cursor{s: payload}
	load, trailer := c.load(), c.fields()
	if c.err != nil {
		return load, nil, c.err
	}
	switch _, _, err := fr.next(); err {
	case io.EOF:
		return load, trailer, nil
	case nil:
		return load, nil, malformed("frame after the end frame")
	default:
		return load, nil, err
	}
}

// LoadOf returns the load that the worker reported with a response: before the end of the body what
// it said when it accepted the request, and after the end what it said last. False if it reported
// nothing, or if Body is not the one that RoundTripHop returned. It may be called after Close.
func LoadOf(r *http.Response) (perigee.Load, bool) {
	x, ok := r.Body.(*exchange)
	if !ok {
		return perigee.Load{}, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.load, x.hasLoad
}

func bodyAllowed(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// announcedTrailer moves the names of a Trailer header field into a map of names without values.
func announcedTrailer(h http.Header) http.Header {
	values, ok := h["Trailer"]
	if !ok {
		return nil
	}
	delete(h, "Trailer")
	t := http.Header{}
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); trailerAllowed(name) {
				t[name] = nil
			}
		}
	}
	return t
}

func trailerAllowed(name string) bool {
	return name != "" && travels(name) && name != "Trailer"
}

func mergeTrailer(t, add http.Header) http.Header {
	for name, values := range add {
		if t == nil {
			t = http.Header{}
		}
		if trailerAllowed(name) {
			t[name] = values
		}
	}
	return t
}
