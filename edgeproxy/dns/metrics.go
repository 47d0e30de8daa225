package dns

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a Server does.
type Metrics struct {
	Answers *prometheus.CounterVec // by result
}

// NewMetrics registers the metrics; a nil registry keeps them apart.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{Answers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "perigee_edgeproxy_dns_answers_total",
		Help: "Questions for the cluster's zones, by result: answered, empty, unknown (no such name), failed (no gateway), refused, truncated and dropped (too many).",
	}, []string{"result"})}
	if reg != nil {
		reg.MustRegister(m.Answers)
	}
	return m
}
