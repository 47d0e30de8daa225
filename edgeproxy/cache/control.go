package cache

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee/edgeproxy/sfv"
)

// The targeted fields (RFC 9213) that this cache obeys in place of Cache-Control and Expires, the first that
// is there and valid. TargetedField is for this gateway alone and goes no further.
const (
	TargetedField         = "Perigee-Cdn-Cache-Control"
	targetedForCDNs       = "Cdn-Cache-Control"
	fieldControl          = "Cache-Control"
	maxDelta              = math.MaxInt32 // seconds; longer times are as good as this (RFC 9111, section 1.2.2)
	notSaid         delta = -1
)

// delta is a time in seconds; notSaid = the directive is absent.
type delta int64

func (d delta) said() bool          { return d != notSaid }
func (d delta) time() time.Duration { return time.Duration(d) * time.Second }

// Control is what the directives of a request or response say.
type Control struct {
	NoStore, NoCache, Private, Public                             bool
	MustRevalidate, ProxyRevalidate, MustUnderstand, OnlyIfCached bool

	MaxAge, SharedMaxAge, StaleWhileRevalidate, StaleIfError, MinFresh, MaxStale delta

	targeted bool
}

// nothingSaid has no directive.
func nothingSaid() Control {
	return Control{MaxAge: notSaid, SharedMaxAge: notSaid, StaleWhileRevalidate: notSaid, StaleIfError: notSaid, MinFresh: notSaid, MaxStale: notSaid}
}

// controlOf returns what the directives of a response say to this cache.
func controlOf(h http.Header) Control {
	for _, name := range [...]string{TargetedField, targetedForCDNs} {
		if lines := h[name]; len(lines) > 0 {
			if c, ok := parseTargeted(strings.Join(lines, ", ")); ok {
				return c
			}
		}
	}
	return ParseControl(h[fieldControl])
}

// parseTargeted reads a targeted field. One that is not valid, or empty, counts as absent.
func parseTargeted(s string) (Control, bool) {
	d, err := sfv.ParseDictionary(s)
	if err != nil || len(d) == 0 {
		return Control{}, false
	}
	c := nothingSaid()
	for name, item := range d {
		value := ""
		switch item.Kind {
		case sfv.False:
			continue
		case sfv.Number:
			value = strconv.FormatFloat(item.Number, 'f', -1, 64)
		case sfv.Text:
			value = item.Text
		}
		if _, isNumber := c.number(name); isNumber && item.Kind != sfv.Number {
			continue // of the wrong type
		}
		c.set(name, value)
	}
	c.targeted = true
	return c, true
}

// ParseControl reads lines of Cache-Control. It is lenient, since all caches are: what it can't read it skips,
// and of a time that is no number it takes the strictest meaning. Of directives that occur twice the first counts.
func ParseControl(lines []string) Control {
	c := nothingSaid()
	seen := map[string]bool{}
	for _, line := range lines {
		for line != "" {
			var name, value string
			name, value, line = directive(line)
			if name != "" && !seen[name] {
				seen[name] = true
				c.set(name, value)
			}
		}
	}
	return c
}

// directive cuts the first directive off a line.
func directive(line string) (name, value, rest string) {
	end := 0
	for end < len(line) && line[end] != ',' && line[end] != '=' {
		end++
	}
	name = strings.ToLower(strings.Trim(line[:end], " \t"))
	if end == len(line) || line[end] == ',' {
		return name, "", line[min(end+1, len(line)):]
	}
	line = line[end+1:]
	quoted, i := strings.HasPrefix(line, `"`), 0
	for i < len(line) && (line[i] != ',' || quoted) {
		switch {
		case i > 0 && line[i] == '"' && quoted:
			quoted = false
		case line[i] == '\\' && quoted:
			i++
		}
		i++
	}
	i = min(i, len(line))
	value = strings.Trim(line[:i], " \t")
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return name, value, line[min(i+1, len(line)):]
}

// number returns where the time of a directive is kept.
func (c *Control) number(name string) (*delta, bool) {
	switch name {
	case "max-age":
		return &c.MaxAge, true
	case "s-maxage":
		return &c.SharedMaxAge, true
	case "stale-while-revalidate":
		return &c.StaleWhileRevalidate, true
	case "stale-if-error":
		return &c.StaleIfError, true
	case "min-fresh":
		return &c.MinFresh, true
	case "max-stale":
		return &c.MaxStale, true
	}
	return nil, false
}

func (c *Control) set(name, value string) {
	if n, ok := c.number(name); ok {
		*n = parseDelta(value)
		if name == "max-stale" && value == "" {
			*n = maxDelta
		}
		return
	}
	switch name {
	case "no-store":
		c.NoStore = true
	case "no-cache": // also for some fields only: all is checked then
		c.NoCache = true
	case "private": // likewise: nothing is stored then
		c.Private = true
	case "public":
		c.Public = true
	case "must-revalidate":
		c.MustRevalidate = true
	case "proxy-revalidate":
		c.ProxyRevalidate = true
	case "must-understand":
		c.MustUnderstand = true
	case "only-if-cached":
		c.OnlyIfCached = true
	}
}

// parseDelta reads a number of seconds; what is none is 0.
func parseDelta(s string) delta {
	if s == "" {
		return 0
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n > maxDelta {
		return maxDelta
	}
	return delta(n)
}

// strict reports whether a stale response must not be used, whatever else is said.
func (c *Control) strict() bool {
	return c.MustRevalidate || c.ProxyRevalidate || c.NoCache || c.SharedMaxAge.said()
}
