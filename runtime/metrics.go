package runtime

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what a Runtime does. docs/metrics.md lists them.
type Metrics struct {
	invocations   *prometheus.CounterVec // outcome: ok, canceled, overloaded, failed, or a kind of GuestError
	invokeSeconds prometheus.Histogram
	admissions    *prometheus.CounterVec // outcome: accepted, refused, failed
	admitSeconds  prometheus.Histogram
	loadSeconds   prometheus.Histogram
	loaded        prometheus.Gauge
	sleeps        prometheus.Counter
	evictions     prometheus.Counter
	inFlight      prometheus.Gauge
	memoryBytes   prometheus.Gauge
	logDropped    prometheus.Counter
	refusals      *prometheus.CounterVec // limit: see Overload.Limit
	queueSeconds  prometheus.Histogram
	computing     prometheus.Gauge
	limit         prometheus.Gauge
}

// NewMetrics registers the metrics; a nil registerer counts without exporting.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		invocations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_runtime_invocations_total", Help: "Requests given to a guest, by outcome.",
		}, []string{"outcome"}),
		invokeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perigee_runtime_invoke_seconds", Help: "Time from the start of an instance to the end of its response.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 2, 20),
		}),
		admissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_runtime_admissions_total", Help: "Modules checked and compiled, by outcome. Modules admitted before do not count.",
		}, []string{"outcome"}),
		admitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perigee_runtime_admit_seconds", Help: "Time of an admission, without waiting for others.",
			Buckets: prometheus.ExponentialBuckets(0.05, 2, 12),
		}),
		loadSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perigee_runtime_load_seconds", Help: "Time to map compiled code from the cache.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 12),
		}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_runtime_loaded_revisions", Help: "Revisions that can be invoked.",
		}),
		sleeps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_runtime_sleeps_total", Help: "Revisions whose code was unmapped for others, until their next request.",
		}),
		evictions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_runtime_evictions_total", Help: "Modules whose compiled code was removed from the cache for others.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_runtime_inflight_requests", Help: "Requests that a guest is working on.",
		}),
		memoryBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_runtime_memory_bytes", Help: "Guest memory taken from the node's budget.",
		}),
		logDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_runtime_log_dropped_bytes_total", Help: "Guest log output above its caps.",
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_runtime_refusals_total", Help: "Requests not started for lack of room, by what there was not enough of.",
		}, []string{"limit"}),
		queueSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "perigee_runtime_queue_seconds", Help: "Time that requests waited until they could compute or were refused, of those that had to wait.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2, 11),
		}),
		computing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_runtime_computing_requests", Help: "Requests that compute; those that wait for something outside are left out.",
		}),
		limit: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_runtime_limit_requests", Help: "How many requests may compute at once: the adaptive limit.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.invocations, m.invokeSeconds, m.admissions, m.admitSeconds, m.loadSeconds, m.loaded, m.sleeps, m.evictions, m.inFlight, m.memoryBytes, m.logDropped, m.refusals, m.queueSeconds, m.computing, m.limit)
	}
	return m
}

func (m *Metrics) admit(outcome string, took time.Duration) {
	m.admissions.WithLabelValues(outcome).Inc()
	m.admitSeconds.Observe(took.Seconds())
}
