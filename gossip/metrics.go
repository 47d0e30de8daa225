package gossip

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what gossip does. Several Gossips of one process may share one, or have their own.
type Metrics struct {
	Records     *prometheus.CounterVec // stored, by origin: submit, peer
	Refused     *prometheus.CounterVec // not stored, by rule
	State       prometheus.Gauge       // bytes of all records held
	Held        prometheus.Gauge       // records held
	Collected   prometheus.Counter     // records collected: outlived by others, see collect.go
	Freed       prometheus.Counter     // bytes of them
	Waiting     prometheus.Gauge       // records that wait for their author or their time
	Damage      prometheus.Counter     // bytes of the log that could not be read
	Aside       prometheus.Counter     // records set aside
	Append      prometheus.Histogram   // seconds from a batch to its being on disk
	AppendFails prometheus.Counter
	Step        prometheus.Histogram   // seconds to work on one event
	Rows        *prometheus.CounterVec // by result: new, refused
	Pushes      *prometheus.CounterVec // by result: ok, failed, dropped
	Syncs       *prometheus.CounterVec // by result: equal, repaired, failed
	Peers       *prometheus.GaugeVec   // other nodes, by state
	ClockOff    prometheus.Gauge       // seconds that this node's clock differs from its peers'
}

// NewMetrics makes the metrics and registers them with reg; nil registers nowhere. It panics when
// they are registered already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const space, sub = "perigee", "gossip"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: space, Subsystem: sub, Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: space, Subsystem: sub, Name: name, Help: help})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: space, Subsystem: sub, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		})
	}
	m := &Metrics{
		Records:     counter("records_stored_total", "Records stored on this node, by where they came from.", "origin"),
		Refused:     counter("records_refused_total", "Records refused, by the rule they broke.", "rule"),
		State:       gauge("state_bytes", "Size of all records held."),
		Held:        gauge("records_held", "Number of records held."),
		Collected:   counter("records_collected_total", "Records taken out of the state since later ones made them meaningless.").WithLabelValues(),
		Freed:       counter("collected_bytes_total", "Size of the records collected.").WithLabelValues(),
		Waiting:     gauge("records_waiting", "Records that wait for the record of their author, or for their time."),
		Damage:      counter("log_damage_bytes_total", "Bytes of the state log that could not be read.").WithLabelValues(),
		Aside:       counter("records_set_aside_total", "Records that broke this node's reader, which keeps them without effect and passes them on to nobody.").WithLabelValues(),
		Append:      histogram("log_append_seconds", "Time to put a batch of records on disk."),
		AppendFails: counter("log_append_failures_total", "Batches that could not be put on disk.").WithLabelValues(),
		Step:        histogram("step_seconds", "Time to work on one event: a message, a submission, the passing of time."),
		Rows:        counter("rows_received_total", "Rows of other nodes, by result.", "result"),
		Pushes:      counter("pushes_total", "Messages pushed to peers, by result.", "result"),
		Syncs:       counter("syncs_total", "Comparisons of the state with a peer, by result.", "result"),
		Peers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: sub, Name: "peers", Help: "Other nodes, by state.",
		}, []string{"state"}),
		ClockOff: gauge("clock_offset_seconds", "How far this node's clock is from the median of its peers' clocks."),
	}
	if reg != nil {
		reg.MustRegister(m.Records, m.Refused, m.State, m.Held, m.Collected, m.Freed, m.Waiting, m.Damage, m.Aside, m.Append, m.AppendFails,
			m.Step, m.Rows, m.Pushes, m.Syncs, m.Peers, m.ClockOff)
	}
	return m
}

// count adds what happened in one step of the core.
func (m *Metrics) count(c Counts) {
	for rule, n := range c.Refused {
		m.Refused.WithLabelValues(string(rule)).Add(float64(n))
	}
	m.Collected.Add(float64(c.Outlived))
	m.Freed.Add(float64(c.OutlivedBytes))
	add := func(v *prometheus.CounterVec, label string, n int) {
		if n > 0 {
			v.WithLabelValues(label).Add(float64(n))
		}
	}
	add(m.Records, "peer", c.FromPeers)
	add(m.Records, "submit", c.FromPeople)
	add(m.Rows, "new", c.RowsNew)
	add(m.Rows, "refused", c.RowsRefused)
	add(m.Pushes, "ok", c.PushesOK)
	add(m.Pushes, "failed", c.PushesFailed)
	add(m.Pushes, "dropped", c.Dropped)
	add(m.Syncs, "equal", c.Equal)
	add(m.Syncs, "repaired", c.Repaired)
	add(m.Syncs, "failed", c.SyncFailed)
}
