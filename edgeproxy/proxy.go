package edgeproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Proxy is the front of one node, and the worker's half of its hops. It is safe for concurrent use.
type Proxy struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics
	peers   *peers
	routes  *routes
	buffers *buffers

	rates     *rates
	encoders  *encoders // nil = bodies go as they are
	cached    *cached   // nil = no response is stored
	census    *census
	listeners []listener
	h3        *h3        // nil = no HTTP/3
	altSvc    string     // tells clients of it; "" = no HTTP/3
	certs     *certs     // nil = no HTTPS
	access    *accessLog // nil = none

	sorter *sorter         // nil = no HTTPS
	passed *passedListener // likewise
	life   context.Context // of Run; what is passed on ends with it
	end    context.CancelFunc

	front    gate // requests of clients
	hops     gate // requests of peers
	passing  gate // connections of clients that are passed on
	fetches  gate // requests of the cache
	tunnels  tunnels
	draining atomic.Bool
}

// listener is one socket with the server that will answer on it.
type listener struct {
	net.Listener
	server *http.Server
	tls    bool
}

// New opens the listeners and makes a Proxy. Nothing is served by them until Run; ServeHTTP and the
// hop handler work at once. Whoever does not call Run calls Close.
func New(cfg Config) (*Proxy, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: cfg.Logger, metrics: cfg.Metrics, peers: newPeers(), routes: newRoutes(), rates: newRates(), buffers: newBuffers()}
	if !cfg.DisableCompression {
		p.encoders = newEncoders()
	}
	if cfg.CacheSize > 0 {
		p.cached = newCached(cfg.CacheSize)
	}
	p.life, p.end = context.WithCancel(context.Background())
	if cfg.HTTPS != "" || cfg.OnHTTPS != nil {
		p.certs = newCerts(&p.cfg, func(host string) bool {
			_, ok := p.terminates(p.cfg.View(), host)
			return ok
		})
	}
	p.census = newCensus(cfg.MaxConns, cfg.MaxConnsPerIP)
	if cfg.AccessLog != nil {
		p.access = newAccessLog(cfg.AccessLog, p.metrics.droppedLines.Inc)
	}
	if cfg.OnHTTP3 != nil {
		p.h3 = newH3(p, cfg.OnHTTP3)
		if _, port, err := net.SplitHostPort(cfg.OnHTTP3.LocalAddr().String()); err == nil {
			p.altSvc = fmt.Sprintf(`h3=":%s"; ma=%d`, port, int(altSvcAge.Seconds()))
		}
	}
	for _, l := range []struct {
		addr string
		on   net.Listener
		tls  bool
	}{{cfg.HTTPS, cfg.OnHTTPS, true}, {cfg.HTTP, cfg.OnHTTP, false}} {
		on := l.on
		if on == nil && l.addr != "" {
			var err error
			if on, err = net.Listen("tcp", l.addr); err != nil {
				p.closeListeners()
				return nil, fmt.Errorf("listen on %s: %w", l.addr, err)
			}
		}
		if on != nil {
			on = &frontListener{Listener: on, census: p.census, refused: p.metrics.refusedConns.Inc, measure: cfg.Measured, proxies: cfg.ProxyProtocol}
			if l.tls {
				p.sorter, p.passed = newSorter(on, p), newPassedListener(on.Addr())
				on = p.sorter
			}
			p.listeners = append(p.listeners, listener{on, p.newServer(l.tls), l.tls})
		}
	}
	return p, nil
}

// Addrs returns where clients are served; nil = not.
func (p *Proxy) Addrs() (https, http net.Addr) {
	for _, l := range p.listeners {
		if l.tls {
			https = l.Addr()
		} else {
			http = l.Addr()
		}
	}
	return https, http
}

// Close closes the listeners of a Proxy that is not run.
func (p *Proxy) Close() error {
	p.closeListeners()
	return nil
}

func (p *Proxy) closeListeners() {
	for _, l := range p.listeners {
		_ = l.Close() // closed twice at worst
	}
	if p.cfg.OnHTTP3 != nil {
		_ = p.cfg.OnHTTP3.Close()
	}
}

// endTime is how long Run waits, at its end, for handlers whose requests were canceled.
const endTime = 5 * time.Second

// Run serves the listeners until ctx ends, and cuts off what is under way then: Drain comes before.
// It is called once. An error means that a listener failed, or that a handler did not end.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, failed := errgroup.WithContext(ctx)
	if p.certs != nil {
		p.certs.start(ctx)
		group.Go(func() error { return p.certs.tidy(failed) })
		group.Go(func() error { return p.certs.leave(failed) })
	}
	defer context.AfterFunc(ctx, p.end)()
	for _, l := range p.listeners {
		l.server.BaseContext = func(net.Listener) context.Context { return ctx }
		group.Go(func() error { return p.listen(l) })
		if l.tls {
			group.Go(func() error { return p.listen(listener{p.passed, l.server, true}) })
		}
	}
	if p.access != nil {
		writing, written := context.WithCancel(context.Background())
		var last sync.WaitGroup
		last.Go(func() { _ = p.access.run(writing) })
		defer func() { written(); last.Wait() }() // after the last request
	}
	if p.h3 != nil {
		group.Go(func() error { return p.h3.run(failed) })
	}
	group.Go(func() error {
		<-failed.Done()
		for _, l := range p.listeners {
			_ = l.server.Close() // reports what Serve reports
		}
		for _, l := range p.listeners {
			_ = l.Close() // closed twice at worst
		}
		return nil
	})
	err := group.Wait()
	cancel()
	if p.sorter != nil {
		p.end()
		p.sorter.wg.Wait()
	}
	if p.certs != nil {
		p.certs.stop()
	}
	return errors.Join(err, p.awaitHandlers())
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (p *Proxy) awaitHandlers() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), endTime, errors.New("requests did not end after they were canceled"))
	defer cancel()
	p.front.close()
	p.hops.close()
	p.fetches.close()
	return errors.Join(p.front.wait(ctx), p.hops.wait(ctx), p.fetches.wait(ctx))
}

// Drain ends service without cutting anything off: hops are refused, listeners close (those of a
// successor on the same sockets go on), connections are told to go, and it waits for what is under way
// until ctx ends. An error means that something was, at that time. Run goes on until its own context ends.
func (p *Proxy) Drain(ctx context.Context) error {
	p.draining.Store(true)
	p.tunnels.goAway()
	p.hops.close()
	var group errgroup.Group
	if p.h3 != nil {
		group.Go(func() error { return p.h3.drain(ctx) })
	}
	for _, l := range p.listeners {
		_ = l.Close() // closed twice at worst
	}
	// A server that shuts down closes the connections of HTTP/1 on which nothing is asked just then, while
	// their clients may be asking. Those that are in use hear it with an answer first.
	if !p.census.empty() {
		pause(ctx, drainLinger)
	}
	for _, l := range p.listeners {
		group.Go(func() error { return l.server.Shutdown(ctx) })
	}
	err := group.Wait()
	p.front.close() // only now: connections that are ending may bring a last request
	p.passing.close()
	if err == nil {
		err = errors.Join(p.front.wait(ctx), p.hops.wait(ctx), p.passing.wait(ctx))
	}
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}
