package edgeproxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
	"github.com/perigee-edge/perigee/edgeproxy/acme"
	"github.com/perigee-edge/perigee/placement"
)

// visit is one request of a client from its head to the end of its response.
type visit struct {
	proxy   *Proxy
	session *session // nil = not known
	began   time.Time
	in      *http.Request // as it came; not changed
	out     *http.Request // as it goes on; nil until it is known where to
	outRoom http.Request  // what out points to
	facts   facts
	trace   trace
	host    string // canonical
	outer   string // the residency that keeps what clients say from this node; "" = none does

	view    *perigee.View
	fn      *perigee.Function  // nil = not known
	rollout *placement.Rollout // of fn; nil = its live revision runs everywhere
	route   *route             // of fn; set by forward
	steer   placement.Steer
	body    *body    // nil = none
	up      *upgrade // nil = the client does not ask for another protocol
	unread  bool     // the server would not read what the handler leaves of it: see leaveBody

	answer  answer
	stall   stall
	receipt Receipt
	timing  timing
	early   *early // of the try of another node
	cached  string // what the cache did; "" = it was not asked
	level   string // of the receipt
	where   int
	tries   int
	choices [maxTries]placement.Candidate // room for what forward tries
	busy    *perigee.HopError             // the last refusal of a node that was overloaded
	owed    bool                          // the receipt in the head is not the last word
	err     error                         // why there was no response of a guest; nil if there was
}

// ServeHTTP answers a client. It panics with http.ErrAbortHandler to cut off a response that can't
// be finished, as net/http's servers expect.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	growStack(false) // before a function that needs much
	p.serveClient(w, r)
}

func (p *Proxy) serveClient(w http.ResponseWriter, r *http.Request) {
	r, up := upgradeOf(w, r)
	v := &visit{proxy: p, session: sessionOf(r.Context()), began: time.Now(), in: r, up: up, level: p.cfg.Receipt, view: p.cfg.View()}
	v.facts = facts{id: newID(), entryRegion: p.cfg.Region, version: r.Proto}
	client, proto := p.clientOf(r, v.session)
	v.facts.client, v.facts.proto = client.text, proto
	near := p.cfg.Region
	by, passed := v.session.passedFrom()
	if passed {
		near = by.Region
	}
	v.facts.country, v.facts.region = p.placeOf(client.ip, near, v.view.Desired.Regions)
	v.receipt = Receipt{Via: by.Region, Entry: p.cfg.Region, Reason: ReasonRefused, ID: v.facts.id}
	v.stall.init(w, r.ProtoMajor, p.cfg.StallTimeout, v.session)
	v.answer = answer{w: w, head: r.Method == http.MethodHead, of: v, stall: &v.stall, encoders: p.encoders, asked: r.Header, metrics: p.metrics}
	if r.TLS != nil && r.ProtoMajor < 3 && p.altSvc != "" && !passed && !p.draining.Load() && v.session.first() {
		v.answer.altSvc = p.altSvc
	}
	v.answer.last = r.ProtoMajor == 1 && (p.draining.Load() || p.mayHide(r, v.session))
	if _, has := r.Header[headerTrace]; has || p.access != nil || p.cfg.Spans != nil { // else nobody would see it
		v.trace = traceOf(r.Header)
		v.sample()
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		v.body = newBody(r, &v.stall, p.cfg.MinBodyRate)
		v.body.toll = v.session.tollOf(r)
		if d, ok := w.(interface{ EnableFullDuplex() error }); ok {
			v.unread = r.ProtoMajor == 1
			_ = d.EnableFullDuplex() // HTTP/1 only; elsewhere it is so anyway
		}
	}
	if up != nil {
		up.limit, up.toll = p.cfg.IdleTimeout, v.session.tollOf(r)
		v.answer.up, v.answer.tunnels = up, &p.tunnels
	}
	p.metrics.inFlight.Inc()
	defer v.end()
	v.answerClient(w, client.ip)
	v.leaveBody(w)
}

// answerClient answers, or refuses to.
func (v *visit) answerClient(w http.ResponseWriter, client netip.Addr) {
	p, r := v.proxy, v.in
	v.host = canonicalHost(r.Host)
	v.outer, _ = p.terminates(v.view, v.host)
	if !p.front.enter() {
		v.refuse(&problem{
			status: http.StatusServiceUnavailable, after: time.Second, cause: "draining",
			what: "This node is shutting down.", hint: "Try again: other nodes answer.",
		})
		return
	}
	defer p.front.leave()
	if r.Method == http.MethodOptions && r.URL.Path == "*" {
		v.receipt.Reason = ""
		v.answer.Header().Set("Allow", methods)
		v.answer.WriteHeader(http.StatusNoContent)
		return
	}
	if v.answerChallenge() {
		return
	}
	if pr := v.receive(); pr != nil {
		if pr.malformed() {
			defer v.session.wasted(goneMalformed)
		}
		v.refuse(pr)
		return
	}
	if !v.sendOn(client) {
		v.serve(w)
	}
}

// methods are those that functions are asked with.
const methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"

// receive checks the request and finds its function.
func (v *visit) receive() *problem {
	r := v.in
	if r.TLS != nil && canonicalHost(r.TLS.ServerName) != v.host {
		return &problem{
			status: http.StatusMisdirectedRequest, cause: "misdirected",
			what: fmt.Sprintf("The request is for the host %q, but the connection was opened for %q.", shorten(v.host), r.TLS.ServerName),
			hint: "Open a connection of its own for each host.",
		}
	}
	if v.outer != "" {
		return v.proxy.outside(r, v.host, v.outer)
	}
	if r.Method == http.MethodConnect && len(r.Header[headerProtocol]) > 0 || r.ProtoMajor == 3 && r.Proto != "HTTP/3.0" {
		return &problem{
			status: http.StatusNotImplemented, cause: "protocol",
			what: "The protocol that CONNECT asks for is not served here.", hint: "WebSocket is.",
		}
	}
	if r.Method == http.MethodConnect {
		return &problem{
			status: http.StatusMethodNotAllowed, cause: "method", allow: methods,
			what: "The method CONNECT is not served here.", hint: "Use another method.",
		}
	}
	if tooManyFields(r.Header) {
		return &problem{
			status: http.StatusRequestHeaderFieldsTooLarge, cause: "header",
			what: fmt.Sprintf("The request has more than %d header fields.", maxFields), hint: "Send fewer.",
		}
	}
	path := r.URL.Path
	if path == "" {
		path = "/"
	}
	if path[0] != '/' {
		return &problem{status: http.StatusBadRequest, cause: "path", what: "The path of the request does not start with a slash."}
	}
	v.fn = v.view.Desired.Lookup(v.host, path)
	if v.fn == nil {
		if err := checkHost(v.host); err != nil {
			return &problem{status: http.StatusBadRequest, cause: "host", what: "The Host header is no host name: " + err.Error() + "."}
		}
		return &problem{
			status: http.StatusNotFound, cause: "unknown",
			what: fmt.Sprintf("No function answers at %q.", shorten(v.host+path)),
			hint: "Check the address. If you just deployed it, check the [[route]] of its manifest: `perigee ls` shows the routes.",
		}
	}
	v.take(v.view, v.fn)
	if level := v.fn.Live.Manifest.Receipt; validLevel(level) {
		v.level = level
	}
	return v.limitRate()
}

// take has the request served by a function as it is in a view.
func (v *visit) take(view *perigee.View, fn *perigee.Function) {
	v.view, v.fn, v.rollout = view, fn, v.proxy.rollout(view, fn)
	if serving := v.rollout.Function(fn); serving != fn {
		v.fn, v.rollout = serving, nil
	}
}

// outside refuses a request that came without TLS, or with that of another time, for a host whose plaintext
// this node may not see.
func (p *Proxy) outside(r *http.Request, host, rule string) *problem {
	pr := &problem{
		status: http.StatusMisdirectedRequest, cause: "residency", rule: rule,
		what: fmt.Sprintf("This node, in %s, may not see requests for %q.", p.cfg.Region, shorten(host)),
		hint: "Use https: such connections are passed on, still encrypted.",
	}
	if r.TLS == nil {
		pr.status, pr.location = http.StatusPermanentRedirect, "https://"+host+r.URL.RequestURI()
	}
	return pr
}

// challengePath is where a public CA asks for a file (http-01).
const challengePath = "/.well-known/acme-challenge/"

// answerChallenge answers a public CA that validates by a file, if an order for the host is under way in
// the cluster; else a function may answer.
func (v *visit) answerChallenge() bool {
	c, host := v.proxy.certs, canonicalHost(v.in.Host)
	token, ok := strings.CutPrefix(v.in.URL.Path, challengePath)
	if !ok || c == nil || v.in.Method != http.MethodGet || !v.view.Desired.HasHost(host) {
		return false
	}
	for _, ch := range c.challenges(v.in.Context(), host) {
		if ch.Type == acme.TypeHTTP && ch.Token == token {
			v.host, v.receipt.Reason = host, ""
			v.answer.Header().Set("Content-Type", "application/octet-stream")
			v.answer.Header().Set("Content-Length", strconv.Itoa(len(ch.KeyProof)))
			_, _ = v.answer.Write([]byte(ch.KeyProof)) // a CA that is gone is told nothing
			return true
		}
	}
	return false
}

// rollout returns how far a function is whose live revision does not run everywhere yet.
func (p *Proxy) rollout(v *perigee.View, fn *perigee.Function) *placement.Rollout {
	if p.cfg.Rollout == nil {
		return nil
	}
	return p.cfg.Rollout(v, fn)
}

// serve finds out where the request is to run, and has it run there.
func (v *visit) serve(w http.ResponseWriter) {
	r := v.in
	ctx, cancel := r.Context(), context.CancelFunc(func() {})
	limit := time.Duration(v.fn.Live.Manifest.Limits.Timeout)
	switch {
	case v.up != nil:
		var end context.CancelCauseFunc
		v.up.until = v.began.Add(cmp.Or(limit, headWait))
		ctx, v.up.lift, end = untilHead(ctx, time.Until(v.up.until))
		v.up.tunnel.end, cancel = end, func() { end(nil) }
	case limit > 0:
		ctx, cancel = context.WithDeadline(ctx, v.began.Add(limit))
	}
	defer cancel()

	asked, query := takeWish(r.Header, r.URL.RawQuery)
	var pr *problem
	if v.steer, pr = steering(asked, v.fn, v.proxy.cfg.Steer); pr != nil {
		v.refuse(pr)
		return
	}
	if v.outRoom = *r; ctx != r.Context() {
		v.outRoom = *r.WithContext(ctx)
	}
	v.out = &v.outRoom
	v.out.Header = fromClient(r.Header)
	if v.trace != (trace{}) {
		v.trace.put(v.out.Header)
	}
	if v.out.URL = cleanURL(r.URL, query); v.out.URL != r.URL {
		v.out.RequestURI = v.out.URL.RequestURI()
	}
	if v.up != nil {
		v.up.dress(v.out)
	}
	if v.body != nil && strings.EqualFold(r.Header.Get("Expect"), expectContinue) {
		v.out.Header["Expect"] = []string{expectContinue}
		if r.ProtoMajor == 3 { // net/http says it at the first read; quic-go leaves it to handlers
			e := &expecting{ResponseWriter: w, header: http.Header{}}
			v.answer.w, v.body.first = e, e.goOn
		}
	}
	if v.proxy.cached != nil && v.fn.Live.Manifest.Cache.Enabled {
		v.err = v.throughCache(ctx)
	} else {
		v.err = v.forward(ctx)
	}
	if v.err == nil {
		v.finish()
		return
	}
	if v.answer.started() {
		panic(http.ErrAbortHandler)
	}
	problem := problemOf(v.err, v.fn)
	v.receipt.Limit = limitOf(v.err, v.busy)
	problem.explain(v.receipt.Limit, v.fn)
	if problem.status == http.StatusInternalServerError {
		v.proxy.log.Warn("run function", "function", v.fn.Name, "id", v.facts.id, "err", v.err)
	}
	v.refuse(&problem)
}

// finish ends a response that is complete, as far as its writer knows.
func (v *visit) finish() {
	v.answer.WriteHeader(http.StatusOK)
	cleanTrailerKeys(v.answer.Header())
	if v.owed && v.answer.status != http.StatusSwitchingProtocols && v.answer.promised < 0 && !v.answer.bodiless {
		v.answer.Header()[http.TrailerPrefix+ReceiptHeader] = []string{v.receipt.Format(v.level)}
	}
	switch {
	case v.answer.bad != nil:
		v.err = v.answer.bad
		problem := problemOf(v.err, v.fn)
		v.refuse(&problem)
	case v.answer.short():
		v.err = errLost
		panic(http.ErrAbortHandler)
	case v.answer.endBody() != nil:
		v.err = errClientGone
		panic(http.ErrAbortHandler)
	}
}

// refuse answers with a problem. Clients that are gone get nothing.
func (v *visit) refuse(pr *problem) {
	if v.err == nil {
		v.err = causeError(pr.cause)
	}
	v.proxy.metrics.refusals.WithLabelValues(pr.cause).Inc()
	if pr.status == statusGone {
		v.answer.status = statusGone
		panic(http.ErrAbortHandler)
	}
	v.answer.reset()
	body := pr.write(v.answer.Header(), v.in.Header["Accept"], v.facts.id)
	v.answer.WriteHeader(pr.status)
	_, _ = v.answer.Write(body) // a client that is gone is told nothing
}

// causeError is the cause of a refusal in the log.
type causeError string

func (e causeError) Error() string { return string(e) }

// report takes what Local or a peer knows of a run besides its response.
func (v *visit) report(r Result) {
	if r.Start != "" {
		v.receipt.Start = r.Start
	}
	v.receipt.Fuel, v.receipt.Partial = max(v.receipt.Fuel, r.Fuel), r.Partial
}

// formatReceipt is called when the head of the response is written.
func (v *visit) formatReceipt() string {
	v.owed = v.level == ReceiptFull && v.receipt.Partial
	return v.receipt.Format(v.level)
}

// leaveBody ends what is left unread of a body over HTTP/1, which is in the way of the connection's next
// request. net/http would read it after the response, start to watch the connection at its end, and take
// that for an error when it reads the next request; and were the rest late, it would take it for that request.
func (v *visit) leaveBody(w http.ResponseWriter) {
	if !v.unread || v.body.atEnd() {
		return
	}
	v.stall.abandon(lateBody)
	if v.body.state() == bodyUntouched && v.in.Header.Get("Expect") != "" || !v.body.drain() { // none comes that was not asked for
		closeAfter(w)
	}
}

// closeAfter ends a connection of HTTP/1 with this response, and says so in it if its head has not left.
func closeAfter(w http.ResponseWriter) {
	var one [1]byte
	_, _ = http.MaxBytesReader(w, io.NopCloser(bytes.NewReader(one[:])), 0).Read(one[:]) // is always too large
}

// end is called last, also if the handler panics.
func (v *visit) end() {
	if v.up != nil {
		v.proxy.endTunnel(v.up) // from here on nobody else writes
	}
	if !v.body.atEnd() {
		v.stall.abandon(lingering)
	}
	v.answer.dropEncoder()
	v.stall.armWrite() // for what the server writes after this
	p, took := v.proxy, time.Since(v.began)
	if v.answer.status == 0 { // a panic on its way to the server
		v.answer.status = http.StatusInternalServerError
	}
	if v.up != nil && v.answer.status == http.StatusSwitchingProtocols {
		took = v.up.took(v.began) // what follows the head is another connection's time
	}
	p.metrics.inFlight.Dec()
	if v.in.ProtoMajor > 1 && v.in.Context().Err() != nil {
		v.session.wasted(1)
	}
	p.metrics.request(v.answer.status, v.receipt.Start, v.where, took)
	if v.cached != "" {
		p.metrics.cached.WithLabelValues(v.cached).Inc()
	}
	v.record(took)
	if p.access != nil {
		p.access.visit(v, took)
	}
	ctx := v.in.Context()
	if !p.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", v.facts.id), slog.String("method", v.in.Method), slog.String("host", v.host),
		slog.String("country", v.facts.country), slog.String("from", string(v.facts.region)),
		slog.Int("status", v.answer.status), slog.Int64("bytes", v.answer.wire), slog.Duration("dur", took),
		slog.Int("tries", v.tries), slog.String("reason", v.receipt.Reason),
	}
	if v.fn != nil {
		attrs = append(attrs, slog.String("function", v.fn.Name))
	}
	if v.receipt.Node != "" {
		attrs = append(attrs, slog.String("ran", string(v.receipt.Node)), slog.String("start", v.receipt.Start))
	}
	if v.err != nil {
		attrs = append(attrs, slog.String("err", v.err.Error()))
	}
	p.log.LogAttrs(ctx, slog.LevelDebug, "request", attrs...)
}

// newID returns a new request id. Ids are for logs and people: nobody may rely on their being
// unpredictable.
func newID() string {
	var raw [idDigits / 2]byte
	binary.BigEndian.PutUint64(raw[:], rand.Uint64())
	return hex.EncodeToString(raw[:])
}

// clientOf returns the client of a request, and the scheme that it used.
func (p *Proxy) clientOf(r *http.Request, s *session) (_ *remote, proto string) {
	proto = "http"
	if r.TLS != nil {
		proto = "https"
	}
	a := s.remote(r)
	if within(p.cfg.Trusted, a.ip) {
		ip, said := forwarded(r.Header, a.ip, p.cfg.Trusted)
		if said != "" {
			proto = said
		}
		if a = (&remote{ip: ip}); ip.IsValid() {
			a.text = ip.String()
		}
	}
	return a, proto
}

// regionUnknown is the region of clients that may be anywhere. No catalogue has it, so that all rules
// about callers bind them.
const regionUnknown perigee.Region = "unknown"

// placeOf returns a client's country, "" if it is not known, and the region that it counts as. Whoever
// comes from a machine of ours or a private network is near: where the node is that the client reached.
func (p *Proxy) placeOf(client netip.Addr, near perigee.Region, regions *perigee.Regions) (country string, region perigee.Region) {
	if p.cfg.Client == nil || !client.IsValid() {
		return "", near
	}
	country, region = p.cfg.Client(client, regions)
	switch {
	case region != "":
		return country, region
	case country == "" && (client.IsPrivate() || client.IsLoopback() || client.IsLinkLocalUnicast()):
		return "", near
	}
	return country, regionUnknown
}

// cleanURL returns the URL in the form of an ordinary request: a path, and a query without the
// steering.
func cleanURL(u *url.URL, query string) *url.URL {
	if u.Scheme == "" && u.Host == "" && u.User == nil && u.Opaque == "" && query == u.RawQuery && u.Path != "" {
		return u
	}
	c := *u
	c.Scheme, c.Host, c.User, c.Opaque, c.RawQuery = "", "", nil, "", query
	if c.Path == "" {
		c.Path = "/"
	}
	return &c
}

// shorten bounds what of a client's text is sent back.
func shorten(s string) string {
	if len(s) <= 200 {
		return s
	}
	return s[:200] + "…"
}
