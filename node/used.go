package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/usage"
)

// syncUsage is how much of the counting a loss of power takes at most.
const syncUsage = 10 * time.Second

// openUsage opens the table of what functions have used here.
func (n *Node) openUsage() (err error) {
	var found usage.Opened
	if n.usage, found, err = usage.Open(n.cfg.Dir.path(fileUsage), usage.Config{Shared: n.cfg.Predecessor != nil}); err != nil {
		return err
	}
	if found.Quarantined != "" {
		n.log.Warn("usage file put aside, counting begins anew", "file", found.Quarantined, "err", found.Why)
	}
	if found.Damaged > 0 {
		n.log.Warn("usage rows are damaged and were dropped", "rows", found.Damaged)
	}
	if found.Unsaved != nil {
		n.log.Error("there is no usage file: counts are in memory until it can be made, and a stop before that loses them", "err", found.Unsaved)
	}
	if found.Unfolded != nil {
		n.log.Warn("usage of old revisions was not folded", "err", found.Unfolded)
	}
	if found.Folded > 0 {
		n.log.Info("usage of old revisions was folded", "rows", found.Folded)
	}
	return nil
}

// keepUsage puts the table on disk now and then, until ctx ends.
func (n *Node) keepUsage(ctx context.Context) error {
	tick := time.NewTicker(syncUsage)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := n.usage.Sync(); err != nil {
				n.log.Warn("save usage", "err", err)
			}
		}
	}
}

// nodeUsage is what one node tells another.
type nodeUsage struct {
	Since time.Time   `json:"since"`
	At    time.Time   `json:"at"`
	Rows  []usage.Row `json:"rows"`
}

func (n *Node) ownUsage(function string) nodeUsage {
	u := nodeUsage{Since: n.usage.Began(), At: time.Now().UTC(), Rows: n.usage.Rows()}
	if function != "" {
		u.Rows = slices.DeleteFunc(u.Rows, func(r usage.Row) bool { return r.Function != function })
	}
	return u
}

// serveNodeUsage is GET /usage on the control connection: nodeUsage, of one function if the query names
// it.
func (n *Node) serveNodeUsage(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(stallTime)) // a mesh stream has one
	writeJSON(w, http.StatusOK, n.ownUsage(r.URL.Query().Get("function")))
}

func (n *Node) fetchUsage(ctx context.Context, p *perigee.Peer, function string) (u nodeUsage, err error) {
	if p.ID == n.ID() {
		return n.ownUsage(function), nil
	}
	resp, err := n.control(ctx, p.ID, "/usage?"+url.Values{"function": {function}}.Encode())
	if err != nil {
		return u, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, askMaximum)).Decode(&u); err != nil {
		return u, fmt.Errorf("read its answer: %w", err)
	}
	return u, nil
}

// serveUsage is GET /v1/usage: what functions used, on all nodes together.
func (n *Node) serveUsage(r *http.Request) (any, error) {
	function, may := r.URL.Query().Get("function"), n.mayRead(r)
	if function != "" {
		if err := may(function); err != nil {
			return nil, err
		}
	}
	report := Usage{Nodes: []UsageNode{}, Rows: []usage.Row{}}
	var mu sync.Mutex // guards report and sums
	sums := map[usage.Key]*usage.Row{}
	err := n.askAll(r.Context(), "", func(ctx context.Context, p *perigee.Peer) error {
		u, err := n.fetchUsage(ctx, p, function)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		report.Nodes = append(report.Nodes, UsageNode{Node: p.ID, Region: p.Region, Since: u.Since, At: u.At})
		for i := range u.Rows {
			row := &u.Rows[i]
			if may(row.Function) != nil || function != "" && row.Function != function {
				continue
			}
			if s := sums[row.Key]; s != nil {
				s.Plus(&row.Counts)
				s.First, s.Last = earlier(s.First, row.First), later(s.Last, row.Last)
				continue
			}
			sums[row.Key] = row
		}
		return nil
	}, func(p *perigee.Peer, err error) {
		mu.Lock()
		defer mu.Unlock()
		report.Nodes = append(report.Nodes, UsageNode{Node: p.ID, Region: p.Region, Missing: err.Error()})
	})
	if err != nil {
		return nil, err
	}
	for _, s := range sums {
		report.Rows = append(report.Rows, *s)
		report.Total.Plus(&s.Counts)
	}
	slices.SortFunc(report.Nodes, func(a, b UsageNode) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(report.Rows, func(a, b usage.Row) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), a.First.Compare(b.First), cmp.Compare(a.Revision, b.Revision),
			cmp.Compare(a.Region, b.Region), cmp.Compare(a.Caller, b.Caller))
	})
	return report, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// usageMetrics exports the totals of all functions together.
type usageMetrics struct {
	table *usage.Table
	descs []*prometheus.Desc
	of    []func(c *usage.Counts) float64
}

func newUsageMetrics(reg prometheus.Registerer, table *usage.Table) {
	m := &usageMetrics{table: table}
	add := func(name, help string, of func(c *usage.Counts) float64) {
		m.descs = append(m.descs, prometheus.NewDesc("perigee_usage_"+name, help, nil, nil))
		m.of = append(m.of, of)
	}
	add("requests_total", "Requests that guests on this node were given, kept across restarts.", func(c *usage.Counts) float64 { return float64(c.Requests) })
	add("errors_total", "Of them, those that failed by the guest's doing.", func(c *usage.Counts) float64 { return float64(c.Errors) })
	add("fuel_total", "Fuel that they used, about one unit an instruction.", func(c *usage.Counts) float64 { return float64(c.Fuel) })
	add("guest_seconds_total", "Time in guests' own code.", func(c *usage.Counts) float64 { return float64(c.Guest) / 1e9 })
	add("memory_byte_seconds_total", "Guest memory times the time that requests had it.", func(c *usage.Counts) float64 { return float64(c.PageMicros) * 65536 / 1e6 })
	add("received_bytes_total", "Request bodies that guests read.", func(c *usage.Counts) float64 { return float64(c.BytesIn) })
	add("sent_bytes_total", "Response bodies of guests.", func(c *usage.Counts) float64 { return float64(c.BytesOut) })
	reg.MustRegister(m, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "perigee_usage_rows", Help: "Rows of the usage file that are taken.",
	}, func() float64 { return float64(len(table.Rows())) }))
}

// Describe implements prometheus.Collector.
func (m *usageMetrics) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, to) }

// Collect implements prometheus.Collector.
func (m *usageMetrics) Collect(to chan<- prometheus.Metric) {
	var sum usage.Counts
	rows := m.table.Rows()
	for i := range rows {
		sum.Plus(&rows[i].Counts)
	}
	for i, d := range m.descs {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, m.of[i](&sum))
	}
}
