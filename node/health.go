package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/perigee-edge/perigee"
)

const (
	scrapeTime = 10 * time.Second
	maxScrapes = 4

	// startGrace is how long a node that was a member before waits for another to compare its state
	// with. After that it serves what it knows: the others may be down.
	startGrace = 5 * time.Second
)

// healthHandler serves what monitoring asks for, on the admin listener:
//
//	/livez    200 while the process works
//	/readyz   200 while the node should get traffic, else 503 and the reason; with a line on a full disk
//	/metrics  Prometheus metrics; docs/metrics.md lists them
func (n *Node) healthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := n.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
		if trouble := n.disk.trouble(); trouble != "" { // it goes on serving
			fmt.Fprintln(w, "disk", trouble)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelWarn), Timeout: scrapeTime, MaxRequestsInFlight: maxScrapes,
	}))
	return mux
}

// readiness remembers what of a node's readiness does not follow from the View.
type readiness struct {
	mu       sync.Mutex // guards all below
	began    time.Time  // of Run; zero = it does not run yet
	up       bool       // it was warm for all that the plan wanted: the start is over
	draining bool
}

func (r *readiness) start(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = now
}

func (r *readiness) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
}

// ready says, as an error, why the node should not get traffic.
//
// It must be warm for all that the plan wants of it once, at its start. A deploy later on does not
// make it unready: the new revision is warm somewhere before anybody knows it, and requests go
// there. Nor does a revision that can't be loaded here: the others would suffer for it.
func (n *Node) ready() error {
	v := n.View()
	n.readiness.mu.Lock()
	defer n.readiness.mu.Unlock()
	switch r := &n.readiness; {
	case r.began.IsZero():
		return errors.New("starting")
	case r.draining:
		return errors.New("draining")
	case v.Desired.Revoked[n.ID()]:
		return ErrRemoved
	case time.Now().After(n.m.identity.Expires()):
		return errors.New("this node's certificate has expired and no signer has renewed it yet")
	case r.up:
		return nil
	}
	if err := n.starting(v); err != nil {
		return err
	}
	n.readiness.up = true
	return nil
}

// starting says what a start still waits for.
func (n *Node) starting(v *perigee.View) error {
	if n.seeds.joined() && !n.knowsItself() {
		return errors.New("the cluster's state has not arrived yet")
	}
	if time.Since(n.readiness.began) < startGrace && !agrees(v) {
		return errors.New("no other node has the same state yet")
	}
	plans := n.plans.at(v)
	var shown map[perigee.RevisionID]perigee.Warmth // in the View, by which requests are routed
	if self := v.Observed.Nodes[n.ID()]; self != nil {
		shown = self.Revisions
	}
	for name, fn := range v.Desired.Functions {
		if fn = n.rollouts.on(v, fn, n.ID()); fn == nil {
			continue
		}
		id := fn.Live.ID
		if want := wanted(plans.Plan(fn), n.ID()); shown[id] < want && n.rep.lastError(id) == nil {
			return fmt.Errorf("function %s is not %s here yet", name, want)
		}
	}
	return nil
}

// knowsItself reports whether the record by which this node joined is here.
func (n *Node) knowsItself() bool {
	for _, t := range n.gossip.Tokens() {
		if t.Redeemed != nil && !t.Former && t.Redeemed.Node == n.ID() {
			return true
		}
	}
	return false
}

// agrees reports whether another node has the same state, or there is no other.
func agrees(v *perigee.View) bool {
	alone := true
	for id, p := range v.Observed.Nodes {
		if id == v.Observed.Self {
			continue
		}
		alone = false
		if p.State == perigee.NodeAlive && p.Digest == v.Desired.Digest {
			return true
		}
	}
	return alone
}
