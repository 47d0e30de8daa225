package edgeproxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// fakeMesh connects proxies in memory, as peerlink does over QUIC: bodies stream both ways and are
// not read before the worker accepted; a handler that panics resets the stream.
type fakeMesh struct {
	mu    sync.Mutex
	nodes map[perigee.NodeID]*Proxy
	dead  map[perigee.NodeID]bool
	wg    sync.WaitGroup // handlers
}

func newMesh() *fakeMesh {
	return &fakeMesh{nodes: map[perigee.NodeID]*Proxy{}, dead: map[perigee.NodeID]bool{}}
}

func (m *fakeMesh) add(id perigee.NodeID, p *Proxy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes[id] = p
}

func (m *fakeMesh) kill(id perigee.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead[id] = true
}

func (m *fakeMesh) RTT(perigee.NodeID) (time.Duration, bool) { return 0, false }

var errReset = errors.New("stream reset")

func (m *fakeMesh) RoundTrip(ctx context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error) {
	m.mu.Lock()
	p := m.nodes[to]
	if m.dead[to] {
		p = nil
	}
	m.mu.Unlock()
	if p == nil {
		return nil, perigee.Load{}, &perigee.HopError{Node: to, Code: perigee.RefusedSilent}
	}
	hctx, cancel := context.WithCancel(ctx)
	in := r.Clone(hctx) // the header is the worker's own
	in.Trailer = r.Trailer
	in.Body = &acceptedBody{r.Body}
	x := &exchangeWriter{header: http.Header{}, answered: make(chan struct{}), headed: make(chan struct{}), head: r.Method == "HEAD"}
	x.body, x.pipe = io.Pipe()
	m.wg.Go(func() {
		defer func() {
			if e := recover(); e != nil {
				if e != http.ErrAbortHandler {
					panic(e)
				}
				x.end(errReset)
			}
		}()
		p.HopHandler().ServeHTTP(x, in)
		x.end(nil)
	})
	select {
	case <-x.answered:
	case <-ctx.Done():
		cancel()
		return nil, perigee.Load{}, ctx.Err()
	}
	if x.refused != "" {
		cancel()
		return nil, perigee.Load{}, &perigee.HopError{Node: to, Code: x.refused, Load: &x.load, Limit: x.limit}
	}
	select {
	case <-x.headed:
	case <-ctx.Done():
		cancel()
		return nil, perigee.Load{}, ctx.Err()
	}
	if x.resp == nil {
		cancel()
		return nil, perigee.Load{}, errReset
	}
	x.resp.Body = &exchangeBody{x, cancel}
	return x.resp, x.load, nil
}

// acceptedBody hides what a body is made of.
type acceptedBody struct{ io.ReadCloser }

// exchangeWriter is the worker's end.
type exchangeWriter struct {
	header   http.Header
	head     bool
	load     perigee.Load
	refused  perigee.RefuseCode
	limit    string
	answered chan struct{} // closed when accepted or refused
	headed   chan struct{} // closed when resp is there, or never will be
	resp     *http.Response
	body     *io.PipeReader
	pipe     *io.PipeWriter

	mu       sync.Mutex
	last     perigee.Load
	accepted bool
}

func (x *exchangeWriter) Accept(l perigee.Load) {
	if !x.accepted {
		x.accepted, x.load = true, l
		close(x.answered)
	}
}

func (x *exchangeWriter) Refuse(c perigee.RefuseCode, l perigee.Load, limit string) {
	if !x.accepted {
		x.accepted, x.load, x.refused, x.limit = true, l, c, limit
		close(x.answered)
	}
}

func (x *exchangeWriter) SetLoad(l perigee.Load) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = l
}

func (x *exchangeWriter) Header() http.Header { return x.header }

func (x *exchangeWriter) WriteHeader(status int) {
	x.Accept(perigee.Load{})
	if x.resp != nil {
		return
	}
	h := x.header.Clone()
	size := int64(-1)
	if v := h.Get("Content-Length"); v != "" {
		size, _ = strconv.ParseInt(v, 10, 64)
	}
	x.resp = &http.Response{StatusCode: status, Header: h, ContentLength: size}
	for _, line := range h["Trailer"] {
		for name := range strings.SplitSeq(line, ", ") {
			if x.resp.Trailer == nil {
				x.resp.Trailer = http.Header{}
			}
			x.resp.Trailer[name] = nil
		}
	}
	close(x.headed)
}

func (x *exchangeWriter) Write(p []byte) (int, error) {
	x.WriteHeader(200)
	if x.head {
		return len(p), nil
	}
	return x.pipe.Write(p)
}

func (x *exchangeWriter) Flush() { x.WriteHeader(200) }

func (x *exchangeWriter) end(err error) {
	if err != nil {
		x.Accept(perigee.Load{})
		if x.resp == nil {
			close(x.headed)
		}
		x.pipe.CloseWithError(err)
		return
	}
	if x.refused == "" {
		x.WriteHeader(200)
		trailer := http.Header{}
		for name := range x.resp.Trailer {
			trailer[name] = x.header[name]
		}
		for name, v := range x.header {
			if bare, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
				trailer[bare] = v
			}
		}
		if len(trailer) > 0 {
			x.mu.Lock()
			x.resp.Trailer = trailer
			x.mu.Unlock()
		}
	}
	x.pipe.Close()
}

// exchangeBody is the entry node's end.
type exchangeBody struct {
	x      *exchangeWriter
	cancel context.CancelFunc
}

func (b *exchangeBody) Read(p []byte) (int, error) { return b.x.body.Read(p) }

func (b *exchangeBody) Close() error {
	b.cancel()
	return b.x.body.Close()
}

// lastLoad is what peerlink.LoadOf does.
func lastLoad(r *http.Response) (perigee.Load, bool) {
	b, ok := r.Body.(*exchangeBody)
	if !ok {
		return perigee.Load{}, false
	}
	b.x.mu.Lock()
	defer b.x.mu.Unlock()
	return b.x.last, b.x.last != perigee.Load{}
}
