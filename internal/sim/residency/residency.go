// Package residency tries to get code, requests, bytes, secrets, keys and lines of logs out of where the rules of
// placement keep them: real fronts and workers (package edgeproxy) and the real planner on nodes whose views
// are stale and differ, which fail, and which lie to one another. What is allowed is judged by a reading of
// the rules of its own.
//
// A world is for one goroutine. It has no network and no disk: what nodes do to their disks is tried with
// real nodes, in package fleet.
package residency

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy"
	"github.com/perigee-edge/perigee/placement"
)

// Count is what a campaign saw. The first eight are violations.
type Count struct {
	Runs      int // of a function on a node that its view, or the sender's, excludes
	Hops      int // sent to such a node
	Plaintext int // requests that a gateway outside took, rather than passed on or refused
	Bytes     int // holders planned outside
	Secrets   int // nodes outside that a secret would be sealed to
	Keys      int // nodes outside that may have the key of a host, or that connections are passed to
	Logs      int // lines of nodes outside that say what a client said, or where it is
	Labels    int // values of metrics' labels, on any node, that do

	Steps, Ran, Hopped, Refused, Held, Sealed, Terminated, Kept, Lines, Series int // how much there was to see
}

// Violations is their sum.
func (c *Count) Violations() int {
	return c.Runs + c.Hops + c.Plaintext + c.Bytes + c.Secrets + c.Keys + c.Logs + c.Labels
}

const functions = 12

var homes = []perigee.Region{"fra", "fra", "ams", "lon", "wdc", "wdc", "sjc", "syd", "sin", "nrt"}

// World is a cluster.
type World struct {
	Count
	rng     *rand.Rand
	nodes   []*machine
	byID    map[perigee.NodeID]*machine
	regions *perigee.Regions
	live    map[string]*perigee.Function // as the last deploy left them; nodes may not have heard of it
	serial  int
	flight  *machine // the sender of the hop under way; nil = a client asks, or somebody forges
}

// machine is a node.
type machine struct {
	perigee.NodeClaims
	world *World
	front *edgeproxy.Proxy
	view  *perigee.View
	up    bool
	notes notes
}

// New makes a world with the nodes of homes and no function.
func New(seed uint64) (*World, error) {
	w := &World{rng: rand.New(rand.NewPCG(seed, 1)), byID: map[perigee.NodeID]*machine{}, regions: perigee.BuiltinRegions(), live: map[string]*perigee.Function{}}
	for i, region := range homes {
		m := &machine{NodeClaims: perigee.NodeClaims{ID: perigee.NodeID(fmt.Sprintf("%s-%d", region, i)), Region: region}, world: w, up: true, notes: notes{metrics: prometheus.NewRegistry()}}
		if i%3 == 0 {
			m.Labels = map[string]string{"disk": "encrypted"}
		}
		w.nodes, w.byID[m.ID] = append(w.nodes, m), m
	}
	for _, m := range w.nodes {
		m.view = w.now()
		var err error
		m.front, err = edgeproxy.New(edgeproxy.Config{
			Self: m.ID, Region: m.Region, View: func() *perigee.View { return m.view }, Local: local{m}, Hops: hops{m},
			Peer: func(r *http.Request) (perigee.NodeClaims, bool) {
				c, ok := r.Context().Value(peerKey{}).(perigee.NodeClaims)
				return c, ok
			},
			Logger: m.notes.logger(), AccessLog: &m.notes, Spans: &m.notes, TraceSample: 1, Metrics: edgeproxy.NewMetrics(m.notes.metrics), DisableCompression: true,
		})
		if err != nil {
			return nil, err
		}
	}
	return w, nil
}

// now is the View of a node that has heard of everything. All nodes claim to have every function warm.
func (w *World) now() *perigee.View {
	d := perigee.Desired{Domain: "fn.test", Functions: map[string]*perigee.Function{}, Regions: w.regions, Revoked: map[perigee.NodeID]bool{}}
	warm := map[perigee.RevisionID]perigee.Warmth{}
	for name, fn := range w.live {
		d.Functions[name] = fn
		warm[fn.Live.ID] = perigee.Warm
	}
	o := &perigee.Observed{Nodes: map[perigee.NodeID]*perigee.Peer{}, At: time.Now()}
	for _, m := range w.nodes {
		state := perigee.NodeAlive
		if !m.up {
			state = perigee.NodeDead
		}
		o.Nodes[m.ID] = &perigee.Peer{NodeClaims: m.NodeClaims, State: state, Row: perigee.Row{Node: m.ID, HTTPS: ":443", Sealing: []byte{1}, Revisions: warm}}
	}
	return &perigee.View{Desired: perigee.NewDesired(d), Observed: o}
}

// Step does one thing at random.
func (w *World) Step() {
	w.Steps++
	m := w.nodes[w.rng.IntN(len(w.nodes))]
	switch n := w.rng.IntN(20); {
	case n < 1:
		w.deploy()
	case n < 4:
		m.view = w.now() // it hears of what happened
	case n < 5:
		m.up = false
	case n < 6:
		m.up = true
	case n < 14:
		w.ask(m)
	case n < 18:
		w.forge(m)
	default:
		w.look(m)
	}
}

// pick returns one of some.
func pick[T any](w *World, of ...T) T { return of[w.rng.IntN(len(of))] }

// hosts is at how many hosts the functions answer: the last four share two.
const hosts = functions - 2

// deploy makes or moves a function.
func (w *World) deploy() {
	i := w.rng.IntN(functions)
	name := fmt.Sprintf("f%d", i)
	w.serial++
	id := perigee.RevisionID(fmt.Sprintf("%012x", w.serial))
	host, path := fmt.Sprintf("h%d.example.com", min(i, hosts-2+i%2)), "/"
	if i >= hosts {
		path = "/api"
	}
	p := pick(w,
		perigee.Policy{},
		perigee.Policy{Residency: []string{"eu"}},
		perigee.Policy{Residency: []string{"na"}, Forbid: []string{"sjc"}},
		perigee.Policy{Residency: []string{"fra", "ams"}, Prefer: []string{"ams"}},
		perigee.Policy{Residency: []string{"as", "oc"}, Pin: []string{"syd"}},
		perigee.Policy{Residency: []string{"node:" + string(pick(w, w.nodes...).ID)}},
		perigee.Policy{Residency: []string{"label:disk=encrypted"}, Warm: map[string]int{"fra": 2}},
		perigee.Policy{Residency: []string{"eu"}, Survive: "region", OnUnsatisfiable: "degrade", Max: 3},
		perigee.Policy{Pin: []string{"lon"}},
		perigee.Policy{Forbid: []string{"eu", "nrt"}},
	)
	fn := &perigee.Function{Name: name, Live: &perigee.Revision{ID: id, Manifest: perigee.Manifest{
		Name: name, Placement: p, Secrets: []string{"KEY"}, Routes: []perigee.Route{{Host: host, Path: path}},
	}}}
	if old := w.live[name]; old != nil {
		fn.History = append(slices.Clone(old.History), old.Live.ID)
	}
	w.live[name] = fn
}

// ask sends a client's request to a gateway, with and without TLS, and with what clients may try.
func (w *World) ask(m *machine) {
	if !m.up || len(w.live) == 0 {
		return
	}
	host := fmt.Sprintf("h%d.example.com", w.rng.IntN(hosts))
	r := httptest.NewRequest(pick(w, "GET", "POST"), "http://"+host+pick(w, "/", "/api", "/api/x"), nil)
	r.URL.Scheme, r.URL.Host = "", ""
	w.fill(r, !w.resident(m.view, host, m.NodeClaims))
	if w.rng.IntN(3) > 0 {
		r.TLS = &tls.ConnectionState{ServerName: host, HandshakeComplete: true}
	}
	switch w.rng.IntN(4) {
	case 0:
		r.Header.Set("Perigee-Force-Region", string(pick(w, homes...)))
	case 1:
		r.Header.Set("Perigee-Prefer-Region", string(pick(w, homes...)))
	case 2:
		r.Header.Set("Perigee-Hop-Region", string(pick(w, homes...)))
		r.Header.Set("Perigee-Client-Region", string(pick(w, homes...)))
	}
	rec := httptest.NewRecorder()
	m.front.ServeHTTP(rec, r)
	if rec.Code >= 300 {
		w.Refused++
	}
	for fn := range m.view.Desired.At(host) {
		if !w.in(fn.Policy().Residency, m.NodeClaims) && rec.Code != http.StatusPermanentRedirect && rec.Code != http.StatusMisdirectedRequest {
			w.Plaintext++
		}
	}
}

// forge has a node send another a hop, or a connection, that it should not, or that lies.
func (w *World) forge(from *machine) {
	to := pick(w, w.nodes...)
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range w.live {
			if !yield(name) {
				return
			}
		}
	})
	if !to.up || to == from || len(names) == 0 {
		return
	}
	fn := w.live[pick(w, names...)]
	r := httptest.NewRequest("POST", "http://"+fn.Live.Manifest.Routes[0].Host+"/", strings.NewReader("x"))
	known := to.view.Desired.Functions[fn.Name]
	client := w.fill(r, known != nil && !w.in(known.Policy().Residency, to.NodeClaims))
	entry := from
	if w.rng.IntN(3) == 0 {
		entry = pick(w, w.nodes...)
	}
	if w.rng.IntN(4) == 0 {
		r.Header.Set("Perigee-Hop-Pass", client+":4711")
	} else {
		for k, v := range map[string]string{
			"Function": fn.Name, "Revision": string(fn.Live.ID), "Entry": string(entry.ID), "Region": string(pick(w, entry.Region, "fra")), "Caller": string(pick(w, homes...)),
			"Client": client, "Proto": "https", "Id": "0123456789abcdef", "Path": string(entry.ID), "Cold": "1",
		} {
			r.Header.Set("Perigee-Hop-"+k, v)
		}
	}
	res := to.take(from, r, nil)
	if res.refused != "" {
		w.Refused++
	}
	if len(r.Header["Perigee-Hop-Pass"]) > 0 && res.refused == perigee.RefusedNotHere && !w.resident(to.view, r.Host, to.NodeClaims) {
		w.Keys++ // it would have taken it, had it listened for HTTPS
	}
}

// look judges what a node would keep, seal and pass on by its view.
func (w *World) look(m *machine) {
	planner := placement.NewPlanner(m.view)
	for _, fn := range m.view.Desired.Functions {
		for _, h := range planner.Plan(fn).Holders {
			w.Held++
			if !w.allowed(fn.Policy(), w.byID[h].NodeClaims) {
				w.Bytes++
			}
		}
		for _, to := range w.nodes {
			if _, ok := placement.Allowed(fn.Policy(), to.NodeClaims, w.regions); ok {
				w.Sealed++
				if !w.allowed(fn.Policy(), to.NodeClaims) {
					w.Secrets++
				}
			}
		}
	}
	for host := range m.view.Desired.Hosts() {
		for _, to := range w.nodes {
			if _, ok := placement.Terminates(m.view.Desired, host, to.NodeClaims); ok {
				w.Terminated++
				if !w.resident(m.view, host, to.NodeClaims) {
					w.Keys++
				}
			}
		}
		for _, id := range placement.Terminators(m.view, m.NodeClaims, host, func(perigee.NodeID) (time.Duration, bool) { return 0, false }) {
			if !w.resident(m.view, host, w.byID[id].NodeClaims) {
				w.Keys++
			}
		}
	}
}
