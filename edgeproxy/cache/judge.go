package cache

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Rules are what a function says about its responses besides their heads.
type Rules struct {
	Cookies    string   // as in perigee.Cache
	Heuristics bool     // a Last-Modified alone makes a response fresh for a tenth of its age
	Keyed      []string // request fields on which every response depends, in canonical form
}

// Exchange is a request that was sent to a function, and the head of its response.
type Exchange struct {
	Request  http.Header // as the function saw it
	Status   int
	Response http.Header
	Asked    time.Time // when the function was
	Answered time.Time // when the head was there
}

// Heuristic freshness (RFC 9111, section 4.2.2).
const (
	heuristicPart = 10
	heuristicMost = 24 * time.Hour
)

// Judge decides whether the response to a GET may be stored (RFC 9111, section 3), and returns an entry
// without a body, or why not.
func (r *Rules) Judge(x Exchange) (*Entry, string) {
	h, c := x.Response, controlOf(x.Response)
	vary, any := variesBy(h, r.Keyed)
	switch {
	case x.Status == http.StatusPartialContent || x.Status == http.StatusNotModified || x.Status < 200:
		return nil, "status"
	case c.MustUnderstand && !understood(x.Status):
		return nil, "status"
	case c.NoStore && !c.MustUnderstand:
		return nil, "no-store"
	case c.Private:
		return nil, "private"
	case any:
		return nil, "vary"
	case len(h["Set-Cookie"]) > 0 && r.Cookies == perigee.CookiesBypass:
		return nil, "set-cookie"
	case len(x.Request["Authorization"]) > 0 && !c.Public && !c.SharedMaxAge.said() && !c.MustRevalidate:
		return nil, "authorization"
	case len(h["Trailer"]) > 0:
		return nil, "trailer"
	}
	e := &Entry{
		Status: x.Status, Header: storedHeader(h), tags: tagsOf(h), control: c, asked: x.Asked,
		vary: selectors(vary, x.Request),
	}
	if r.Cookies == perigee.CookiesStrip {
		delete(e.Header, "Set-Cookie")
	}
	explicit := false
	if e.lifetime, explicit = lifetime(h, c, x.Answered); !explicit && !c.NoCache {
		if e.lifetime = r.heuristic(h, c, x); e.lifetime <= 0 {
			return nil, "no-lifetime"
		}
	}
	e.age = initialAge(h, x)
	if (e.lifetime <= e.age || c.NoCache) && !e.Validators(http.Header{}) && !c.StaleWhileRevalidate.said() && !c.StaleIfError.said() {
		return nil, "stale"
	}
	if _, ok := e.Header["Date"]; !ok {
		e.Header["Date"] = []string{x.Answered.UTC().Format(http.TimeFormat)}
	}
	e.size = perEntry + sizeOf(e.Header)
	return e, ""
}

// WithBody completes an entry of Judge.
func (e *Entry) WithBody(body []byte) *Entry {
	e.Body = body
	e.size += cap(body)
	return e
}

// Freshen returns the entry as a 304 says it is now (RFC 9111, section 4.3.4), and whether it may stay stored.
func (r *Rules) Freshen(e *Entry, x Exchange) (*Entry, bool) {
	h := maps.Clone(e.Header)
	for name, values := range storedHeader(x.Response) {
		if !ofTheBody(name) {
			h[name] = values
		}
	}
	if len(x.Response["Age"]) == 0 {
		delete(h, "Age")
	}
	if len(x.Response["Date"]) == 0 {
		h["Date"] = []string{x.Answered.UTC().Format(http.TimeFormat)}
	}
	x.Status, x.Response = e.Status, h
	if fresh, _ := r.Judge(x); fresh != nil {
		return fresh.WithBody(e.Body), true
	}
	return &Entry{Status: e.Status, Header: h, Body: e.Body, asked: x.Asked, age: initialAge(h, x)}, false
}

// ofTheBody reports whether a field describes stored bytes, which a 304 does not change.
func ofTheBody(name string) bool {
	switch name {
	case "Content-Length", "Content-Encoding", "Content-Range", "Content-Md5", "Content-Digest", "Repr-Digest", "Etag":
		return true
	}
	return false
}

// storedHeader returns the fields of a response that are kept. The caller has dropped those about the connection.
func storedHeader(h http.Header) http.Header {
	out := make(http.Header, len(h)+1)
	for name, values := range h {
		switch name {
		case "Trailer", "Proxy-Authentication-Info":
		default:
			if !strings.HasPrefix(name, http.TrailerPrefix) {
				out[name] = slices.Clone(values)
			}
		}
	}
	return out
}

// variesBy returns the request fields that a response depends on, sorted; any = also on what no field says.
func variesBy(h http.Header, keyed []string) (names []string, any bool) {
	names = slices.Clone(keyed)
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			switch name = strings.Trim(name, " \t"); name {
			case "*":
				return nil, true
			case "":
			default:
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), false
}

func selectors(names []string, request http.Header) []selector {
	list := make([]selector, len(names))
	for i, name := range names {
		list[i] = selector{name, selecting(name, request[name])}
	}
	return list
}

// understood reports whether the status has no rules of caching that this cache does not obey.
func understood(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 421, 451, 500, 501, 502, 503, 504:
		return true
	}
	return false
}

// lifetime returns how long a response is fresh by what it says itself (RFC 9111, section 4.2.1).
func lifetime(h http.Header, c Control, answered time.Time) (d time.Duration, explicit bool) {
	switch expires := h["Expires"]; {
	case c.SharedMaxAge.said():
		return c.SharedMaxAge.time(), true
	case c.MaxAge.said():
		return c.MaxAge.time(), true
	case c.targeted || len(expires) == 0:
		return 0, false
	default:
		at, err := http.ParseTime(expires[0])
		if err != nil || len(expires) > 1 {
			return 0, true // as if it had passed
		}
		return max(0, at.Sub(dateOf(h, answered))), true
	}
}

func (r *Rules) heuristic(h http.Header, c Control, x Exchange) time.Duration {
	if !r.Heuristics || c.NoCache || !c.Public && !heuristicStatus(x.Status) {
		return 0
	}
	changed, err := http.ParseTime(http.Header(h).Get("Last-Modified"))
	if err != nil {
		return 0
	}
	return min(dateOf(h, x.Answered).Sub(changed)/heuristicPart, heuristicMost)
}

// heuristicStatus reports whether a status is one that is fresh without saying so (RFC 9110, section 15.1).
func heuristicStatus(status int) bool {
	switch status {
	case 200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// dateOf returns when a response says that it was made; without a valid date, when it came.
func dateOf(h http.Header, answered time.Time) time.Time {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		return t
	}
	return answered
}

// initialAge returns the age of a response when the function was asked (RFC 9111, section 4.2.3). An Age that
// is no number counts as the longest: somebody else's cache says something, and it can't be told what.
func initialAge(h http.Header, x Exchange) time.Duration {
	age := time.Duration(0)
	if lines := h["Age"]; len(lines) > 0 {
		d := parseDelta(lines[0])
		if len(lines) > 1 || !isNumber(lines[0]) {
			d = maxDelta
		}
		age = d.time()
	}
	return max(age, x.Answered.Sub(dateOf(h, x.Answered)).Truncate(time.Second))
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
