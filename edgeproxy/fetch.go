package edgeproxy

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy/cache"
)

// fetch is a request of the cache to a function, for one client or several. It has a goroutine of its own, so
// that none of them ends it for the others by leaving. One client, who leads, gets the response as it comes;
// those who follow wait until it is stored, and go their own way if it can't be.
//
// It is the http.ResponseWriter that its visit writes to.
type fetch struct {
	cached  *cached
	key     fetchKey
	shared  bool // in cached.fetches, until it is settled
	visit   *visit
	rules   cache.Rules
	asks    cache.Control
	request http.Header  // of the request, as the function may see it
	header  http.Header  // of the response, for who writes it
	stale   *cache.Entry // to be checked; nil = none
	asked   time.Time
	cancel  context.CancelFunc

	lifetime []string      // the targeted field, which is cleaned away
	hints    chan hint     // informational responses; never closed
	headed   chan struct{} // closed when the fields below are set
	settled  chan struct{} // closed when entry is set or stays nil
	ended    chan struct{} // closed at the end

	// Set before headed is closed.
	status  int // 0 = there is no response
	head    http.Header
	ran     ran
	pending *cache.Entry // being recorded; nil = not
	why     string       // it is not

	// Set before settled is closed.
	entry   *cache.Entry // for all; nil = each must see for itself
	lone    bool         // the entry is for the client that leads alone
	instead bool         // the entry is used in place of an error

	mu        sync.Mutex // guards the rest
	clients   int
	kept      bool // goes on without clients
	recording bool
	body      []byte // since read, and since the beginning while it is recorded
	read      int
	counted   int64 // bytes of body in cached.recording
	over      bool
	moved     chan struct{} // closed and made anew when the body or what is read of it changes
	err       error
	last      ran
	trailer   http.Header
}

type fetchKey struct {
	cache.Key
	group string
}

// hint is an informational response.
type hint struct {
	status int
	header http.Header
}

// ran is what is known of a function's run, for the receipts of those who get its response.
type ran struct {
	receipt Receipt
	timing  timing
	where   int
	tries   int
}

const (
	fetchWindow = 256 << 10        // bytes of a response that wait for the client, if it is not recorded
	fetchLinger = 30 * time.Second // for a response that is recorded and that nobody waits for any more
)

// fetch returns the fetch that answers a question, and whether this client leads it. With renew nobody does.
func (v *visit) fetch(q *question, plan *cache.Plan, renew bool) (f *fetch, leads bool) {
	c, key := v.proxy.cached, fetchKey{q.key, plan.Group}
	shared := renew || !plan.Alone && !q.asks.Impatient()
	if shared {
		c.mu.Lock()
		defer c.mu.Unlock()
		if f = c.fetches[key]; f != nil {
			if !renew {
				f.enter()
			}
			return f, false
		}
	}
	f = &fetch{
		cached: c, key: key, shared: shared, rules: q.rules, asks: q.asks, request: q.header, header: http.Header{}, stale: plan.Entry, asked: time.Now(), kept: renew,
		hints: make(chan hint, maxHints), headed: make(chan struct{}), settled: make(chan struct{}), ended: make(chan struct{}), moved: make(chan struct{}),
	}
	if !renew {
		f.clients = 1
	}
	if shared {
		c.fetches[key] = f
	}
	f.begin(v, q)
	return f, true
}

// begin starts the fetch.
func (f *fetch) begin(of *visit, q *question) {
	p := of.proxy
	ctx, end := context.WithCancel(context.WithoutCancel(of.in.Context()))
	stop := context.AfterFunc(p.life, end)
	f.cancel = end
	expire := context.CancelFunc(func() {})
	if limit := time.Duration(of.fn.Live.Manifest.Limits.Timeout); limit > 0 {
		ctx, expire = context.WithTimeout(ctx, limit)
	}

	in := of.out.WithContext(ctx)
	in.Method, in.Host, in.RequestURI, in.RemoteAddr = http.MethodGet, q.host(), q.key.Target, ""
	if q.facts.client != "" {
		in.RemoteAddr = of.in.RemoteAddr
	}
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	in.Header = maps.Clone(q.header)
	dropInternal(in.Header)
	if of.trace != (trace{}) {
		of.trace.put(in.Header)
	}
	if f.stale != nil {
		f.stale.Validators(in.Header)
	}
	v := &visit{
		proxy: p, began: f.asked, in: in, out: in, facts: q.facts, trace: of.trace, host: of.host,
		view: of.view, fn: of.fn, rollout: of.rollout, steer: of.steer, level: ReceiptOff,
	}
	v.receipt = Receipt{Entry: of.receipt.Entry, Reason: ReasonRefused, ID: of.facts.id}
	v.answer = answer{w: f, of: v, stall: &v.stall, metrics: p.metrics, seen: f.see}
	f.visit = v
	leave := p.fetches.leave
	if !p.fetches.enter() { // at the very end of the process
		leave = func() {}
		end()
	}
	go func() {
		defer leave()
		defer stop()
		defer end()
		defer expire()
		f.finish(f.forward(ctx))
	}()
}

// forward has the function answer.
func (f *fetch) forward(ctx context.Context) (err error) {
	v := f.visit
	defer func() {
		switch r := recover(); r {
		case nil:
		case http.ErrAbortHandler:
			err = errLost
		default:
			err = fmt.Errorf("%w: panic: %v", errLost, r)
			v.proxy.log.Error("fetch for the cache", "function", v.fn.Name, "id", v.facts.id, "err", err, "stack", string(debug.Stack()))
		}
	}()
	if err := v.forward(ctx); err != nil {
		return err
	}
	v.answer.WriteHeader(http.StatusOK)
	cleanTrailerKeys(f.header)
	switch {
	case v.answer.bad != nil:
		return v.answer.bad
	case v.answer.short():
		return errLost
	}
	return nil
}

// see takes what is for the cache alone.
func (f *fetch) see(_ int, h http.Header) { f.lifetime = h[cache.TargetedField] }

// Header returns the header fields of the response.
func (f *fetch) Header() http.Header { return f.header }

// WriteHeader decides what becomes of the response.
func (f *fetch) WriteHeader(status int) {
	if status < 200 {
		select {
		case f.hints <- hint{status, maps.Clone(f.header)}:
		default: // clients bound them, too
		}
		return
	}
	now, v := time.Now(), f.visit
	f.status, f.head, f.ran = status, maps.Clone(f.header), v.ran()
	x := cache.Exchange{Request: f.request, Status: status, Response: f.head, Asked: f.asked, Answered: now}
	if f.lifetime != nil {
		x.Response = maps.Clone(f.head)
		x.Response[cache.TargetedField] = f.lifetime
	}
	settled := true
	switch {
	case f.stale != nil && status == http.StatusNotModified:
		keep := false
		f.entry, keep = f.rules.Freshen(f.stale, x)
		if f.lone = !keep || !f.cached.store.Store(f.key.Key, f.entry); f.lone {
			f.cached.store.Drop(f.key.Key, f.stale)
		}
	case f.mayStandIn(status, now):
		f.entry, f.instead = f.stale, true
	default:
		f.pending, f.why = f.judge(x)
		if settled = f.pending == nil; settled && status < 500 {
			f.cached.store.Drop(f.key.Key, f.stale)
			f.cached.store.Alone(f.key.Key, now)
		}
	}
	f.mu.Lock()
	if f.recording = f.pending != nil; f.recording && v.answer.promised > 0 {
		f.body = make([]byte, 0, v.answer.promised)
	}
	if settled && f.entry == nil {
		f.unkeepLocked()
	}
	f.mu.Unlock()
	close(f.headed)
	if settled {
		f.settle()
	}
}

// mayStandIn reports whether the stale entry may be used in place of an error; status 0 = there is no response.
func (f *fetch) mayStandIn(status int, now time.Time) bool {
	return f.stale != nil && (status == 0 || status >= 500) && f.stale.MayReplaceError(f.asks, now)
}

// judge decides whether the response is recorded.
func (f *fetch) judge(x cache.Exchange) (*cache.Entry, string) {
	a := &f.visit.answer
	switch {
	case f.ran.receipt.Revision != f.key.Revision: // while a new one is rolled out
		return nil, "revision"
	case a.promised > f.cached.store.MaxBody():
		return nil, "too-large"
	}
	return f.rules.Judge(x)
}

// settle lets those who follow go on. It is called once, by the goroutine of the fetch.
func (f *fetch) settle() {
	if f.shared {
		f.cached.mu.Lock()
		delete(f.cached.fetches, f.key)
		f.cached.mu.Unlock()
	}
	close(f.settled)
}

// Write takes a part of the body. What is not recorded waits for the client.
func (f *fetch) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.entry != nil && f.pending == nil {
		return len(p), nil // there is a better response
	}
	if f.recording && !f.recordLocked(len(p)) {
		f.recording = false
		f.uncountLocked()
		f.mu.Unlock()
		f.settle()
		f.mu.Lock()
		f.unkeepLocked()
		f.trimLocked()
	}
	for !f.recording && len(f.body)-f.read >= fetchWindow {
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-f.visit.in.Context().Done():
			f.mu.Lock()
			return 0, context.Cause(f.visit.in.Context())
		}
		f.mu.Lock()
	}
	f.body = append(f.body, p...)
	f.moveLocked()
	return len(p), nil
}

// unkeepLocked says that the response is for clients alone: it ends if there are none, or with the last.
func (f *fetch) unkeepLocked() {
	if f.kept = false; f.clients == 0 {
		f.cancel()
	}
}

// recordLocked counts n more bytes, if there is room for them.
func (f *fetch) recordLocked(n int) bool {
	if int64(len(f.body)+n) > f.cached.store.MaxBody() || f.cached.recording.Add(int64(n)) > f.cached.most {
		return false
	}
	f.counted += int64(n)
	return true
}

func (f *fetch) uncountLocked() {
	f.cached.recording.Add(-f.counted)
	f.counted = 0
}

// trimLocked forgets what was read of a body that is not recorded. What the client still writes stays as it is.
func (f *fetch) trimLocked() {
	if !f.recording && f.read > 0 {
		f.body = append([]byte(nil), f.body[f.read:]...)
		f.read = 0
	}
}

func (f *fetch) moveLocked() {
	close(f.moved)
	f.moved = make(chan struct{})
}

// next waits for more of the body, and returns it; over = there is no more, and err says why if it was cut.
func (f *fetch) next(ctx context.Context) (part []byte, over bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.read < len(f.body):
			part = f.body[f.read:len(f.body):len(f.body)]
			f.read = len(f.body)
			f.trimLocked()
			f.moveLocked()
			return part, false, nil
		case f.over:
			return nil, true, f.err
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		f.mu.Lock()
		if err != nil {
			return nil, false, err
		}
	}
}

// finish ends the fetch.
func (f *fetch) finish(err error) {
	now := time.Now()
	headless := f.status == 0
	if headless && f.mayStandIn(0, now) {
		f.entry, f.instead = f.stale, true
	}
	f.mu.Lock()
	trailer := http.Header{}
	for name, values := range f.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			trailer[name] = values
		}
	}
	unsettled := f.recording || headless
	if f.recording && err == nil && len(trailer) == 0 {
		if e := f.pending.WithBody(f.body); f.cached.store.Store(f.key.Key, e) {
			f.entry = e
		}
	}
	f.uncountLocked()
	f.recording, f.over, f.err, f.last, f.trailer = false, true, err, f.visit.ran(), trailer
	if headless {
		f.ran = f.last
		close(f.headed)
	}
	f.moveLocked()
	f.mu.Unlock()
	if unsettled {
		f.settle()
	}
	f.visit.proxy.metrics.cachedBytes.Set(float64(f.cached.store.Size()))
	close(f.ended)
}

func (f *fetch) enter() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients++
}

// leave says that a client waits no more. With the last of them goes the fetch, but what is recorded may get ready.
func (f *fetch) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clients--; f.clients > 0 || f.kept || f.over {
		return
	}
	if !f.recording {
		f.cancel()
		return
	}
	f.kept = true
	timer := time.AfterFunc(fetchLinger, f.cancel)
	go func() { // ends with the fetch
		<-f.ended
		timer.Stop()
	}()
}

var _ http.ResponseWriter = (*fetch)(nil)
