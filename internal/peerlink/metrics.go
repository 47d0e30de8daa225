package peerlink

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
)

// Metrics counts what a Link does. Links of one process may share it.
type Metrics struct {
	connections *prometheus.GaugeVec
	dialsOK     prometheus.Counter
	dialsFailed prometheus.Counter
	retries     prometheus.Counter
	hops        map[string]prometheus.Counter // by outcome
	accept      prometheus.Histogram
	served      [len(alpns)]prometheus.Counter
	raws        prometheus.Counter
	panics      prometheus.Counter
	packetsIn   prometheus.Counter
	packetsLost prometheus.Counter
	packetsOut  prometheus.Counter
	packetsFail prometheus.Counter
	probes      prometheus.Counter

	tunnels        *prometheus.GaugeVec
	tunnelsRefused prometheus.Counter
	tunnelDrops    prometheus.Counter
	fallbacks      prometheus.Counter
}

// The outcomes of a hop that are not a perigee.RefuseCode.
const (
	hopAccepted = "accepted"
	hopCanceled = "canceled" // the requester gave up before the worker said anything
	hopFailed   = "failed"   // anything else
)

// NewMetrics makes the metrics and registers them; with a nil registerer they count unseen.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	const space = "perigee_peerlink_"
	dials := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: space + "dials_total", Help: "Connections to peers that were tried, by result (ok, failed).",
	}, []string{"result"})
	hops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: space + "hops_total", Help: "Requests sent to peers, by what the worker said or the sender concluded.",
	}, []string{"outcome"})
	served := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: space + "requests_served_total", Help: "Requests from other nodes, joiners and persons that reached a handler, by protocol.",
	}, []string{"protocol"})
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: space + "packets_total", Help: "Membership packets, by result (received, dropped for a full queue, sent, failed to send).",
	}, []string{"result"})
	m := &Metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: space + "connections", Help: "Open connections, by protocol and by the side that dialled (in, out).",
		}, []string{"protocol", "side"}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "handshake_retries_total", Help: "Handshakes that first had to prove their address.",
		}),
		accept: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: space + "hop_accept_seconds", Help: "Time from sending a request's head to the worker's accepted or refused.",
			Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1},
		}),
		raws: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "raw_streams_total", Help: "Membership streams that peers opened.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "handler_panics_total", Help: "Handlers that panicked.",
		}),
		probes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "probes_answered_total", Help: "Reachability probes answered.",
		}),
		tunnels: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: space + "tunnels", Help: "Open TCP connections that carry packets where UDP does not get through, by the side that dialled (in, out).",
		}, []string{"side"}),
		tunnelsRefused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "tunnels_refused_total", Help: "TCP connections to the mesh port that were not let in: too many, no handshake, no identity.",
		}),
		tunnelDrops: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "tunnel_packets_dropped_total", Help: "Packets that found no room in the queue of a TCP connection.",
		}),
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: space + "fallbacks_total", Help: "Times that a peer was found to be reached over TCP only.",
		}),
		dialsOK: dials.WithLabelValues("ok"), dialsFailed: dials.WithLabelValues("failed"),
		packetsIn: packets.WithLabelValues("received"), packetsLost: packets.WithLabelValues("dropped"),
		packetsOut: packets.WithLabelValues("sent"), packetsFail: packets.WithLabelValues("failed"),
		hops: map[string]prometheus.Counter{},
	}
	for _, o := range []string{
		hopAccepted, hopCanceled, hopFailed,
		string(perigee.RefusedOverloaded), string(perigee.RefusedDraining), string(perigee.RefusedNotHere), string(perigee.RefusedNotAllowed),
		string(perigee.RefusedDeadline), string(perigee.RefusedUnreachable), string(perigee.RefusedSilent),
	} {
		m.hops[o] = hops.WithLabelValues(o)
	}
	for p := range protocol(len(alpns)) {
		m.served[p] = served.WithLabelValues(p.String())
	}
	if reg != nil {
		reg.MustRegister(m.connections, dials, m.retries, hops, m.accept, served, m.raws, m.panics, packets, m.probes, m.tunnels, m.tunnelsRefused, m.tunnelDrops, m.fallbacks)
	}
	return m
}

func (m *Metrics) open(c *conn, change float64) {
	m.connections.WithLabelValues(c.proto.String(), sideOf(c.outbound)).Add(change)
}

func (m *Metrics) tunnel(t *tunnel, change float64) {
	m.tunnels.WithLabelValues(sideOf(t.outbound)).Add(change)
}

func sideOf(outbound bool) string {
	if outbound {
		return "out"
	}
	return "in"
}
