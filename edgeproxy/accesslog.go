package edgeproxy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/url"
	"time"

	"github.com/perigee-edge/perigee"
)

// accessQueue is how many lines wait for the disk; more are dropped and counted, since a slow disk must not
// slow clients down.
const accessQueue = 4096

// accessLog writes a line of JSON per request. docs/accesslog.md explains the fields.
type accessLog struct {
	w       io.Writer
	lines   chan []byte // never closed
	dropped func()
}

// accessLine is one request. What could be secret is not in it: no header fields but the two below, and no
// query strings. Of a request that a residency keeps from this node nothing is in it that the client said, nor
// who it is.
type accessLine struct {
	Time      string             `json:"time"`
	ID        string             `json:"id"`
	Trace     string             `json:"trace"`
	Client    string             `json:"client,omitempty"`
	Method    string             `json:"method"`
	Scheme    string             `json:"scheme"`
	Host      string             `json:"host"`
	Path      string             `json:"path,omitempty"`
	Protocol  string             `json:"protocol"`
	TLS       string             `json:"tls,omitempty"`
	Status    int                `json:"status"`
	Received  int64              `json:"received_bytes"`
	Sent      int64              `json:"sent_bytes"`
	Millis    float64            `json:"ms"`
	Function  string             `json:"function,omitempty"`
	Revision  perigee.RevisionID `json:"revision,omitempty"`
	Via       perigee.NodeID     `json:"via,omitempty"`
	Entry     perigee.NodeID     `json:"entry"`
	Node      perigee.NodeID     `json:"node,omitempty"`
	Region    perigee.Region     `json:"region,omitempty"`
	Start     string             `json:"start,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Cache     string             `json:"cache,omitempty"`
	Tries     int                `json:"tries"`
	HopMillis float64            `json:"hop_ms,omitempty"`
	Fuel      uint64             `json:"fuel,omitempty"`
	Agent     string             `json:"user_agent,omitempty"`
	Referer   string             `json:"referer,omitempty"`
	Error     string             `json:"error,omitempty"`
}

func newAccessLog(w io.Writer, dropped func()) *accessLog {
	return &accessLog{w: w, lines: make(chan []byte, accessQueue), dropped: dropped}
}

// run writes until ctx ends, and then what waits.
func (l *accessLog) run(ctx context.Context) error {
	for {
		select {
		case line := <-l.lines:
			l.write(line)
		case <-ctx.Done():
			for {
				select {
				case line := <-l.lines:
					l.write(line)
				default:
					return nil
				}
			}
		}
	}
}

func (l *accessLog) write(line []byte) {
	if _, err := l.w.Write(line); err != nil {
		l.dropped()
	}
}

// visit notes a request that ended.
func (l *accessLog) visit(v *visit, took time.Duration) {
	r := v.in
	line := accessLine{
		Time: v.began.UTC().Format("2006-01-02T15:04:05.000Z07:00"), ID: v.facts.id, Trace: v.trace.id(),
		Method: r.Method, Scheme: v.facts.proto, Host: shorten(v.host), Protocol: r.Proto,
		Status: v.answer.status, Sent: v.answer.wire, Millis: millis(took), Entry: v.proxy.cfg.Self,
		Node: v.receipt.Node, Region: v.receipt.Region, Revision: v.receipt.Revision, Start: v.receipt.Start, Reason: v.receipt.Reason,
		Cache: v.cached, Tries: v.tries, HopMillis: millis(v.receipt.Hop), Fuel: v.receipt.Fuel,
	}
	if v.outer == "" {
		line.Client, line.Path = v.facts.client, bounded(r.URL.EscapedPath(), maxLogged)
		line.Agent, line.Referer = bounded(r.Header.Get("User-Agent"), maxLogged), withoutQuery(r.Header.Get("Referer"))
	}
	if by, passed := sessionOf(r.Context()).passedFrom(); passed {
		line.Via = by.ID
	}
	if r.TLS != nil {
		line.TLS = tls.VersionName(r.TLS.Version)
	}
	switch {
	case v.body != nil:
		line.Received = v.body.size.Load()
	case v.up != nil:
		line.Received = v.up.received.Load()
	}
	if v.fn != nil {
		line.Function = v.fn.Name
	}
	if v.err != nil {
		line.Error = bounded(v.err.Error(), maxLogged)
	}
	b, err := json.Marshal(&line)
	if err != nil {
		return // strings and numbers: can't fail
	}
	select {
	case l.lines <- append(b, '\n'):
	default:
		l.dropped()
	}
}

// maxLogged bounds what of a client's text is written, in bytes.
const maxLogged = 1024

func bounded(s string, most int) string { return s[:min(len(s), most)] }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// withoutQuery takes from a URL what could be secret.
func withoutQuery(s string) string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return bounded(u.String(), maxLogged)
}
