package egress

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what this package does. docs/metrics.md lists them.
type Metrics struct {
	requests *prometheus.CounterVec
	inFlight prometheus.Gauge
	conns    prometheus.Gauge
	received prometheus.Counter
}

// NewMetrics makes the metrics and registers them, unless reg is nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_egress_requests_total", Help: "Requests that functions sent to origins and to other functions, by outcome.",
		}, []string{"outcome"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_egress_inflight_requests", Help: "Requests of functions whose response has not ended.",
		}),
		conns: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "perigee_egress_connections", Help: "Open connections to origins.",
		}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "perigee_egress_received_bytes_total", Help: "Response bodies of origins and functions, as far as they were read.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.inFlight, m.conns, m.received)
	}
	return m
}

// outcome is the label of a request whose response did not come.
func outcome(err error) string {
	var denied *DeniedError
	var limit *LimitError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &denied):
		return "denied"
	case errors.As(err, &limit):
		return "limited"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "failed"
}
