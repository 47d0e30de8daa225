package edgeproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
)

const (
	maxCached    = 10_000 // certificates in memory
	issueTimeout = 8 * time.Second
	tidyEvery    = 24 * time.Hour
	leaveEvery   = 2 * time.Second
	restTime     = time.Second
	maxResting   = 1000
	askRate      = 50 // a second
	askBurst     = 200
)

// certs are the web certificates of this node: got at the first handshake for a host that the View
// has, kept on disk, and renewed at a handshake in the last third of their life.
//
// certmagic would get them at a handshake by itself, but it hands the outcome to all who wait for the
// same name in the whole process, and nodes in one process need not be of one cluster. So the first
// certificate of a host is got here, and certmagic finds it in its cache.
type certs struct {
	cfg   *Config
	mine  func(host string) bool // its TLS may end here
	log   *slog.Logger
	store *certStorage

	ctx   context.Context // of Run, set by start: handshakes of certmagic's have no other
	cache *certmagic.Cache
	magic *certmagic.Config
	first singleflight.Group // hosts that get their first certificate
	asks  *rate.Limiter      // for challenges

	mu      sync.Mutex           // guards resting
	resting map[string]time.Time // hosts that got no certificate lately, and until when none is asked for
}

var errResting = errors.New("there was no certificate a moment ago")

func newCerts(cfg *Config, mine func(host string) bool) *certs {
	return &certs{cfg: cfg, mine: mine, log: cfg.Logger, store: newCertStorage(cfg.CertDir), asks: rate.NewLimiter(askRate, askBurst), resting: map[string]time.Time{}}
}

// start starts certmagic's cache. stop ends it.
func (c *certs) start(ctx context.Context) {
	c.ctx = ctx
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.magic, nil },
		Capacity:         maxCached,
		Logger:           zap.NewNop(),
	})
	c.magic = certmagic.New(c.cache, certmagic.Config{
		OnDemand:            &certmagic.OnDemandConfig{DecisionFunc: c.allow},
		Issuers:             []certmagic.Issuer{c},
		Storage:             c.store,
		DisableStorageCheck: true,
		DisableARI:          true,
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		Logger:              zap.NewNop(), // what matters is logged here
	})
}

func (c *certs) stop() { c.cache.Stop() }

// tidy deletes expired certificates once a day until ctx ends.
func (c *certs) tidy(ctx context.Context) error {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		err := certmagic.CleanStorage(ctx, c.store, certmagic.CleanStorageOptions{
			ExpiredCerts: true, ExpiredCertGracePeriod: tidyEvery, Interval: tidyEvery, Logger: zap.NewNop(),
		})
		if err != nil && ctx.Err() == nil {
			c.log.Warn("delete expired certificates", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// get is the GetCertificate of the TLS configuration. Names that no function answers, and those whose
// TLS may not end here, are refused with the alert unrecognized_name before anything else is done.
func (c *certs) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := canonicalHost(hello.ServerName)
	if !c.cfg.View().Desired.HasHost(name) {
		c.cfg.Metrics.certs.WithLabelValues("unknown-host").Inc()
		return nil, nil
	}
	if !c.mine(name) {
		c.cfg.Metrics.certs.WithLabelValues("outside").Inc()
		return nil, nil
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acme.Protocol {
		return c.challenge(hello, name)
	}
	if c.cfg.Shared != nil {
		if cert := c.cfg.Shared(name); cert != nil {
			return cert, nil
		}
	}
	if c.rests(name, time.Now()) {
		return nil, errResting
	}
	cert, err := c.find(name, hello)
	if err != nil {
		c.rest(name, time.Now())
		c.log.Warn("no certificate", "host", name, "err", err)
		return nil, err
	}
	return cert, nil
}

// challenge answers a CA that validates by a handshake. The order may be at another node.
func (c *certs) challenge(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	for _, ch := range c.challenges(hello.Context(), name) {
		if ch.Type == acme.TypeTLS {
			return ch.HandshakeCert()
		}
	}
	return nil, nil
}

// challenges asks for the open challenges about a host, at a bounded rate: strangers may cause it.
func (c *certs) challenges(ctx context.Context, host string) []acme.Challenge {
	if c.cfg.Challenges == nil || !c.asks.Allow() {
		return nil
	}
	return c.cfg.Challenges(ctx, host)
}

func (c *certs) find(name string, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	// Not the handshake's context: others may wait for the same certificate.
	ctx, cancel := context.WithTimeout(c.ctx, issueTimeout)
	defer cancel()
	if !c.cached(name) {
		if _, err, _ := c.first.Do(name, func() (any, error) { return nil, c.obtain(ctx, name) }); err != nil {
			return nil, err
		}
	}
	return c.magic.GetCertificateWithContext(ctx, hello)
}

func (c *certs) cached(name string) bool { return len(c.cache.AllMatchingCertificates(name)) > 0 }

// obtain brings the certificate of a host into the cache, from the disk or else from the signer. One
// that can't be read is got again.
func (c *certs) obtain(ctx context.Context, name string) error {
	if c.cached(name) {
		return nil
	}
	if err := c.magic.ObtainCertSync(ctx, name); err != nil { // does nothing if it is on disk
		return err
	}
	_, err := c.magic.CacheManagedCertificate(ctx, name)
	if err == nil || ctx.Err() != nil {
		return err
	}
	c.log.Warn("web certificate on disk is unusable, getting another", "host", name, "err", err)
	if err := c.store.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(c.IssuerKey(), name)); err != nil {
		return err
	}
	if err := c.magic.ObtainCertSync(ctx, name); err != nil {
		return err
	}
	_, err = c.magic.CacheManagedCertificate(ctx, name)
	return err
}

// leave deletes the keys of hosts whose TLS may not end here any more, within some seconds of the policy that
// says so, until ctx ends.
func (c *certs) leave(ctx context.Context) error {
	tick := time.NewTicker(leaveEvery)
	defer tick.Stop()
	var seen *perigee.Desired
	for {
		if now := c.cfg.View().Desired; now != seen {
			seen = now
			c.dropOutside(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *certs) dropOutside(ctx context.Context) {
	sites, err := c.store.List(ctx, certmagic.StorageKeys.CertsPrefix(c.IssuerKey()), false)
	if err != nil {
		return // there are none
	}
	for _, site := range sites {
		host := path.Base(site)
		if c.mine(host) {
			continue
		}
		c.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: host}})
		if err := c.store.Delete(ctx, site); err != nil {
			c.log.Warn("delete a web certificate that a residency excludes from here", "host", host, "err", err)
			continue
		}
		c.log.Info("web certificate deleted: a residency excludes it from here", "host", host)
	}
}

// rests reports whether a host got no certificate a moment ago. Clients try again at once, the
// signer need not.
func (c *certs) rests(name string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.resting[name])
}

func (c *certs) rest(name string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.resting) >= maxResting {
		maps.DeleteFunc(c.resting, func(_ string, until time.Time) bool { return !now.Before(until) })
	}
	if len(c.resting) < maxResting {
		c.resting[name] = now.Add(restTime)
	}
}

// allow is asked by certmagic before it loads, gets or renews a certificate.
func (c *certs) allow(_ context.Context, host string) error {
	if !c.cfg.View().Desired.HasHost(host) {
		return fmt.Errorf("no function answers at %s", host)
	}
	if !c.mine(host) {
		return fmt.Errorf("the residency of %s excludes this node", host)
	}
	return nil
}
