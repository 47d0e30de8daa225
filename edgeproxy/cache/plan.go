package cache

import (
	"net/http"
	"strings"
	"time"
)

// Use says what is to be done with a request.
type Use uint8

// The uses.
const (
	Ask    Use = iota // the function: nothing is stored that could be used
	Serve             // the entry
	Renew             // serve the entry, and ask the function in the background whether it still holds
	Check             // ask the function whether the entry still holds
	Refuse            // the client wants what is stored or nothing (504)
)

// Plan is what a Cache says about a request.
type Plan struct {
	Use   Use
	Entry *Entry // nil with Ask and Refuse
	Why   string // for Ask and Check: the value of fwd in Cache-Status
	Alone bool   // responses to this can't be shared, so nobody should wait for another's
	Group string // with the key: those whose requests select the same variant, as far as is known
}

// Plan says how to answer a GET or HEAD with this header, and these directives of its Cache-Control.
func (c *Cache) Plan(k Key, h http.Header, asks Control, now time.Time) Plan {
	e, r := c.find(k, h)
	p := Plan{Use: Ask, Why: "uri-miss"}
	if r != nil {
		p.Alone, p.Group = r.alone.After(now), r.group(h)
		if len(r.variants) > 0 {
			p.Why = "vary-miss"
		}
	}
	switch {
	case e == nil:
	case !e.control.NoCache && !asks.NoCache && e.serves(asks, now):
		p.Use, p.Entry, p.Why = Serve, e, ""
	default:
		p.Use, p.Entry, p.Why = Check, e, "stale"
		over := -e.Left(now)
		if over < 0 {
			p.Why = "request"
			if e.control.NoCache {
				p.Why = "stale"
			}
		}
		if over >= 0 && !asks.Impatient() && !e.control.strict() &&
			e.control.StaleWhileRevalidate.said() && over <= e.control.StaleWhileRevalidate.time() {
			p.Use = Renew
		}
	}
	if asks.OnlyIfCached && (p.Use == Ask || p.Use == Check) {
		return Plan{Use: Refuse}
	}
	return p
}

// Shared reports whether an entry that was fetched for somebody answers another request, too, that came meanwhile.
func (e *Entry) Shared(h http.Header, asks Control, now time.Time) bool {
	return e.Matches(h) && !e.control.NoCache && e.serves(asks, now)
}

// Impatient reports whether a request sets bounds on the age of what it is answered with.
func (c *Control) Impatient() bool { return c.NoCache || c.MaxAge.said() || c.MinFresh.said() }

// serves reports whether an entry answers a request as it is (RFC 9111, sections 4.2 and 5.2.1).
func (e *Entry) serves(asks Control, now time.Time) bool {
	left := e.Left(now)
	switch {
	case asks.MaxAge.said() && e.Age(now) > asks.MaxAge.time():
		return false
	case asks.MinFresh.said() && left < asks.MinFresh.time():
		return false
	case left > 0:
		return true
	}
	return asks.MaxStale.said() && !e.control.strict() && -left <= asks.MaxStale.time()
}

// group tells requests apart by the fields that the last response depended on.
func (r *resource) group(h http.Header) string {
	if len(r.variants) == 0 || len(r.variants[0].vary) == 0 {
		return ""
	}
	var b strings.Builder
	for _, s := range r.variants[0].vary {
		b.WriteString(selecting(s.name, h[s.name]))
		b.WriteByte(0)
	}
	return b.String()
}
