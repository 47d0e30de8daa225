package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee/internal/origin"
)

// LimitError says that a function has too much open, or that a response is too large.
type LimitError struct{ What string }

// Error names the limit.
func (e *LimitError) Error() string { return "outbound limit: " + e.What }

// Limited tells this error from failures of the network.
func (*LimitError) Limited() bool { return true }

// Transport sends the requests of one function, and keeps its connections. It is an http.RoundTripper.
type Transport struct {
	egress   *Egress
	function string
	rules    []origin.Rule
	http     *http.Transport
	running  chan struct{} // holds one token for each request
	conns    chan struct{} // holds one token for each connection
	warned   atomic.Int64  // when a denied request was last logged, in Unix seconds
}

// Transport returns the transport of a function whose manifest lists these origins under outbound. An
// entry that can't be read is an error. Close ends its idle connections.
func (e *Egress) Transport(function string, allowed []string) (*Transport, error) {
	rules, err := parseRules(allowed)
	if err != nil {
		return nil, fmt.Errorf("outbound of %s: %w", function, err)
	}
	return e.transport(function, rules), nil
}

func (e *Egress) transport(function string, rules []origin.Rule) *Transport {
	t := &Transport{
		egress: e, function: function, rules: rules,
		running: make(chan struct{}, e.limits.Requests),
		conns:   make(chan struct{}, e.limits.Conns),
	}
	t.http = &http.Transport{
		Proxy:                  nil, // whatever the environment says
		DialContext:            t.dial,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    e.limits.TLSTime,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    e.limits.Conns,
		MaxConnsPerHost:        e.limits.Conns,
		IdleConnTimeout:        60 * time.Second,
		ResponseHeaderTimeout:  e.limits.HeaderTime,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: e.limits.HeaderBytes,
	}
	return t
}

// Close ends the idle connections. Requests that run are not disturbed, and their connections end when
// they have been idle for a minute.
func (t *Transport) Close() { t.http.CloseIdleConnections() }

// RoundTrip sends a request and returns the head of its response. It follows no redirect. The request ends
// with its context; the caller must close the response's body. Errors are a *DeniedError, a *LimitError,
// or of the network.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) { return t.send(r, nil) }

// send is RoundTrip, with the wish for a WebSocket unless up is nil.
func (t *Transport) send(r *http.Request, up *Upgrade) (*http.Response, error) {
	o, err := t.target(r)
	if err != nil {
		closeBody(r)
		return nil, t.fail(err)
	}
	leave, err := t.enter()
	if err != nil {
		closeBody(r)
		return nil, t.fail(err)
	}
	var resp *http.Response
	var key string
	out := outgoing(r, o)
	if up != nil {
		key = up.ask(out.Header)
	}
	if o.Scheme == origin.Function {
		resp, err = t.callFunction(o.Host, out)
	} else {
		resp, err = t.http.RoundTrip(out)
	}
	if err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
		if up != nil {
			if err = up.accept(resp, key, leave, t.egress.metrics); err == nil {
				leave = func() {} // the connection's to call
			}
		} else {
			resp.Body.Close()
			err = errors.New("the origin changed the protocol, which was not asked for")
		}
	}
	if err != nil {
		leave()
		return nil, t.fail(err)
	}
	t.egress.metrics.requests.WithLabelValues("ok").Inc()
	resp.Request = r
	resp.Body = &body{ReadCloser: resp.Body, left: t.egress.limits.Response, metrics: t.egress.metrics, leave: leave}
	return resp, nil
}

// target returns where a request goes, if the function may go there.
func (t *Transport) target(r *http.Request) (origin.Origin, error) {
	if r.URL == nil {
		return origin.Origin{}, errors.New("outbound: the request has no URL")
	}
	if r.Method == http.MethodConnect {
		return origin.Origin{}, t.deny("CONNECT", "method", "tunnels are not for functions")
	}
	o, err := origin.Of(r.URL)
	if err != nil {
		return o, t.deny(shorten(r.URL.Host), "url", err.Error())
	}
	for _, rule := range t.rules {
		if rule.Allows(o) {
			return o, nil
		}
	}
	return o, t.deny(o.String(), "not-listed", fmt.Sprintf("list %q under outbound in perigee.toml", o))
}

func (t *Transport) deny(target, rule, hint string) error {
	return &DeniedError{Target: target, Rule: rule, hint: hint}
}

// fail counts a request that got no response, and logs one that was denied, once in ten seconds.
func (t *Transport) fail(err error) error {
	t.egress.metrics.requests.WithLabelValues(outcome(err)).Inc()
	var denied *DeniedError
	if !errors.As(err, &denied) {
		return err
	}
	now, last := time.Now().Unix(), t.warned.Load()
	if now-last >= 10 && t.warned.CompareAndSwap(last, now) {
		t.egress.log.Warn("outbound request denied", "function", t.function, "rule", denied.Rule, "target", denied.Target)
	}
	return denied // without what the dialer wraps around it
}

// enter takes a place for a request. leave, which may be called more than once, gives it back.
func (t *Transport) enter() (leave func(), err error) {
	for i, places := range []chan struct{}{t.running, t.egress.running} {
		select {
		case places <- struct{}{}:
			continue
		default:
		}
		if i == 0 {
			return nil, &LimitError{fmt.Sprintf("the function has %d requests open on this node", cap(places))}
		}
		<-t.running
		return nil, &LimitError{"the node's functions have all its outbound requests open"}
	}
	t.egress.metrics.inFlight.Inc()
	return sync.OnceFunc(func() {
		<-t.running
		<-t.egress.running
		t.egress.metrics.inFlight.Dec()
	}), nil
}

// outgoing returns the request as it leaves: to the very host that was compared, with its name, and
// without fields of a connection or of the gateway.
func outgoing(r *http.Request, o origin.Origin) *http.Request {
	out := r.WithContext(r.Context()) // a shallow copy
	u := *r.URL
	u.Host, u.Fragment = o.Authority(), ""
	out.URL, out.Host, out.Close, out.RequestURI = &u, "", false, ""
	out.Header = endToEnd(r.Header)
	return out
}

// hopByHop reports whether a field is about one connection (RFC 9110, section 7.6.1, and what practice
// adds).
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Transfer-Encoding", "Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// internalPrefix starts the names of fields that only the gateway sets.
const internalPrefix = "Perigee-"

// endToEnd returns the fields that go on. The values are shared.
func endToEnd(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		if !hopByHop(name) && !strings.HasPrefix(http.CanonicalHeaderKey(name), internalPrefix) {
			out[name] = values
		}
	}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			delete(out, http.CanonicalHeaderKey(strings.TrimSpace(name)))
		}
	}
	return out
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

func shorten(s string) string { return s[:min(len(s), 80)] }

// body is the body of a response: bounded, counted, and the end of its request.
type body struct {
	io.ReadCloser
	left    int64
	metrics *Metrics
	leave   func()
}

// Read reads the next part.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.metrics.received.Add(float64(n))
	if b.left -= int64(n); b.left < 0 {
		n, err = 0, &LimitError{"the response body is too large"}
	}
	if err != nil {
		b.leave()
	}
	return n, err
}

// Close ends the request.
func (b *body) Close() error {
	b.leave()
	return b.ReadCloser.Close()
}

// timedOut reports whether an error is one of time.
func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
