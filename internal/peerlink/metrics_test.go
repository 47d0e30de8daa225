package peerlink

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// metricSum adds up what the metrics of a name, with a label value if it is not empty, count.
func metricSum(t *testing.T, reg *prometheus.Registry, name, label string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "perigee_peerlink_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			found := label == ""
			for _, l := range m.GetLabel() {
				found = found || l.GetValue() == label
			}
			if found {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	met := NewMetrics(reg)
	m := newMesh(t)
	a, stop := m.node("a", func(c *Config) { c.Metrics = met })
	m.node("b", hops(accepting))
	hopOK(t, a, "b", request(t, "GET", "http://f/", ""))
	_, _ = a.RoundTripHop("nobody", request(t, "GET", "http://f/", ""))
	for _, tt := range [][2]string{{"hops_total", "accepted"}, {"hops_total", "unreachable"}, {"dials_total", "ok"}, {"connections", "peer"}} {
		if v := metricSum(t, reg, tt[0], tt[1]); v != 1 {
			t.Errorf("%s is %v, want 1", tt, v)
		}
	}
	stop()
	if v := metricSum(t, reg, "connections", ""); v != 0 {
		t.Errorf("%v connections after the end", v)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "perigee_peerlink_") || f.GetHelp() == "" {
			t.Errorf("metric %q", f.GetName())
		}
	}
	if len(families) != 13 {
		t.Errorf("%d metrics are registered", len(families))
	}
}
