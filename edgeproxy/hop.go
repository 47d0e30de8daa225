package edgeproxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/cache"
	"github.com/perigee-edge/perigee/placement"
)

// hopResponder is what the response writer of a hop can do besides.
type hopResponder interface {
	http.ResponseWriter
	Accept(perigee.Load)                             // says that the guest is about to start; before the first Write
	Refuse(perigee.RefuseCode, perigee.Load, string) // says that it is not, and what there is not enough of; nothing may follow
	SetLoad(perigee.Load)                            // goes with the end of the response
}

// leastTime is the time that must be left for a start to be worth it.
const leastTime = 2 * time.Millisecond

// HopHandler serves requests that other nodes send here. Its response writers must have the methods
// Accept, Refuse and SetLoad of package peerlink's Responder.
func (p *Proxy) HopHandler() http.Handler { return http.HandlerFunc(p.serveHop) }

func (p *Proxy) serveHop(w http.ResponseWriter, r *http.Request) {
	hw, ok := w.(hopResponder)
	if !ok {
		http.Error(w, "hops come over the mesh only", http.StatusInternalServerError)
		return
	}
	if len(r.Header[hopPass]) > 0 {
		p.servePass(hw, r)
		return
	}
	m, err := parseHop(r.Header)
	if err != nil {
		p.log.Warn("malformed hop", "err", err)
		p.refuseHop(hw, perigee.RefusedNotAllowed, perigee.Load{}, "")
		return
	}
	load := p.cfg.Local.Load(m.revision)
	fn, code := p.mayRun(r, &m, load)
	if code != "" {
		p.refuseHop(hw, code, load, "")
		return
	}
	if !p.hops.enter() {
		p.refuseHop(hw, perigee.RefusedDraining, load, "")
		return
	}
	defer p.hops.leave()
	span := p.hopSpan(r.Header, m.function)
	outcome := p.runHop(hw, r, &m, fn)
	p.endHopSpan(span, &m, outcome)
	p.metrics.served.WithLabelValues(outcome).Inc()
	if outcome == hopCutOff || outcome == hopGivenUp {
		panic(http.ErrAbortHandler)
	}
	hw.SetLoad(p.cfg.Local.Load(m.revision))
}

func (p *Proxy) refuseHop(w hopResponder, code perigee.RefuseCode, load perigee.Load, limit string) {
	p.metrics.served.WithLabelValues(string(code)).Inc()
	w.Refuse(code, load, limit)
}

// mayRun checks a hop with what this node believes itself. It returns the function, or why not.
func (p *Proxy) mayRun(r *http.Request, m *hopMeta, load perigee.Load) (*perigee.Function, perigee.RefuseCode) {
	v := p.cfg.View()
	if p.cfg.Peer != nil {
		if from, ok := p.cfg.Peer(r); !ok || from.ID != m.entry || from.Region != m.entryRegion {
			p.log.Warn("hop names another entry than its sender", "peer", from.ID, "entry", m.entry, "region", m.entryRegion)
			return nil, perigee.RefusedNotAllowed
		}
	}
	self, fn := v.Observed.Nodes[p.cfg.Self], v.Desired.Functions[m.function]
	switch {
	case m.entry == p.cfg.Self, len(m.path) != 1, slices.Contains(m.path, p.cfg.Self):
		p.log.Warn("hop goes in a circle, or further than one node", "entry", m.entry, "function", m.function)
		return nil, perigee.RefusedNotAllowed
	case p.draining.Load() || self != nil && self.Draining:
		return nil, perigee.RefusedDraining
	case self == nil, fn == nil: // the rules are not known, so nothing is allowed
		return nil, perigee.RefusedNotHere
	}
	if _, ok := placement.AllowedFrom(fn.Policy(), m.region, self.NodeClaims, v.Desired.Regions); !ok {
		return nil, perigee.RefusedNotAllowed
	}
	mine := p.rollout(v, fn).On(fn, self) // nil = this node runs none of it for now
	loaded := load.Slots > 0 || self.Revisions[m.revision] == perigee.Warm
	switch {
	case !slices.Contains(fn.History, m.revision) && fn.Live.ID != m.revision:
		return nil, perigee.RefusedNotHere
	case !loaded && !m.cold, !loaded && (mine == nil || mine.Live.ID != m.revision):
		return nil, perigee.RefusedNotHere
	case m.timeout > 0 && m.timeout < leastTime:
		return nil, perigee.RefusedDeadline
	}
	return fn, ""
}

// The outcomes of a hop that was accepted; a code of refusal is one too.
const (
	hopServed   = "ok"
	hopFaulted  = "fault"
	hopGivenUp  = "given-up"
	hopInternal = "internal"
	hopCutOff   = "cut-off"
)

// runHop runs a function for a peer and returns the outcome.
func (p *Proxy) runHop(hw hopResponder, r *http.Request, m *hopMeta, fn *perigee.Function) string {
	ctx := r.Context()
	w := &hopAnswer{w: hw, began: time.Now(), load: func() perigee.Load { return p.cfg.Local.Load(m.revision) }, tunnels: &p.tunnels}
	switch {
	case m.upgrade != "":
		ctx, w.lift, w.tunnel.end = untilHead(ctx, cmp.Or(m.timeout, headWait))
		defer w.tunnel.end(nil)
		defer p.tunnels.remove(&w.tunnel)
	case m.timeout > 0:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.timeout)
		defer cancel()
	}
	if m.depth > 0 {
		ctx = perigee.WithCall(ctx, m.depth, m.caller)
	}
	r = r.WithContext(ctx)
	dropInternal(r.Header)
	if m.upgrade != "" {
		r.Header["Upgrade"] = []string{m.upgrade}
	}
	m.dress(r.Header, p.cfg.Region, r.Host)
	if r.RemoteAddr = ""; m.client != "" {
		r.RemoteAddr = net.JoinHostPort(m.client, "0")
	}
	r.RequestURI = r.URL.RequestURI()
	if major, minor, ok := http.ParseHTTPVersion(m.version); ok {
		r.Proto, r.ProtoMajor, r.ProtoMinor = m.version, major, minor
	}
	result, err := p.cfg.Local.Invoke(ctx, fn, m.revision, w, r)
	w.Report(result)
	if err == nil {
		w.WriteHeader(http.StatusOK)
		cleanTrailerKeys(w.Header())
		if w.owed && !w.sized {
			w.Header()[http.TrailerPrefix+hopFuel] = []string{strconv.FormatUint(result.Fuel, 10)}
		}
		if err = w.bad; err == nil {
			return hopServed
		}
	}
	if w.wrote {
		return hopCutOff
	}
	return p.answerFailure(ctx, w, m, err)
}

// answerFailure tells the entry node why there is no response.
func (p *Proxy) answerFailure(ctx context.Context, w *hopAnswer, m *hopMeta, err error) string {
	var (
		hop   *perigee.HopError
		guest *GuestError
	)
	clear(w.Header())
	w.bad = nil
	tell := func(status int, name, value string) {
		w.extra[name] = []string{value}
		w.WriteHeader(status)
	}
	w.extra = http.Header{}
	limit := func(l string) {
		if l != "" {
			w.extra[hopLimit] = []string{l}
		}
	}
	switch {
	case errors.As(err, &hop) && !w.accepted:
		load := w.load()
		w.accepted, w.wrote = true, true
		w.w.Refuse(hop.Code, load, hop.Limit)
		return string(hop.Code)
	case errors.As(err, &hop):
		limit(hop.Limit)
		tell(http.StatusServiceUnavailable, hopRefused, string(hop.Code))
		return string(hop.Code)
	case errors.As(err, &guest):
		w.detail = printable(guest.Detail)
		limit(guest.Limit)
		tell(http.StatusBadGateway, hopFault, string(guest.Kind))
		return hopFaulted
	case errors.Is(err, context.DeadlineExceeded):
		tell(http.StatusGatewayTimeout, hopFault, string(FaultDeadline))
		return hopFaulted
	case errors.Is(err, context.Canceled), ctx.Err() != nil:
		return hopGivenUp
	}
	p.log.Warn("run function for a peer", "function", m.function, "peer", m.entry, "id", m.id, "err", err)
	tell(http.StatusInternalServerError, hopFault, faultInternal)
	return hopInternal
}

// hopAnswer is the response to an entry node as Local sees it. Headers are cleaned at the entry
// node; here only those are added and dropped that are between nodes.
type hopAnswer struct {
	w      hopResponder
	began  time.Time
	load   func() perigee.Load // of this node now
	result Result
	detail string
	extra  http.Header
	bad    error // why the writer's head was refused
	hints  int   // informational responses that were sent
	wrote  bool
	sized  bool
	owed   bool // the fuel in the head is not the last word

	accepted bool // or refused

	lift    func() bool // nil = the client did not ask for another protocol
	changed bool        // the protocol has changed
	tunnel  tunnel
	tunnels *tunnels
}

// Accept implements Accepter.
func (a *hopAnswer) Accept() {
	if !a.accepted {
		a.accepted = true
		a.w.Accept(a.load())
	}
}

// Report implements Reporter.
func (a *hopAnswer) Report(r Result) { a.result = r }

// Header returns the header fields of the response.
func (a *hopAnswer) Header() http.Header { return a.w.Header() }

// WriteHeader writes the head. Of informational responses only Early Hints (RFC 8297) go on.
func (a *hopAnswer) WriteHeader(status int) {
	if status == http.StatusEarlyHints && !a.wrote && a.bad == nil && a.hints < maxHints {
		a.hints++
		a.Accept()
		dropInternal(a.w.Header())
		a.w.WriteHeader(status)
		return
	}
	if status == http.StatusSwitchingProtocols && a.lift != nil && !a.wrote && a.bad == nil {
		a.changeProtocol()
		status = http.StatusOK // as extended CONNECT is answered
	}
	if a.wrote || a.bad != nil || status >= 100 && status < 200 {
		return
	}
	if status < 200 || status > 599 {
		a.bad = errBadStatus
		return
	}
	a.Accept()
	a.wrote = true
	h := a.w.Header()
	lifetime := h[cache.TargetedField]
	dropInternal(h)
	setOrDelete(h, cache.TargetedField, lifetime)
	if a.result.Start != "" {
		h[hopStart] = []string{a.result.Start}
	}
	if a.result.Fuel > 0 || a.result.Partial {
		fuel := strconv.FormatUint(a.result.Fuel, 10)
		if a.owed = a.result.Partial; a.owed {
			fuel += ";" + paramPartial
		}
		h[hopFuel] = []string{fuel}
	}
	h[hopRun] = []string{strconv.FormatInt(time.Since(a.began).Microseconds(), 10)}
	if a.detail != "" {
		h[hopDetail] = []string{a.detail}
	}
	for name, values := range a.extra {
		h[name] = values
	}
	if a.changed {
		h[hopUpgrade] = []string{webSocket}
		delete(h, "Content-Length")
	}
	_, a.sized = h["Content-Length"]
	a.w.WriteHeader(status)
	if a.changed {
		_ = a.flush() // the next Write fails too
		a.tunnels.add(&a.tunnel)
	}
}

// changeProtocol has the bytes that follow the head go both ways.
func (a *hopAnswer) changeProtocol() {
	a.changed = true
	a.lift()
	a.tunnel.send = func(p []byte) (int, error) {
		n, err := a.w.Write(p)
		if err == nil {
			err = a.flush()
		}
		return n, err
	}
}

// Write writes a part of the body. Without a Content-Length it goes on at once.
func (a *hopAnswer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	switch {
	case a.bad != nil:
		return 0, a.bad
	case a.changed:
		return a.tunnel.Write(p)
	}
	n, err := a.w.Write(p)
	if err == nil && !a.sized {
		err = a.flush()
	}
	return n, err
}

// Flush sends what was written so far.
func (a *hopAnswer) Flush() { _ = a.FlushError() } // the next Write has the error

// FlushError sends what was written so far, the head at least.
func (a *hopAnswer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.bad != nil || a.changed { // then each Write flushes
		return a.bad
	}
	return a.flush()
}

func (a *hopAnswer) flush() error {
	switch f := a.w.(type) {
	case interface{ FlushError() error }:
		return f.FlushError()
	case http.Flusher:
		f.Flush()
	}
	return nil
}

// printable makes a text fit for a header field.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e {
			return ' '
		}
		return c
	}, s)
	return s[:min(len(s), maxHopDetail)]
}
