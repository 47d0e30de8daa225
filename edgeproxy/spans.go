package edgeproxy

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Spans gets what was traced. Record must not block.
type Spans interface{ Record(Span) }

// Span is one part of a request, in the terms of OpenTelemetry.
type Span struct {
	Trace      [16]byte
	ID, Parent [8]byte // Parent is zero at the beginning of a trace
	Remote     bool    // the parent is of another process
	Name       string
	Kind       SpanKind
	Start, End time.Time
	Failed     string // why; "" = it did not
	Attributes []slog.Attr
}

// SpanKind says on which side of a call a span was.
type SpanKind int

// The kinds.
const (
	SpanInternal SpanKind = iota
	SpanServer
	SpanClient
)

func newSpanID() (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1) // not all zero
	return id
}

// sample marks some of the traces that begin here. Those that a client began are its own to mark.
func (v *visit) sample() {
	if v.proxy.cfg.Spans != nil && !v.trace.follows && rand.Float64() < v.proxy.cfg.TraceSample {
		v.trace.flags = 1
	}
}

// traced reports whether spans of the request are wanted.
func (v *visit) traced() bool { return v.proxy.cfg.Spans != nil && v.trace.flags&1 != 0 }

// child begins a span below that of the visit, whose side is told by the header; nil = none is wanted.
func (v *visit) child(name string, kind SpanKind, h http.Header) *Span {
	if !v.traced() {
		return nil
	}
	s := &Span{Trace: v.trace.traceID, ID: newSpanID(), Parent: v.trace.spanID, Name: name + " " + v.fn.Name, Kind: kind, Start: time.Now()}
	below := v.trace
	below.spanID = s.ID
	below.put(h)
	return s
}

// endChild ends a span of child.
func (v *visit) endChild(s *Span, node perigee.NodeID, err error) {
	if s == nil {
		return
	}
	s.End = time.Now()
	s.Attributes = []slog.Attr{slog.String("perigee.node", string(node)), slog.Int("perigee.try", v.tries)}
	if err != nil {
		s.Failed = err.Error()
	}
	v.proxy.cfg.Spans.Record(*s)
}

// record ends the span of the visit itself.
func (v *visit) record(took time.Duration) {
	if !v.traced() {
		return
	}
	s := Span{
		Trace: v.trace.traceID, ID: v.trace.spanID, Parent: v.trace.parent, Remote: v.trace.follows,
		Name: v.in.Method, Kind: SpanServer, Start: v.began, End: v.began.Add(took),
		Attributes: []slog.Attr{
			slog.String("http.request.method", v.in.Method), slog.String("url.scheme", v.facts.proto), slog.String("server.address", shorten(v.host)),
			slog.String("network.protocol.version", strings.TrimPrefix(v.in.Proto, "HTTP/")),
			slog.Int("http.response.status_code", v.answer.status), slog.String("perigee.request", v.facts.id),
			slog.String("perigee.reason", v.receipt.Reason), slog.Int("perigee.tries", v.tries),
		},
	}
	if v.outer == "" {
		s.Attributes = append(s.Attributes, slog.String("url.path", bounded(v.in.URL.EscapedPath(), maxLogged)))
	}
	if v.fn != nil {
		s.Name += " " + v.fn.Name
		s.Attributes = append(s.Attributes, slog.String("perigee.function", v.fn.Name))
	}
	if v.receipt.Node != "" {
		s.Attributes = append(s.Attributes, slog.String("perigee.node", string(v.receipt.Node)), slog.String("perigee.region", string(v.receipt.Region)),
			slog.String("perigee.revision", string(v.receipt.Revision)), slog.String("perigee.start", v.receipt.Start))
	}
	if v.err != nil && v.answer.status >= http.StatusInternalServerError {
		s.Failed = v.err.Error()
	}
	v.proxy.cfg.Spans.Record(s)
}

// hopSpan begins the worker's part of a traced request, and tells the guest; nil = none is wanted.
func (p *Proxy) hopSpan(h http.Header, function string) *Span {
	var t trace
	if lines := h[headerTrace]; p.cfg.Spans == nil || len(lines) != 1 || !t.parse(lines[0]) || t.flags&1 == 0 {
		return nil
	}
	t.spanID, t.follows = newSpanID(), true
	t.put(h)
	return &Span{Trace: t.traceID, ID: t.spanID, Parent: t.parent, Remote: true, Name: "run " + function, Kind: SpanServer, Start: time.Now()}
}

// endHopSpan ends a span of hopSpan.
func (p *Proxy) endHopSpan(s *Span, m *hopMeta, outcome string) {
	if s == nil {
		return
	}
	s.End = time.Now()
	s.Attributes = []slog.Attr{slog.String("perigee.request", m.id), slog.String("perigee.node", string(p.cfg.Self))}
	if outcome != hopServed {
		s.Failed = outcome
	}
	p.cfg.Spans.Record(*s)
}
