// Package otlp sends the spans of requests to a collector, by OpenTelemetry's protocol over HTTP (OTLP). What is
// a span is the business of package edgeproxy; here is the queue, which is bounded: a collector that is slow or
// away loses spans, and no request waits.
//
// [Exporter.Run] owns the goroutine that sends.
package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
)

// Config says where spans go. Endpoint is required.
type Config struct {
	Endpoint string         // URL of the collector, "http://127.0.0.1:4318/v1/traces"
	Node     perigee.NodeID // of whom the spans are
	Region   perigee.Region
	Every    time.Duration // longest wait of a span; default 5 s
	Logger   *slog.Logger  // nil = slog.Default()
}

const (
	queued   = 4096 // spans that wait; more are dropped
	sendTime = 10 * time.Second
	lastTime = 3 * time.Second // for what waits at the end
	complain = time.Minute     // between lines about a collector that is away
)

// Exporter is an edgeproxy.Spans. It is safe for concurrent use.
type Exporter struct {
	cfg    Config
	tracer atomic.Pointer[trace.Tracer] // nil = not running: spans are dropped
}

// New checks cfg. Nothing is sent before Run.
func New(cfg Config) (*Exporter, error) {
	if u, err := url.Parse(cfg.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("send traces to %q: want a URL like %q", cfg.Endpoint, "http://127.0.0.1:4318/v1/traces")
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Exporter{cfg: cfg}, nil
}

// Run sends until ctx ends, and then what waits, for three seconds at most.
func (e *Exporter) Run(ctx context.Context) error {
	client, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(e.cfg.Endpoint), otlptracehttp.WithTimeout(sendTime), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	if err != nil {
		return fmt.Errorf("send traces to %s: %w", e.cfg.Endpoint, err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&complaining{SpanExporter: client, log: e.cfg.Logger}, sdktrace.WithMaxQueueSize(queued), sdktrace.WithBatchTimeout(e.cfg.Every), sdktrace.WithExportTimeout(sendTime)),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // whoever calls Record has decided
		sdktrace.WithIDGenerator(given{}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "perigee"), attribute.String("service.version", perigee.Version),
			attribute.String("service.instance.id", string(e.cfg.Node)), attribute.String("perigee.region", string(e.cfg.Region)),
		)),
	)
	t := provider.Tracer("github.com/perigee-edge/perigee/edgeproxy")
	e.tracer.Store(&t)
	<-ctx.Done()
	e.tracer.Store(nil)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
	defer cancel()
	_ = provider.Shutdown(last) // a collector that is away was complained about
	return nil
}

// Record queues a span.
func (e *Exporter) Record(s edgeproxy.Span) {
	t := e.tracer.Load()
	if t == nil {
		return
	}
	ctx := context.WithValue(context.Background(), spanKey{}, &s)
	if s.Parent != [8]byte{} {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: s.Trace, SpanID: s.Parent, TraceFlags: trace.FlagsSampled, Remote: s.Remote,
		}))
	}
	kind := map[edgeproxy.SpanKind]trace.SpanKind{edgeproxy.SpanServer: trace.SpanKindServer, edgeproxy.SpanClient: trace.SpanKindClient}[s.Kind]
	_, span := (*t).Start(ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithSpanKind(kind), trace.WithAttributes(attributes(s.Attributes)...))
	if s.Failed != "" {
		span.SetStatus(codes.Error, s.Failed)
	}
	span.End(trace.WithTimestamp(s.End))
}

func attributes(list []slog.Attr) []attribute.KeyValue {
	out := make([]attribute.KeyValue, len(list))
	for i, a := range list {
		if a.Value.Kind() == slog.KindInt64 {
			out[i] = attribute.Int64(a.Key, a.Value.Int64())
		} else {
			out[i] = attribute.String(a.Key, a.Value.String())
		}
	}
	return out
}

type spanKey struct{}

// given returns the ids that the span has already: they were told to others when it began.
type given struct{}

// NewIDs implements sdktrace.IDGenerator.
func (given) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	s := ctx.Value(spanKey{}).(*edgeproxy.Span)
	return s.Trace, s.ID
}

// NewSpanID implements sdktrace.IDGenerator.
func (given) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	return ctx.Value(spanKey{}).(*edgeproxy.Span).ID
}

// complaining logs failures, now and then. It is called by one goroutine.
type complaining struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	last time.Time
}

// ExportSpans implements sdktrace.SpanExporter.
func (c *complaining) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := c.SpanExporter.ExportSpans(ctx, spans); err != nil && time.Since(c.last) > complain {
		c.last = time.Now()
		c.log.Warn("traces were lost: the collector did not take them", "err", err)
	}
	return nil
}
