package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/runtime"
)

// Guests' lines stay on the node where they were written. GET /logs/{function} on the control connection
// gives them to another node, which passes them on to who asked and keeps nothing:
//
//	?since=<Unix nanoseconds>&follow=1   lines of LogEvent: those that are kept, then "caught up", then,
//	                                     with follow, new ones as they come
//
// While there is no new line an empty one is sent now and then, so that both sides notice when the other
// is gone.

const (
	logBatch     = 200              // lines that are sent at a time
	logBeat      = time.Second      // between two signs of life
	logSilence   = 5 * time.Second  // without one: the node is gone
	logStall     = 10 * time.Second // that a reader may take for a batch; lines that are dropped meanwhile are counted
	logRedial    = time.Second      // between two looks for nodes that are not followed
	maxFollowers = 100              // on one node
	maxMerged    = 20_000           // lines of one answer, the newest
)

// logQuery is which lines are asked for.
type logQuery struct {
	function string
	since    time.Time // zero = all that are kept
	follow   bool
}

func (q logQuery) path() string {
	v := url.Values{}
	if !q.since.IsZero() {
		v.Set("since", strconv.FormatInt(q.since.UnixNano(), 10))
	}
	if q.follow {
		v.Set("follow", "1")
	}
	return "/logs/" + url.PathEscape(q.function) + "?" + v.Encode()
}

func parseLogQuery(r *http.Request) (q logQuery, err error) {
	q.function, q.follow = r.PathValue("function"), r.URL.Query().Get("follow") == "1"
	if s := r.URL.Query().Get("since"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return q, fmt.Errorf("since=%.40q: want Unix nanoseconds", s)
		}
		q.since = time.Unix(0, n)
	}
	return q, perigee.CheckLabel(q.function)
}

// ownLogs sends this node's lines to emit, until there are no more, ctx ends, or emit fails. An event
// without anything is a sign of life.
func (n *Node) ownLogs(ctx context.Context, q logQuery, emit func([]LogEvent) error) error {
	if q.follow {
		if n.followers.Add(1) > maxFollowers {
			n.followers.Add(-1)
			return fmt.Errorf("%d others follow logs on this node: try again later", maxFollowers)
		}
		defer n.followers.Add(-1)
	}
	r := n.lines.open(q.function, q.since)
	defer r.close()
	beat := time.NewTicker(logBeat)
	defer beat.Stop()
	behind := true
	for {
		list, missed, wake := r.read(logBatch)
		events := make([]LogEvent, 0, len(list)+1)
		if missed > 0 {
			events = append(events, LogEvent{Node: n.ID(), Missed: missed})
		}
		for i := range list {
			events = append(events, n.logEvent(&list[i]))
		}
		if len(list) == 0 && behind {
			behind = false
			events = append(events, LogEvent{Node: n.ID(), CaughtUp: true})
		}
		if len(events) > 0 {
			if err := emit(events); err != nil {
				return err
			}
		}
		if len(list) > 0 {
			continue
		}
		if !q.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-beat.C:
			if err := emit(nil); err != nil {
				return err
			}
		}
	}
}

func (n *Node) logEvent(l *runtime.Line) LogEvent {
	return LogEvent{Node: n.ID(), Line: &LogLine{
		Time: l.Time, Node: n.ID(), Region: n.Claims().Region, Function: l.Function, Revision: l.Revision,
		Request: l.Request, Level: l.Level.String(), Text: l.Text,
	}}
}

// logWriter writes events to a response, each batch within logStall.
type logWriter struct {
	conn *http.ResponseController
	w    *bufio.Writer
	enc  *json.Encoder
}

func newLogWriter(w http.ResponseWriter) *logWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	b := bufio.NewWriter(w)
	return &logWriter{http.NewResponseController(w), b, json.NewEncoder(b)}
}

func (l *logWriter) write(events []LogEvent) error {
	_ = l.conn.SetWriteDeadline(time.Now().Add(logStall)) // where it can't be set, the connection's own limits hold
	for i := range events {
		if err := l.enc.Encode(&events[i]); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		if err := l.w.WriteByte('\n'); err != nil {
			return err
		}
	}
	if err := l.w.Flush(); err != nil {
		return err
	}
	return l.conn.Flush()
}

// serveNodeLogs is GET /logs/{function} on the control connection.
func (n *Node) serveNodeLogs(w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := newLogWriter(w)
	if err := n.ownLogs(r.Context(), q, out.write); err != nil {
		_ = out.write([]LogEvent{{Node: n.ID(), Error: err.Error()}}) // a reader that is gone needs no reason
	}
}

// readLogs is ownLogs for any member.
func (n *Node) readLogs(ctx context.Context, p *perigee.Peer, q logQuery, emit func([]LogEvent) error) error {
	if p.ID == n.ID() {
		return n.ownLogs(ctx, q, emit)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(logSilence, func() { cancel(fmt.Errorf("it has been silent for %v", logSilence)) })
	defer silent.Stop()
	resp, err := n.control(ctx, p.ID, q.path())
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return err
	}
	defer resp.Body.Close()
	body := io.Reader(resp.Body)
	if !q.follow {
		body = io.LimitReader(body, maxKeptLogs)
	}
	in := bufio.NewScanner(body)
	in.Buffer(nil, maxLogEvent)
	for in.Scan() {
		silent.Reset(logSilence)
		if len(in.Bytes()) == 0 {
			continue
		}
		var e LogEvent
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("read its answer: %w", err)
		}
		if e.Error != "" {
			return errors.New(e.Error)
		}
		if e.Node = p.ID; e.Line != nil {
			e.Line.Node, e.Line.Region, e.Line.Function = p.ID, p.Region, q.function
		}
		silent.Stop() // while the reader takes its time
		if err := emit([]LogEvent{e}); err != nil {
			return err
		}
		silent.Reset(logSilence)
	}
	switch err := in.Err(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("read its answer: %w", err)
	case q.follow:
		return errors.New("it ended its answer")
	}
	return nil
}

// Bounds of what a node says: a line of text has 4 KiB, and JSON may make six bytes of each.
const (
	maxLogEvent = 64 << 10
	maxKeptLogs = 6*keepBytes + keepLines*512
)

// serveLogs is GET /v1/functions/{function}/logs: the lines of all nodes, or of one.
func (n *Node) serveLogs(w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r)
	only := perigee.NodeID(r.URL.Query().Get("node"))
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, err)
		return
	case n.View().Desired.Functions[q.function] == nil:
		fail(w, http.StatusNotFound, fmt.Errorf("no function %q: `perigee ls` lists the ones there are", q.function))
		return
	case only != "" && n.View().Observed.Nodes[only] == nil:
		fail(w, http.StatusNotFound, fmt.Errorf("there is no node %q: `perigee node ls` lists them", only))
		return
	}
	if err := n.mayRead(r)(q.function); err != nil {
		fail(w, statusOf(err), err)
		return
	}
	out := newLogWriter(w)
	if q.follow {
		n.followLogs(r.Context(), q, only, out.write)
		return
	}
	_ = out.write(n.mergedLogs(r.Context(), q, only)) // a reader that is gone needs nothing
}

// mergedLogs returns what is kept of the function's lines, by time, and after them which nodes did not
// answer.
func (n *Node) mergedLogs(ctx context.Context, q logQuery, only perigee.NodeID) []LogEvent {
	var mu sync.Mutex // guards m and rest
	var m merger
	var rest []LogEvent
	err := n.askAll(ctx, only, func(ctx context.Context, p *perigee.Peer) error {
		return n.readLogs(ctx, p, q, func(events []LogEvent) error {
			mu.Lock()
			defer mu.Unlock()
			m.add(events)
			return nil
		})
	}, func(p *perigee.Peer, err error) {
		mu.Lock()
		defer mu.Unlock()
		rest = append(rest, LogEvent{Node: p.ID, Error: err.Error()})
	})
	if err != nil {
		rest = append(rest, LogEvent{Node: only, Error: err.Error()})
	}
	return append(append(m.sorted(), rest...), LogEvent{CaughtUp: true})
}

// merger brings the events of several nodes into one order.
type merger struct {
	lines  []LogEvent
	others []LogEvent
	cut    uint64 // lines that were too many
}

func (m *merger) add(events []LogEvent) {
	for _, e := range events {
		switch {
		case e.Line != nil:
			m.lines = append(m.lines, e)
		case e.Missed > 0:
			m.others = append(m.others, e)
		}
	}
	if len(m.lines) > 2*maxMerged {
		m.trim()
	}
}

func (m *merger) trim() {
	slices.SortStableFunc(m.lines, func(a, b LogEvent) int { return a.Line.Time.Compare(b.Line.Time) })
	if over := len(m.lines) - maxMerged; over > 0 {
		m.cut += uint64(over)
		m.lines = slices.Delete(m.lines, 0, over)
	}
}

// sorted returns the lines, oldest first, after what is to be said of lines that are missing.
func (m *merger) sorted() []LogEvent {
	m.trim()
	if m.cut > 0 {
		m.others = append(m.others, LogEvent{Missed: m.cut})
	}
	return append(m.others, m.lines...)
}
