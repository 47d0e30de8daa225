package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-edge/perigee"
)

// Entry is one stored response.
type Entry struct {
	Status int
	Header http.Header // not to be changed
	Body   []byte      // likewise

	vary     []selector // sorted
	tags     []string
	control  Control
	asked    time.Time     // when the function was
	age      time.Duration // at that time, as far as is known
	lifetime time.Duration
	size     int // bytes, about
}

// selector is a request field that a response depends on.
type selector struct{ name, value string }

// FieldTags is the response field in which a function names what its response was made of, for purges. Clients
// don't get it.
const FieldTags = "Cache-Tag"

// Bounds of what one response may name; the rest is ignored.
const (
	maxTags = 64
	maxTag  = 256 // bytes
)

// Age returns how old the response is.
func (e *Entry) Age(now time.Time) time.Duration { return e.age + max(0, now.Sub(e.asked)) }

// Left returns how long the response stays fresh; negative = it is stale since.
func (e *Entry) Left(now time.Time) time.Duration { return e.lifetime - e.Age(now) }

// Matches reports whether a request with this header selects the variant.
func (e *Entry) Matches(h http.Header) bool {
	for _, s := range e.vary {
		if selecting(s.name, h[s.name]) != s.value {
			return false
		}
	}
	return true
}

func (e *Entry) sameVariant(o *Entry) bool { return slices.Equal(e.vary, o.vary) }

// selecting brings the lines of a field into one form: list elements without the space around them, on one line.
// The case of languages means nothing.
func selecting(name string, lines []string) string {
	if len(lines) == 0 {
		return "\x00" // not the same as an empty line
	}
	if name == "Accept-Language" {
		return strings.ToLower(selecting("", lines))
	}
	if len(lines) == 1 && strings.IndexByte(lines[0], ',') < 0 {
		return strings.Trim(lines[0], " \t")
	}
	var parts []string
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			parts = append(parts, strings.Trim(part, " \t"))
		}
	}
	return strings.Join(parts, ",")
}

// Validators adds to the header of a request what has the function compare the entry with what it has now,
// and reports whether there is anything to compare.
func (e *Entry) Validators(h http.Header) bool {
	tag, date := e.Header["Etag"], e.Header["Last-Modified"]
	if len(tag) > 0 {
		h["If-None-Match"] = tag[:1:1]
	}
	if len(date) > 0 {
		h["If-Modified-Since"] = date[:1:1]
	}
	return len(tag)+len(date) > 0
}

// MayReplaceError reports whether the entry may be used in place of an error (RFC 5861, section 4), as the
// response or this request allows it.
func (e *Entry) MayReplaceError(asks Control, now time.Time) bool {
	if e.control.strict() {
		return false
	}
	over := -e.Left(now)
	return e.control.StaleIfError.said() && over <= e.control.StaleIfError.time() ||
		asks.StaleIfError.said() && over <= asks.StaleIfError.time()
}

// tagsOf reads the tags of a response.
func tagsOf(h http.Header) (tags []string) {
	for _, line := range h[FieldTags] {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.Trim(tag, " \t")
			if tag != "" && len(tag) <= maxTag && len(tags) < maxTags && !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags
}

// matches returns all purges that would end the entry.
func (e *Entry) matches(k Key) (list []perigee.PurgeMatch) {
	for _, function := range [...]string{"", k.Function} {
		for _, host := range [...]string{"", k.Host} {
			list = append(list, perigee.PurgeMatch{Function: function, Host: host})
			for _, tag := range e.tags {
				list = append(list, perigee.PurgeMatch{Function: function, Host: host, Tag: tag})
			}
		}
	}
	return list
}

func (e *Entry) matched(k Key, m perigee.PurgeMatch) bool { return slices.Contains(e.matches(k), m) }

// WriteHead puts the entry's header into that of a response.
func (e *Entry) WriteHead(h http.Header, now time.Time) {
	for name, values := range e.Header {
		h[name] = values[:len(values):len(values)]
	}
	h["Age"] = []string{strconv.FormatInt(int64(e.Age(now)/time.Second), 10)}
}

func sizeOf(h http.Header) (n int) {
	for name, values := range h {
		n += len(name) + 32
		for _, v := range values {
			n += len(v) + 16
		}
	}
	return n
}
