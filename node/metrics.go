package node

import (
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
)

// metrics counts what this package does. docs/metrics.md lists them.
type metrics struct {
	deploys *prometheus.CounterVec
	joins   *prometheus.CounterVec
	fetches *prometheus.CounterVec
	slices  *prometheus.CounterVec
	held    *prometheus.GaugeVec
}

// newMetrics makes the metrics and registers them. expires tells the end of the node's certificate, and
// webLeft the seconds until the first of the shared web certificates ends, disk what room there is.
func newMetrics(reg prometheus.Registerer, expires func() time.Time, webLeft func() float64, disk func() (free float64, full bool)) *metrics {
	m := &metrics{
		deploys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_node_deploys_total", Help: "Deploys that this node was asked for, by outcome.",
		}, []string{"outcome"}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_node_joins_total", Help: "Requests of machines and people that are no members, by what they asked and by outcome.",
		}, []string{"request", "outcome"}),
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_node_fetches_total", Help: "Bundles fetched from other nodes, by outcome.",
		}, []string{"outcome"}),
		slices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "perigee_node_slices_total", Help: "Slices of bundles that other nodes were asked for, by outcome.",
		}, []string{"outcome"}),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "perigee_node_revisions", Help: "Revisions on this node, by state; missing ones are planned here and not here yet.",
		}, []string{"state"}),
	}
	reg.MustRegister(m.deploys, m.joins, m.fetches, m.slices, m.held, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perigee_node_certificate_left_seconds", Help: "Time until this node's certificate expires; below zero it has.",
	}, func() float64 { return time.Until(expires()).Seconds() }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perigee_node_web_certificate_left_seconds", Help: "Time until the first of the shared web certificates of this node expires; +Inf: it has none.",
	}, webLeft), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perigee_node_disk_free_bytes", Help: "Room on the disk of the data directory.",
	}, func() float64 { free, _ := disk(); return free }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perigee_node_disk_full", Help: "1 while the disk is full: the node serves what it has and takes no new bundles.",
	}, func() float64 {
		if _, full := disk(); full {
			return 1
		}
		return 0
	}))
	return m
}

func outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

func (m *metrics) deployed(err error) { m.deploys.WithLabelValues(outcome(err)).Inc() }

func (m *metrics) fetched(err error) { m.fetches.WithLabelValues(outcome(err)).Inc() }

// joined counts an answer of the join server.
func (m *metrics) joined(request string, err error) {
	result := outcome(err)
	var no *refused
	if errors.As(err, &no) && no.status != http.StatusInternalServerError {
		result = "refused"
	}
	m.joins.WithLabelValues(request, result).Inc()
}

// revisions notes what is here and what should be.
func (m *metrics) revisions(here map[perigee.RevisionID]*holding, missing int) {
	warm := 0
	for _, h := range here {
		if h.warmth == perigee.Warm {
			warm++
		}
	}
	m.held.WithLabelValues("warm").Set(float64(warm))
	m.held.WithLabelValues("held").Set(float64(len(here) - warm))
	m.held.WithLabelValues("missing").Set(float64(missing))
}
