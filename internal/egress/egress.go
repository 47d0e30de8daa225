// Package egress is how anything of a function leaves the node by HTTP: calls that a guest makes
// (Transport) and the origin or function that it stands before (Origin, Next).
//
// A request passes two gates. Its URL must be of an origin that the function's manifest lists: nothing is
// allowed by default. And the address that it connects to must pass the Guard, which decides on the
// resolved address when the socket connects: public addresses only, unless the operator allows others.
// Redirects are answers like any other here; whoever follows one makes a new request, which passes the
// gates again. There is no proxy, and functions share no connections.
//
// The package does not know routes, placement or peers: another function of the cluster is reached
// through Functions. It does not read manifests or settings: internal/origin does. It starts goroutines
// only for requests to functions (inproc.go), which end with the request, and those of http.Transport.
package egress

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/perigee-edge/perigee/internal/origin"
)

// Functions runs other functions of the cluster.
type Functions interface {
	// ServeFunction answers a request as the cluster's gateway would for the function of that name:
	// wherever placement lets it run. The URL has path and query only. An unknown function is
	// answered with 404. It may panic with http.ErrAbortHandler to cut off a response.
	ServeFunction(name string, w http.ResponseWriter, r *http.Request)
}

// Resolver finds the addresses of a host. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Limits bounds what functions have open at once and what one request may take. Zero fields have their
// defaults.
type Limits struct {
	Requests     int           // at once, of one function; default 1024
	NodeRequests int           // at once, of all functions; default 4096
	Conns        int           // open connections of one function; default 256
	DialTime     time.Duration // for the name, the connection, and a place among Conns; default 10 s
	TLSTime      time.Duration // for a TLS handshake; default 10 s
	HeaderTime   time.Duration // from the end of a request to the head of its response; default 60 s
	HeaderBytes  int64         // of a response; default 48 KiB
	Response     int64         // bytes of a response body; default 1 GiB
}

func (l Limits) fill() Limits {
	l.Requests = cmp.Or(l.Requests, 1024)
	l.NodeRequests = cmp.Or(l.NodeRequests, 4096)
	l.Conns = cmp.Or(l.Conns, 256)
	l.DialTime = cmp.Or(l.DialTime, 10*time.Second)
	l.TLSTime = cmp.Or(l.TLSTime, 10*time.Second)
	l.HeaderTime = cmp.Or(l.HeaderTime, 60*time.Second)
	l.HeaderBytes = cmp.Or(l.HeaderBytes, 48<<10)
	l.Response = cmp.Or(l.Response, 1<<30)
	return l
}

// Config says what an Egress may reach. It is not changed after New.
type Config struct {
	Guard     Guard
	Functions Functions // nil = no function can be reached
	Resolver  Resolver  // default net.DefaultResolver
	Limits    Limits
	Logger    *slog.Logger // default slog.Default()
	Metrics   *Metrics     // default: counted, not exported
}

// Egress makes the transports of a node's functions. Its methods may be called at once.
type Egress struct {
	guard     Guard
	functions Functions
	resolver  Resolver
	limits    Limits
	log       *slog.Logger
	metrics   *Metrics
	running   chan struct{} // holds one token for each request
}

// New returns an Egress. It starts nothing.
func New(c Config) (*Egress, error) {
	l := c.Limits
	if l.Requests < 0 || l.NodeRequests < 0 || l.Conns < 0 || l.DialTime < 0 || l.TLSTime < 0 || l.HeaderTime < 0 || l.HeaderBytes < 0 || l.Response < 0 {
		return nil, errors.New("egress: a limit is negative: use 0 for its default")
	}
	e := &Egress{
		guard: c.Guard, functions: c.Functions, resolver: c.Resolver, limits: l.fill(),
		log: cmp.Or(c.Logger, slog.Default()), metrics: c.Metrics,
	}
	if e.resolver == nil {
		e.resolver = net.DefaultResolver
	}
	if e.metrics == nil {
		e.metrics = NewMetrics(nil)
	}
	e.running = make(chan struct{}, e.limits.NodeRequests)
	return e, nil
}

// parseRules reads the entries of a manifest, which was checked when it was signed.
func parseRules(list []string) ([]origin.Rule, error) {
	rules := make([]origin.Rule, 0, len(list))
	for _, s := range list {
		r, err := origin.ParseRule(s)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}
