package edgeproxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of one Proxy. docs/metrics.md explains them.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	hops     *prometheus.CounterVec
	served   *prometheus.CounterVec
	refusals *prometheus.CounterVec
	retries  prometheus.Counter
	hedges   prometheus.Counter

	unretried prometheus.Counter
	certs     *prometheus.CounterVec
	inFlight  prometheus.Gauge

	passed  *prometheus.CounterVec
	taken   *prometheus.CounterVec
	passing prometheus.Gauge

	webSockets   prometheus.Gauge
	encoded      *prometheus.CounterVec
	refusedConns prometheus.Counter
	flooded      prometheus.Counter
	droppedLines prometheus.Counter
	cached       *prometheus.CounterVec
	cachedBytes  prometheus.Gauge

	done [len(statusClasses)][len(startLabels)]prometheus.Counter // requests, looked up once
	time [len(wheres)]prometheus.Observer
}

var (
	statusClasses = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "gone"} // gone: the client left before a response
	startLabels   = [...]string{"none", StartWarm, StartImage, StartCold}
	wheres        = [...]string{"nowhere", "here", "hop", "cache"}
)

// Where a request ran, as an index into wheres.
const (
	ranNowhere = iota
	ranHere
	ranHop
	ranCache // it did not: the response was stored
)

// NewMetrics makes the metrics and registers them. It panics if reg has them already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "perigee_edgeproxy_" + name, Help: help}, labels)
	}
	m := &Metrics{
		requests: counter("requests_total", "Requests of clients answered, by class of status and kind of start.", "status", "start"),
		hops:     counter("hops_total", "Requests sent to other nodes, by outcome.", "outcome"),
		served:   counter("served_hops_total", "Requests that other nodes sent here, by outcome.", "outcome"),
		refusals: counter("refusals_total", "Requests of clients answered with an error of this node or of the function's run, by cause.", "cause"),
		certs:    counter("certificates_total", "Web certificates asked for, by outcome.", "outcome"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "perigee_edgeproxy_request_seconds", Help: "Time from a request's head to the end of its response, by where it ran.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"where"}),
		unretried: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_edgeproxy_unretried_total", Help: "Requests that failed since their function had no retry left.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_edgeproxy_retries_total", Help: "Tries of a request after its first.",
		}),
		hedges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_edgeproxy_hedges_total", Help: "Second copies of requests, sent since the first took unusually long.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_edgeproxy_inflight_requests", Help: "Requests of clients that are being answered.",
		}),
	}
	m.passed = counter("passed_connections_total", "Connections of clients passed on, still encrypted, to a node within the residency, by outcome.", "outcome")
	m.taken = counter("taken_connections_total", "Connections that other nodes passed on to this one, by outcome.", "outcome")
	m.encoded = counter("encoded_responses_total", "Responses that a content coding was chosen for, by coding; none: there was no memory for it.", "coding")
	m.passing = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "perigee_edgeproxy_passing_connections", Help: "Connections of clients that are being passed on.",
	})
	m.webSockets = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "perigee_edgeproxy_open_websockets", Help: "WebSockets of clients that are open.",
	})
	m.refusedConns = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "perigee_edgeproxy_refused_connections_total", Help: "Connections of clients closed at once, since there were too many.",
	})
	m.flooded = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "perigee_edgeproxy_flooded_connections_total", Help: "Connections of clients closed, since they sent more frames than fit what they asked.",
	})
	m.droppedLines = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "perigee_edgeproxy_access_log_dropped_total", Help: "Lines of the access log that were lost, since the disk was slow or full.",
	})
	m.cached = counter("cache_requests_total", "Requests for functions that let responses be stored, by what became of them.", "result")
	m.cachedBytes = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "perigee_edgeproxy_cache_bytes", Help: "Stored responses of functions, about.",
	})
	for i, status := range statusClasses {
		for j, start := range startLabels {
			m.done[i][j] = m.requests.WithLabelValues(status, start)
		}
	}
	for i, where := range wheres {
		m.time[i] = m.seconds.WithLabelValues(where)
	}
	reg.MustRegister(m.requests, m.seconds, m.hops, m.served, m.refusals, m.retries, m.hedges, m.unretried, m.certs, m.inFlight, m.passed, m.taken, m.passing, m.webSockets, m.encoded, m.refusedConns, m.flooded, m.droppedLines, m.cached, m.cachedBytes)
	return m
}

// encode counts a response that a content coding was chosen for.
func (m *Metrics) encode(coding string) { m.encoded.WithLabelValues(coding).Inc() }

// request counts a request that ended.
func (m *Metrics) request(status int, start string, where int, took time.Duration) {
	class := len(statusClasses) - 1
	if status != statusGone && status >= 100 && status < 600 {
		class = status/100 - 1
	}
	label := 0
	for i, s := range startLabels {
		if s == start {
			label = i
		}
	}
	m.done[class][label].Inc()
	m.time[where].Observe(took.Seconds())
}
