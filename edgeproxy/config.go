package edgeproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/edgeproxy/gateways"
	"github.com/perigee-edge/perigee/placement"
)

// Config says what a Proxy serves and whom it asks. It is not changed after New.
type Config struct {
	Self   perigee.NodeID
	Region perigee.Region
	View   func() *perigee.View // what this node believes; called once per request and TLS handshake
	Local  Local
	Hops   Hops

	// Client returns the country of a client's address and the region that it counts as; what is not
	// known is empty. nil = nothing is known.
	Client func(netip.Addr, *perigee.Regions) (country string, region perigee.Region)

	// NearerGateway is what clients are told for which another gateway is much nearer: "off" (default), "hint" (by
	// Alt-Svc) or "redirect" (besides, programs that lose nothing by it are sent there, 307).
	NearerGateway  string
	Gateways       *gateways.Chooser         // knows which gateways are near to whom; required unless "off"
	GatewayDomains map[perigee.NodeID]string // by gateway: functions answer at <label>.<domain> there alone; required for "redirect"

	// Measured is told the round trip of each client's connection when it ends, unless there is a load
	// balancer between. nil = nobody wants to know.
	Measured func(client netip.Addr, rtt time.Duration)

	// Rollout returns how far a function of the View is whose live revision does not run everywhere
	// yet; nil = it does. A nil func means that all do.
	Rollout func(*perigee.View, *perigee.Function) *placement.Rollout

	// LoadOf returns the load that a peer reported last with a response, once its body was read.
	// nil = only what RoundTrip returns is known.
	LoadOf func(*http.Response) (perigee.Load, bool)

	// WithAccepted returns a context for RoundTrip, which then calls f as soon as the worker has accepted
	// the request. nil = that is known only when the head of the response is there.
	WithAccepted func(ctx context.Context, f func(perigee.Load)) context.Context

	// WarmUp starts a function of the View here in the background. It is called, often, when a request
	// went elsewhere only because the function is cold here; it must return at once. nil = not done.
	WarmUp func(*perigee.Function)
	// Peer returns the authenticated node that sent a hop. If set, hops that name another node as
	// their entry are refused. nil = the entry a hop names is believed.
	Peer func(*http.Request) (perigee.NodeClaims, bool)

	HTTPS   string       // TCP address for HTTPS, opened by New; "" = off
	HTTP    string       // TCP address for plain HTTP, opened by New; "" = off
	OnHTTPS net.Listener // used instead of HTTPS; the Proxy closes it
	OnHTTP  net.Listener // used instead of HTTP; the Proxy closes it

	// OnHTTP3 is the UDP socket for HTTP/3, on the address of HTTPS or one that is forwarded alike: its
	// port is told to clients (Alt-Svc). The Proxy closes it. nil = no HTTP/3.
	OnHTTP3 net.PacketConn

	// Mark begins the connection ids of HTTP/3: processes that share the port need marks of their own.
	Mark [4]byte

	ProxyProtocol []netip.Prefix // load balancers that must begin each connection with a PROXY header
	Trusted       []netip.Prefix // proxies whose X-Forwarded-For and X-Forwarded-Proto are believed

	// SignWeb has a certificate request (DER, an ECDSA P-256 key, one DNS name that the View has)
	// signed by the cluster's web CA and returns the chain as PEM, leaf first. It must honour ctx.
	// Required for HTTPS.
	SignWeb func(ctx context.Context, csrDER []byte) (chainPEM []byte, err error)
	// Shared returns the certificate that the cluster's nodes share for a host that the View has; nil = none,
	// so that one of the cluster's own CA answers. nil = there are none.
	Shared func(host string) *tls.Certificate

	// TicketKeys returns the keys of session tickets that the cluster's nodes share for a host that the View
	// has, newest first; none = this process's own. nil = there are none.
	TicketKeys func(host string) [][32]byte

	// Challenges returns what a public CA may ask about a host that the View has. nil = nothing.
	Challenges func(ctx context.Context, host string) []acme.Challenge

	WebRoot *x509.Certificate // what chains must lead to; nil = not checked
	CertDir string            // holds the web certificates and their keys; required for HTTPS

	Receipt string // for functions that name none: "full", "region" or "off"; default "region", or "full" if Dev
	Steer   string // the most that any function may let clients choose: "off", "prefer" or "force"; default "force"
	Dev     bool   // a developer's machine

	StallTimeout time.Duration // longest pause of a client while it sends or takes a body; default 60 s
	IdleTimeout  time.Duration // of a connection between requests; default 2 min

	// MinBodyRate is how fast a request's body must come while its response has not begun, in bytes a
	// second, after StallTimeout was waited for it in all; default 128, negative = as slow as it likes.
	MinBodyRate int64

	MaxConns      int // open connections of clients; default 20,000
	MaxConnsPerIP int // of one client: an IPv4 address, or an IPv6 network of 64 bits; default 500

	Spans       Spans   // gets the spans of sampled traces; nil = nobody
	TraceSample float64 // part of the requests without a trace of their own that begin a sampled one, 0 to 1

	DisableCompression bool // bodies go as functions wrote them, also to clients that ask for zstd, br or gzip

	CacheSize int64 // bytes of stored responses, of functions that allow it; default 64 MiB, negative = none are stored

	AccessLog io.Writer // gets a line of JSON per request, one Write each; nil = none

	Logger  *slog.Logger // nil = slog.Default()
	Metrics *Metrics     // nil = not registered anywhere
}

const (
	defaultStall = 60 * time.Second
	defaultIdle  = 2 * time.Minute
	defaultRate  = 128
	defaultCache = 64 << 20

	defaultConns      = 20_000
	defaultConnsPerIP = 500
)

// Local runs functions on this node.
type Local interface {
	// Invoke runs revision rev of fn, loading it first if need be. ctx carries the deadline, which
	// includes the function's own limit. The response is written to w, which may be a [Reporter] and an [Accepter].
	// The outcomes are:
	//
	//  1. nil: w has the whole response.
	//  2. *perigee.HopError (overloaded, not-here, draining): the guest was not started, nothing was
	//     written to w, and r.Body was not read. Node may be empty.
	//  3. *GuestError: the guest ran and failed. If the response had begun it is cut off, else the
	//     client gets the status that the fault stands for.
	//  4. ctx's error: the deadline passed (504) or the client went away.
	//  5. any other error: this node failed (500).
	Invoke(ctx context.Context, fn *perigee.Function, rev perigee.RevisionID, w http.ResponseWriter, r *http.Request) (Result, error)

	// Load returns the load of a revision; the zero Load if it is not loaded. It is called often.
	Load(rev perigee.RevisionID) perigee.Load
}

// Hops sends requests to other nodes.
type Hops interface {
	// RoundTrip sends r to a node. A *perigee.HopError means that the guest was not started; after
	// any other error it may have run. r.Body must not be read before the worker accepted. The load
	// is the one that came with the acceptance.
	RoundTrip(ctx context.Context, to perigee.NodeID, r *http.Request) (*http.Response, perigee.Load, error)

	// RTT returns the smoothed round-trip time of a live connection.
	RTT(perigee.NodeID) (time.Duration, bool)
}

// Result is what is known of a run besides its response.
type Result struct {
	Start string // StartWarm, StartImage or StartCold; "" = not known
	Fuel  uint64 // instructions used; 0 = not measured

	// Partial says that the guest runs on, so that Fuel is not the last word. It is for what is
	// reported before Invoke returns.
	Partial bool
	// StartTook is how long the cold start took; 0 = there was none, or it is not known.
	StartTook time.Duration
}

// The values of Result.Start.
const (
	StartWarm  = "warm"  // the revision was loaded
	StartImage = "image" // a new instance from a prepared image
	StartCold  = "cold"  // the revision was loaded for this request
)

// Reporter is implemented by the response writers that Local.Invoke gets. What is reported before
// the head of the response is written appears in the receipt.
type Reporter interface{ Report(Result) }

// Accepter is implemented by the response writers of requests from other nodes. Accept says that the guest
// is about to start, or that a cold start begins: the sender waits for it for a few hundred milliseconds
// only. A *perigee.HopError after it is told as well, but later. It may be called more than once.
type Accepter interface{ Accept() }

func (cfg *Config) fill() error {
	switch {
	case cfg.Self == "" || cfg.Region == "":
		return fmt.Errorf("edgeproxy: node %q in region %q: both are required", cfg.Self, cfg.Region)
	case cfg.View == nil || cfg.Local == nil || cfg.Hops == nil:
		return errors.New("edgeproxy: View, Local and Hops are required")
	case (cfg.HTTPS != "" || cfg.OnHTTPS != nil) && (cfg.SignWeb == nil || cfg.CertDir == ""):
		return errors.New("edgeproxy: HTTPS needs SignWeb and CertDir")
	case cfg.StallTimeout < 0 || cfg.IdleTimeout < 0:
		return errors.New("edgeproxy: timeouts can't be negative")
	case !(cfg.TraceSample >= 0 && cfg.TraceSample <= 1):
		return fmt.Errorf("edgeproxy: trace sample %v: want 0 to 1", cfg.TraceSample)
	case cfg.MaxConns < 0 || cfg.MaxConnsPerIP < 0:
		return errors.New("edgeproxy: bounds of connections can't be negative")
	case cfg.OnHTTP3 != nil && cfg.HTTPS == "" && cfg.OnHTTPS == nil:
		return errors.New("edgeproxy: HTTP/3 needs HTTPS: clients learn of it there")
	}
	if cfg.Receipt == "" {
		cfg.Receipt = ReceiptRegion
		if cfg.Dev {
			cfg.Receipt = ReceiptFull
		}
	}
	cfg.Steer = cmp.Or(cfg.Steer, steerForce)
	if !slices.Contains(steerLevels, cfg.Steer) {
		return fmt.Errorf("edgeproxy: steer %q: want one of %q", cfg.Steer, steerLevels)
	}
	if err := cfg.fillNearer(); err != nil {
		return err
	}
	if !validLevel(cfg.Receipt) {
		return fmt.Errorf("edgeproxy: receipt %q: want %q, %q or %q", cfg.Receipt, ReceiptFull, ReceiptRegion, ReceiptOff)
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = defaultStall
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = defaultIdle
	}
	cfg.CacheSize = cmp.Or(cfg.CacheSize, defaultCache)
	cfg.MinBodyRate = cmp.Or(cfg.MinBodyRate, defaultRate)
	cfg.MaxConns = cmp.Or(cfg.MaxConns, defaultConns)
	cfg.MaxConnsPerIP = cmp.Or(cfg.MaxConnsPerIP, defaultConnsPerIP)
	if cfg.Measured == nil {
		cfg.Measured = func(netip.Addr, time.Duration) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(prometheus.NewRegistry())
	}
	return nil
}
