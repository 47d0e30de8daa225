package edgeproxy

import (
	"fmt"
	"hash/maphash"
	"net/http"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-edge/perigee"
)

// The bounds of the table of rates: 65,536 keys of all functions, some 4 MB.
const (
	rateShards = 16
	rateKeys   = 4096 // in each shard
	rateSample = 8    // keys looked at when one must go
)

// rates counts the requests of each key of each function that limits them, by the generic cell rate
// algorithm (ITU-T I.371): a key is a single time, the theoretical arrival time of its next request. A
// key whose time has passed is as good as unknown. It is safe for concurrent use.
type rates struct {
	seed   maphash.Seed // keys can't be chosen to collide
	began  time.Time
	shards [rateShards]rateShard
}

type rateShard struct {
	mu  sync.Mutex // guards due
	due map[uint64]time.Duration
}

func newRates() *rates {
	r := &rates{seed: maphash.MakeSeed(), began: time.Now()}
	for i := range r.shards {
		r.shards[i].due = map[uint64]time.Duration{}
	}
	return r
}

// quota is a limit in the form that counting needs.
type quota struct {
	every time.Duration // one request
	burst int64
}

func quotaOf(l *perigee.RateLimit) quota {
	per, burst := time.Duration(l.Per), l.Burst
	if per == 0 {
		per = time.Second
	}
	if burst == 0 {
		burst = l.Requests
	}
	return quota{max(1, per/time.Duration(l.Requests)), int64(burst)}
}

// window is how long a quota that is used up takes to be whole again.
func (q quota) window() time.Duration { return q.every * time.Duration(q.burst) }

// take counts a request of a key. wait is above 0 if it is one too many, and then how long until the next
// is not; left is how many may follow at once, and whole when all of them may.
func (r *rates) take(key uint64, q quota, now time.Time) (wait time.Duration, left int64, whole time.Duration) {
	at := now.Sub(r.began)
	s := &r.shards[key%rateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	due, known := s.due[key]
	due = min(max(due, at), at+q.window()) // a deploy may have made the quota smaller
	if wait = due + q.every - at - q.window(); wait > 0 {
		return wait, 0, due - at
	}
	if !known && len(s.due) >= rateKeys {
		s.forget()
	}
	due += q.every
	s.due[key] = due
	return 0, int64((q.window() - (due - at)) / q.every), due - at
}

// forget drops the key of a sample that loses least: the one whose quota is whole first. Whoever sends from
// many addresses can't so get rid of what is known of one that has used up its quota.
func (s *rateShard) forget() {
	var first uint64
	n := 0
	for key, due := range s.due {
		if n == 0 || due < s.due[first] {
			first = key
		}
		if n++; n == rateSample {
			break
		}
	}
	delete(s.due, first)
}

// rateKeyHeader begins the key of a limit that goes by a header field.
const rateKeyHeader = "header:"

// rateKey returns what a request counts as: the value of the field that the limit names, else the client.
func (v *visit) rateKey(l *perigee.RateLimit) uint64 {
	var h maphash.Hash
	h.SetSeed(v.proxy.rates.seed)
	_, _ = h.WriteString(v.fn.Name) // never fails, like the others
	if name, ok := strings.CutPrefix(l.Key, rateKeyHeader); ok {
		if lines := v.in.Header[textproto.CanonicalMIMEHeaderKey(name)]; len(lines) > 0 {
			for _, line := range lines {
				_ = h.WriteByte(1)
				_, _ = h.WriteString(line)
			}
			return h.Sum64()
		}
	}
	_ = h.WriteByte(0)
	a, _ := netip.ParseAddr(v.facts.client) // clients without an address count as one
	network := clientOf(a).Addr().As16()
	_, _ = h.Write(network[:])
	return h.Sum64()
}

// limitRate counts the request if its function limits how many there may be, and refuses it if it is one too
// many. What is left is said in the fields of draft-ietf-httpapi-ratelimit-headers.
func (v *visit) limitRate() *problem {
	l := &v.fn.Live.Manifest.Limits.Rate
	if l.Requests == 0 {
		return nil
	}
	q := quotaOf(l)
	wait, left, whole := v.proxy.rates.take(v.rateKey(l), q, v.began)
	v.answer.ratePolicy = `"perigee";q=` + strconv.FormatInt(q.burst, 10) + ";w=" + wholeSeconds(q.window())
	v.answer.rate = `"perigee";r=` + strconv.FormatInt(left, 10) + ";t=" + wholeSeconds(whole)
	if wait <= 0 {
		return nil
	}
	v.receipt.Limit = LimitRate
	return &problem{
		status: http.StatusTooManyRequests, after: wait, cause: "rate",
		what: "Too many requests of this client.", rule: fmt.Sprintf("limits.rate: %d per %v, %d at once", l.Requests, q.every*time.Duration(l.Requests), q.burst),
		hint: "Wait as long as Retry-After says, and send fewer.",
	}
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
