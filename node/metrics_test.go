package node

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/edgeproxy/dns"
	"github.com/perigee-edge/perigee/gossip"
	"github.com/perigee-edge/perigee/internal/egress"
	"github.com/perigee-edge/perigee/internal/peerlink"
	"github.com/perigee-edge/perigee/runtime"
)

// metric is one line of docs/metrics.md.
type metric struct{ name, kind, labels string }

// collected is what packages register.
type collected struct{ all []prometheus.Collector }

func (c *collected) Register(m prometheus.Collector) error  { c.all = append(c.all, m); return nil }
func (c *collected) MustRegister(m ...prometheus.Collector) { c.all = append(c.all, m...) }
func (c *collected) Unregister(prometheus.Collector) bool   { return false }

var descText = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "(.*?)"(?:, unit: "[^"]*")?, constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// described returns the metrics of a collector, without a kind, and their help texts.
func described(t *testing.T, c prometheus.Collector) (out []metric, help []string) {
	t.Helper()
	ch := make(chan *prometheus.Desc, 1000)
	c.Describe(ch)
	close(ch)
	for d := range ch {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("can't read %s", d)
		}
		out, help = append(out, metric{name: m[1], labels: strings.ReplaceAll(m[3], ",", ", ")}), append(help, m[2])
	}
	return out, help
}

func kindOf(c prometheus.Collector) string {
	switch c.(type) {
	case *prometheus.CounterVec, *usageMetrics:
		return "counter"
	case *prometheus.GaugeVec:
		return "gauge"
	case *prometheus.HistogramVec, prometheus.Histogram:
		return "histogram"
	case prometheus.Gauge: // a Gauge has all methods of a Counter
		return "gauge"
	case prometheus.Counter:
		return "counter"
	case prometheus.GaugeFunc:
		return "gauge"
	}
	return fmt.Sprintf("%T", c)
}

// TestMetricsDoc compares docs/metrics.md with what a real node exports, and checks the names.
func TestMetricsDoc(t *testing.T) {
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []metric
	row := regexp.MustCompile("(?m)^\\| `(perigee_[a-z_]+)` \\| (counter|gauge|histogram) \\| ([^|]*) \\| [^|]{10,} \\|$")
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		labels := m[3]
		if i := strings.Index(labels, ": "); i >= 0 { // what the values are is for people
			labels = regexp.MustCompile("`([a-z_]+)`:[^;]*(; )?").ReplaceAllString(labels, "$1, ")
		}
		documented = append(documented, metric{m[1], m[2], strings.Trim(strings.ReplaceAll(labels, "`", ""), ", –")})
	}

	var reg collected
	runtime.NewMetrics(&reg)
	gossip.NewMetrics(&reg)
	peerlink.NewMetrics(&reg)
	edgeproxy.NewMetrics(&reg)
	dns.NewMetrics(&reg)
	egress.NewMetrics(&reg)
	newMetrics(&reg, time.Now, func() float64 { return 0 }, func() (float64, bool) { return 0, false })
	newUsageMetrics(&reg, testTable(t))
	var made []metric
	for _, c := range reg.all {
		list, help := described(t, c)
		for i, m := range list {
			m.kind = kindOf(c)
			checkName(t, m, help[i])
			made = append(made, m)
		}
	}
	byName := func(a, b metric) int { return cmp.Compare(a.name, b.name) }
	slices.SortFunc(made, byName)
	slices.SortFunc(documented, byName)
	for _, m := range made {
		if !slices.Contains(documented, m) {
			t.Errorf("docs/metrics.md lacks %+v", m)
		}
	}
	for _, m := range documented {
		if !slices.Contains(made, m) {
			t.Errorf("docs/metrics.md has %+v, and no package does", m)
		}
	}

	exported, _ := described(t, newSingle(t).registry)
	names := map[string]bool{}
	for _, m := range exported {
		names[m.name] = true
	}
	for _, m := range made {
		if !names[m.name] {
			t.Errorf("a node does not export %s", m.name)
		}
		delete(names, m.name)
	}
	for name := range names {
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("a node exports %s, and no package says so", name)
		}
	}
}

// checkName holds a metric against perigee_<package>_<noun>_<unit>.
func checkName(t *testing.T, m metric, help string) {
	t.Helper()
	if !regexp.MustCompile(`^perigee_(runtime|gossip|peerlink|edgeproxy|egress|usage|node)(_[a-z]+)+$`).MatchString(m.name) {
		t.Errorf("%s: want perigee_<package>_<noun>_<unit>", m.name)
	}
	if total := strings.HasSuffix(m.name, "_total"); total != (m.kind == "counter") {
		t.Errorf("%s is a %s: counters, and only they, end in _total", m.name, m.kind)
	}
	if m.kind == "histogram" && !strings.HasSuffix(m.name, "_seconds") && !strings.HasSuffix(m.name, "_bytes") {
		t.Errorf("%s is a histogram without a unit: want seconds or bytes", m.name)
	}
	for _, unit := range []string{"_ms", "_milliseconds", "_minutes", "_kb", "_kib", "_mb", "_count"} {
		if strings.HasSuffix(strings.TrimSuffix(m.name, "_total"), unit) {
			t.Errorf("%s: want base units", m.name)
		}
	}
	if len(help) < 10 || !strings.HasSuffix(help, ".") {
		t.Errorf("%s: help %q: want a sentence", m.name, help)
	}
}
