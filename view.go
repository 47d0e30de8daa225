package perigee

import (
	"iter"
	"maps"
	"strings"
	"time"
)

// View is an immutable picture of what this node believes. Package gossip is its one writer and
// replaces it whole; requests read it with one atomic load. It is two pointers, since the halves
// change at different speeds: Desired when somebody deploys, Observed many times a second.
type View struct {
	Desired  *Desired
	Observed *Observed
}

// Desired is what people asked for: the fold of all signed records.
type Desired struct {
	Cluster   ClusterID
	Domain    string // functions without a route answer at <name>.<Domain>
	Functions map[string]*Function
	Regions   *Regions
	Revoked   map[NodeID]bool
	Web       map[WebName]*WebEntry         // what nodes share to answer HTTPS
	Secrets   map[string]map[string]*Secret // by function, whether or not it exists, and name
	Purges    map[string][]*Purge           // by function, "" = all, the oldest first; at most MaxPurges each
	Digest    Digest                        // of the set of records; equal on nodes that hold the same

	routes map[string][]routeEntry // by host, longest path first
}

// Observed is what nodes report and what the membership protocol sees.
type Observed struct {
	Self  NodeID
	Nodes map[NodeID]*Peer // this node included
	At    time.Time
}

type routeEntry struct {
	path string
	fn   *Function
}

// NewDesired builds the value from its parts and indexes the routes of its functions. A function's
// contested routes are left out. The maps are kept, not copied.
func NewDesired(d Desired) *Desired {
	d.routes = map[string][]routeEntry{}
	for _, fn := range d.Functions {
		for _, r := range fn.Routes(d.Domain) {
			d.routes[r.Host] = insertByLength(d.routes[r.Host], routeEntry{r.Path, fn})
		}
	}
	return &d
}

func insertByLength(list []routeEntry, e routeEntry) []routeEntry {
	at := 0
	for at < len(list) && len(list[at].path) >= len(e.path) {
		at++
	}
	list = append(list, routeEntry{})
	copy(list[at+1:], list[at:])
	list[at] = e
	return list
}

// Routes returns the routes that fn answers in a cluster with this domain: those of its live
// manifest with defaults filled in, without the contested ones.
func (fn *Function) Routes(domain string) []Route {
	var out []Route
next:
	for _, r := range fn.Live.Manifest.FullRoutes(domain) {
		for _, x := range fn.Contested {
			if x.Route == r {
				continue next
			}
		}
		out = append(out, r)
	}
	return out
}

// FullRoutes returns the routes that a manifest asks for, with defaults filled in.
func (m *Manifest) FullRoutes(domain string) []Route {
	routes := m.Routes
	if len(routes) == 0 {
		routes = []Route{{}}
	}
	out := make([]Route, len(routes))
	for i, r := range routes {
		if r.Host == "" {
			r.Host = m.Name + "." + domain
		}
		if r.Path == "" {
			r.Path = "/"
		}
		out[i] = r
	}
	return out
}

// Lookup returns the function that answers a request for host (lower case, without a port or a
// trailing dot) and path, or nil. The longest matching path prefix wins; a prefix matches whole
// segments only, so "/api" answers "/api" and "/api/x" but not "/apis".
func (d *Desired) Lookup(host, path string) *Function {
	for _, e := range d.routes[host] {
		rest, ok := strings.CutPrefix(path, e.path)
		if ok && (rest == "" || rest[0] == '/' || e.path[len(e.path)-1] == '/') {
			return e.fn
		}
	}
	return nil
}

// At returns the functions that answer at host, one for each of its routes.
func (d *Desired) At(host string) iter.Seq[*Function] {
	return func(yield func(*Function) bool) {
		for _, e := range d.routes[host] {
			if !yield(e.fn) {
				return
			}
		}
	}
}

// Hosts returns all hosts at which functions answer, in no order.
func (d *Desired) Hosts() iter.Seq[string] { return maps.Keys(d.routes) }

// HasHost reports whether any function answers at host. Certificates are issued only for such hosts.
func (d *Desired) HasHost(host string) bool { return len(d.routes[host]) > 0 }
