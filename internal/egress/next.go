package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/internal/origin"
)

// via is this proxy's entry in a Via field (RFC 9110, section 7.6.3).
const via = "1.1 perigee"

// Next is the handler that a function stands before. Close ends its idle connections.
type Next struct {
	http.Handler
	transport *Transport // nil for a function
}

// Close ends the idle connections.
func (n *Next) Close() {
	if n.transport != nil {
		n.transport.Close()
	}
}

// Next returns the handler for an origin or a "fn:<name>" that a manifest has as next.
func (e *Egress) Next(function, next string) (*Next, error) {
	rule, err := origin.ParseRule(next)
	switch {
	case err != nil:
		return nil, fmt.Errorf("next of %s: %w", function, err)
	case rule.Below:
		return nil, fmt.Errorf("next of %s: %q stands for many hosts", function, next)
	case rule.Scheme == origin.Function:
		return &Next{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if upgradeOf(r) != nil { // without its fields it would be a request that nobody made
				http.Error(w, fmt.Sprintf("No WebSocket passes %s: its next is %q, and they pass only to an origin. Give it the origin as next, or give %s a route of its own.", function, next, rule.Host), http.StatusNotImplemented)
				return
			}
			out := r.WithContext(r.Context())
			out.Header = endToEnd(r.Header)
			fw := &functionWriter{ResponseWriter: w}
			e.serveFunction(function, rule.Host, fw, out)
			fw.end()
		})}, nil
	}
	t := e.transport(function, []origin.Rule{rule})
	return &Next{Handler: e.reverseProxy(t, rule.Origin), transport: t}, nil
}

// reverseProxy passes requests on to an origin, and its responses back, as they come. Connections become
// WebSockets if whoever sends the request takes them (WithUpgrade), and are not upgraded otherwise.
func (e *Egress) reverseProxy(t *Transport, o origin.Origin) http.Handler {
	p := &httputil.ReverseProxy{
		Transport: upgrading{t},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = o.Scheme, o.Authority(), ""
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it was written, also where Go would read it otherwise
			r.Out.Header.Del("Upgrade")
			r.Out.Header.Del("Connection")
			for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} { // the gateway's, which ReverseProxy removes
				if values := r.In.Header[name]; len(values) > 0 {
					r.Out.Header[name] = values
				}
			}
			r.Out.Header.Add("Via", via)
			if n, ok := maxForwards(r.In); ok {
				r.Out.Header.Set("Max-Forwards", strconv.FormatUint(n-1, 10))
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Add("Via", via)
			for name := range resp.Header {
				if strings.HasPrefix(name, internalPrefix) {
					delete(resp.Header, name) // the gateway's to say
				}
			}
			resp.Trailer = nil // not announced: they follow with http.TrailerPrefix, which every writer knows
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { originFailed(w, r, o, err) },
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // errors reach the client and the metrics
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Count(strings.Join(r.Header["Via"], ","), via) >= perigee.MaxDepth {
			http.Error(w, fmt.Sprintf("The origin %s was not asked: this request has come past it %d times already, which is taken for a loop.", o, perigee.MaxDepth), http.StatusLoopDetected)
			return
		}
		if !forwards(r) {
			w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
			http.Error(w, fmt.Sprintf("The origin %s was not asked: Max-Forwards says that this gateway is to answer.", o), http.StatusMethodNotAllowed)
			return
		}
		ctx := r.Context()
		if up := upgradeOf(r); up != nil {
			w = &upgradeWriter{w, up}
		} else {
			ctx = context.WithValue(ctx, upgradeKey{}, (*Upgrade)(nil))
		}
		// With a server in the context ReverseProxy panics when a body breaks off, as it should:
		// a response that is not whole must not look so.
		p.ServeHTTP(w, r.WithContext(context.WithValue(ctx, http.ServerContextKey, &http.Server{})))
	})
}

// maxForwards returns how many proxies may pass a request on, if it says so: TRACE and OPTIONS do, and for
// other methods the field means nothing (RFC 9110, section 7.6.2).
func maxForwards(r *http.Request) (n uint64, ok bool) {
	if r.Method != http.MethodTrace && r.Method != http.MethodOptions {
		return 0, false
	}
	n, err := strconv.ParseUint(r.Header.Get("Max-Forwards"), 10, 32)
	return n, err == nil
}

// forwards reports whether a request may be passed on.
func forwards(r *http.Request) bool {
	n, ok := maxForwards(r)
	return !ok || n > 0
}

// originFailed answers for an origin that did not. What it says goes to clients, so it has the rule and
// no address.
func originFailed(w http.ResponseWriter, r *http.Request, o origin.Origin, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		panic(http.ErrAbortHandler) // nobody waits
	}
	status, why := http.StatusBadGateway, "no usable response came"
	var denied *DeniedError
	var limit *LimitError
	switch {
	case errors.As(err, &denied):
		why = fmt.Sprintf("the rule %q of this node forbids its address", denied.Rule)
	case errors.As(err, &limit):
		status, why = http.StatusServiceUnavailable, "too many requests to it are open"
		w.Header().Set("Retry-After", "1")
	case timedOut(err):
		status, why = http.StatusGatewayTimeout, "it did not answer in time"
	}
	http.Error(w, fmt.Sprintf("The origin %s did not answer this request: %s.", o, why), status)
}
