package residency

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee/edgeproxy"
)

// What clients say and where they are. A node may write the first of each; the second ones are of requests for
// functions whose residency, as the node knows it, excludes the node.
const (
	said, client         = "said-where-it-may-be", "198.51.100.1"
	keptSaid, keptClient = "said-where-it-must-stay", "203.0.113.99"
)

// notes is what a node writes and tells others: its log, its access log, its traces, its metrics. The node's front
// writes to it.
type notes struct {
	metrics *prometheus.Registry

	mu    sync.Mutex // guards lines
	lines bytes.Buffer
}

// logger returns the node's log, with all that it ever tells.
func (n *notes) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(n, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write adds lines.
func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lines.Write(b)
}

// Record adds a span.
func (n *notes) Record(s edgeproxy.Span) { fmt.Fprintln(n, s) }

// fill has a client say something in every place where it can, and returns its address. kept says that the node
// that gets the request may not write about it.
func (w *World) fill(r *http.Request, kept bool) string {
	text, from := said, client
	if kept {
		text, from = keptSaid, keptClient
		w.Kept++
	}
	r.RemoteAddr = from + ":4711"
	r.URL.Path = path.Join(r.URL.Path, text)
	r.URL.RawQuery = "q=" + text
	r.RequestURI = r.URL.RequestURI()
	for _, name := range []string{"User-Agent", "Referer", "Cookie", "Authorization", "X-Forwarded-For", "Accept"} {
		r.Header.Set(name, text)
	}
	if r.Method == http.MethodPost {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	}
	return from
}

// Read judges what all nodes have written. It is the end of the world: its fronts write what they had not yet.
func (w *World) Read() error {
	ended, end := context.WithCancel(context.Background())
	end()
	for _, m := range w.nodes {
		if err := m.front.Run(ended); err != nil {
			return err
		}
		for line := range strings.Lines(m.notes.lines.String()) {
			w.Lines++
			if strings.Contains(line, keptSaid) || strings.Contains(line, keptClient) {
				w.Logs++
			}
		}
		families, err := m.notes.metrics.Gather()
		if err != nil {
			return err
		}
		for _, f := range families {
			for _, series := range f.GetMetric() {
				w.Series++
				for _, l := range series.GetLabel() {
					if slices.ContainsFunc([]string{said, client, keptSaid, keptClient}, func(s string) bool { return strings.Contains(l.GetValue(), s) }) {
						w.Labels++
					}
				}
				if f.GetName() == "perigee_edgeproxy_access_log_dropped_total" && series.GetCounter().GetValue() > 0 {
					return fmt.Errorf("%s lost lines of its access log, which can't be judged then", m.ID)
				}
			}
		}
	}
	return nil
}
