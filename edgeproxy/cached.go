package edgeproxy

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/cache"
	"github.com/perigee-edge/perigee/placement"
)

// cached is what a gateway has stored of functions' responses, and what it is fetching for that.
type cached struct {
	store *cache.Cache

	recording atomic.Int64 // bytes of responses on their way into the store
	most      int64        // of those

	mu      sync.Mutex // guards the rest
	fetches map[fetchKey]*fetch

	follows atomic.Pointer[perigee.Desired] // what was obeyed last; nil = nothing yet
	obeying sync.Mutex                      // held while it changes; guards obeyed
	obeyed  map[perigee.Digest]bool         // purges
}

func newCached(size int64) *cached {
	return &cached{store: cache.New(size), most: size / 4, fetches: map[fetchKey]*fetch{}}
}

// The results of asking the cache, in the metrics and the access log.
const (
	cacheHit       = "hit"
	cacheStale     = "stale"     // used although it was stale
	cacheChecked   = "checked"   // used after the function said that it still holds
	cacheCollapsed = "collapsed" // fetched for another client at the same time
	cacheMiss      = "miss"
	cacheBypass    = "bypass"
	cacheRefused   = "refused" // the client wanted a stored response or none
)

// patience is how long a request waits for the response to another one like it.
const patience = 5 * time.Second

// question is what the cache is asked: a request as it would reach the function.
type question struct {
	key     cache.Key
	header  http.Header
	asks    cache.Control
	rules   cache.Rules
	facts   facts
	whole   bool // all fields of the client's reach the function
	allowed bool // the function may run here for this client
}

// conditional are the fields of a request for a part of a response, or for one that the client may have.
var conditional = [...]string{"If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range"}

func isConditional(h http.Header) bool {
	for _, name := range conditional {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// throughCache answers with what is stored, or has the function asked. It returns what forward does.
func (v *visit) throughCache(ctx context.Context) error {
	v.proxy.ObeyPurges()
	q := v.question()
	if why := v.bypass(q); why != "" {
		return v.around(ctx, cacheBypass, cache.Status{Forward: "bypass", Detail: why})
	}
	if r := v.in; r.Method != http.MethodGet && r.Method != http.MethodHead || v.body != nil || v.up != nil {
		err := v.around(ctx, cacheBypass, cache.Status{Forward: "method"})
		if err == nil && !isSafe(r.Method) && v.answer.status < 400 {
			v.changed(q)
		}
		return err
	}
	c, now := v.proxy.cached, time.Now()
	plan := c.store.Plan(q.key, q.header, q.asks, now)
	switch plan.Use {
	case cache.Serve:
		return v.serveStored(plan.Entry, cacheHit, cache.Status{Hit: true})
	case cache.Renew:
		v.fetch(q, &plan, true)
		return v.serveStored(plan.Entry, cacheStale, cache.Status{Hit: true})
	case cache.Refuse:
		v.cached = cacheRefused
		return errOnlyIfCached
	}
	if v.in.Method == http.MethodHead || len(v.in.Header["Range"]) > 0 {
		return v.around(ctx, cacheMiss, cache.Status{Forward: plan.Why})
	}
	f, leads := v.fetch(q, &plan, false)
	if !leads {
		if e, err := v.follow(ctx, f, q); e != nil || err != nil {
			if err != nil {
				return err
			}
			v.takeRan(f.ran)
			return v.serveStored(e, cacheCollapsed, cache.Status{Forward: plan.Why, Collapsed: true})
		}
		plan.Alone = true
		f, _ = v.fetch(q, &plan, false)
	}
	return v.lead(ctx, f, &plan)
}

// errOnlyIfCached is the answer to "Cache-Control: only-if-cached" for what is not.
var errOnlyIfCached = errors.New("the client wants a stored response, and there is none")

func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// question brings the request into the form that its function may see. What it does not see can't change a
// response that others get.
func (v *visit) question() *question {
	m := &v.fn.Live.Manifest.Cache
	q := &question{
		key: cache.Key{
			Function: v.fn.Name, Revision: v.fn.Live.ID, Scheme: v.facts.proto, Host: v.host, Port: portOf(v.in.Host), Target: v.out.URL.RequestURI(),
		},
		asks:  cache.ParseControl(v.in.Header["Cache-Control"]),
		rules: cache.Rules{Cookies: m.Cookies, Heuristics: m.Heuristics},
		facts: v.facts, whole: slices.Contains(m.Headers, "*"),
	}
	if q.rules.Cookies == "" {
		q.rules.Cookies = perigee.CookiesBypass
	}
	q.facts.version = "HTTP/1.1"
	keyed := func(name string) bool { return q.whole || slices.Contains(q.rules.Keyed, name) }
	if q.whole {
		q.header = maps.Clone(v.out.Header)
		for _, name := range conditional {
			delete(q.header, name)
		}
	} else {
		q.header = http.Header{}
		for _, name := range m.Headers {
			name = http.CanonicalHeaderKey(name)
			q.rules.Keyed = append(q.rules.Keyed, name)
			if lines := v.out.Header[name]; len(lines) > 0 {
				q.header[name] = lines
			}
		}
		if !keyed(headerFor) {
			q.facts.client = ""
		}
		if !keyed(headerClientCountry) {
			q.facts.country = ""
		}
	}
	switch {
	case len(v.fn.Policy().Callers) > 0:
		if !slices.Contains(q.rules.Keyed, headerClientRegion) {
			q.rules.Keyed = append(q.rules.Keyed, headerClientRegion)
		}
	case !keyed(headerClientRegion):
		q.facts.region = v.proxy.cfg.Region
	}
	if q.rules.Cookies == perigee.CookiesStrip {
		delete(q.header, "Cookie")
	}
	q.facts.dress(q.header, "", q.host())
	_, q.allowed = placement.AllowedFrom(v.fn.Policy(), v.facts.region, v.proxy.claims(v.view), v.view.Desired.Regions)
	return q
}

// host is the host as the function is asked.
func (q *question) host() string {
	if q.key.Port != "" {
		return q.key.Host + ":" + q.key.Port
	}
	return q.key.Host
}

// bypass returns why the cache has nothing to do with a request; "" = it has.
func (v *visit) bypass(q *question) string {
	in := v.in.Header
	switch {
	case !q.allowed: // where the function may not run, nothing of it is stored
		return "placement"
	case v.steer.Mode == placement.SteerForce:
		return "steer"
	case len(in["Authorization"]) > 0 && len(q.header["Authorization"]) == 0:
		return "authorization"
	case len(in["Cookie"]) > 0 && q.rules.Cookies == perigee.CookiesBypass && !slices.Contains(q.rules.Keyed, "Cookie"):
		return "cookie"
	case q.asks.NoStore:
		return "no-store"
	}
	return ""
}

// around has the function answer the client itself.
func (v *visit) around(ctx context.Context, result string, s cache.Status) error {
	v.tellCache(result, s)
	return v.forward(ctx)
}

// tellCache notes what the cache did, for the head of the response and the log.
func (v *visit) tellCache(result string, s cache.Status) {
	v.cached = result
	v.answer.seen = func(_ int, h http.Header) {
		h[cache.FieldStatus] = append(slices.Clip(h[cache.FieldStatus]), s.String())
		delete(h, cache.FieldTags)
	}
}

// changed drops what is stored of a resource after a request that may have changed it, and what its response
// names on the same host.
func (v *visit) changed(q *question) {
	c, now := v.proxy.cached, time.Now()
	c.store.Changed(q.key, now)
	for _, name := range [...]string{"Location", "Content-Location"} {
		said := v.answer.Header().Get(name)
		if said == "" {
			continue
		}
		if u, err := v.out.URL.Parse(said); err == nil && (u.Host == "" || canonicalHost(u.Host) == q.key.Host && portOf(u.Host) == q.key.Port && u.Scheme == q.key.Scheme) {
			k := q.key
			k.Target = u.RequestURI()
			c.store.Changed(k, now)
		}
	}
}

// serveStored answers with an entry.
func (v *visit) serveStored(e *cache.Entry, result string, s cache.Status) error {
	now := time.Now()
	s.TTL, s.HasTTL = e.Left(now), true
	v.tellCache(result, s)
	if s.Hit {
		cfg := &v.proxy.cfg
		v.where = ranCache
		v.receipt.Region, v.receipt.Node, v.receipt.Revision, v.receipt.Reason = cfg.Region, cfg.Self, v.fn.Live.ID, ReasonCached
	}
	h := v.answer.Header()
	e.WriteHead(h, now)
	if e.Status == http.StatusOK && isConditional(v.in.Header) {
		if _, ok := h["Content-Type"]; !ok {
			h["Content-Type"] = nil // it is not to be guessed
		}
		modified, _ := http.ParseTime(h.Get("Last-Modified")) // none is the zero time
		http.ServeContent(&v.answer, v.in, "", modified, bytes.NewReader(e.Body))
		return nil
	}
	h["Content-Length"] = []string{strconv.Itoa(len(e.Body))}
	v.answer.WriteHeader(e.Status)
	if _, err := v.answer.Write(e.Body); err != nil && v.answer.bad == nil {
		return errClientGone
	}
	return nil
}

// portOf returns the port of a Host field; "" = none.
func portOf(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 && allDigits(host[i+1:]) {
		return host[i+1:]
	}
	return ""
}
