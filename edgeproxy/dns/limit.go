package dns

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// verdict says what a question gets.
type verdict uint8

const (
	full verdict = iota // an answer
	slip                // an empty one that says "ask over TCP"
	drop                // none
)

// networks is how many networks are told apart; those that share a place share a rate.
const networks = 1 << 14

// limiter bounds the answers to each network (a /24 or /48) over UDP, where a victim's address can be
// written as the source. Every second question above the rate is told to come over TCP, so that a
// real client behind an attacked address gets its answer (known as response rate limiting). It takes
// a fixed amount of memory and is safe for concurrent use.
type limiter struct {
	rate    float64
	seed    maphash.Seed
	mu      [64]sync.Mutex // one for each 64th of buckets
	buckets [networks]bucket
}

type bucket struct {
	left float64 // answers that may be given now, at most one second's
	at   time.Time
	over uint32 // questions above the rate
}

func newLimiter(rate int) *limiter { return &limiter{rate: float64(rate), seed: maphash.MakeSeed()} }

func (l *limiter) take(from netip.Addr, now time.Time) verdict {
	p, err := from.Prefix(int(scope(from)))
	if err != nil {
		return drop
	}
	i := maphash.Comparable(l.seed, p) % networks
	mu := &l.mu[i%uint64(len(l.mu))]
	mu.Lock()
	defer mu.Unlock()
	b := &l.buckets[i]
	if b.at.IsZero() {
		b.left = l.rate
	} else {
		b.left = min(l.rate, b.left+l.rate*now.Sub(b.at).Seconds())
	}
	b.at = now
	if b.left >= 1 {
		b.left--
		return full
	}
	b.over++
	if b.over%2 == 0 {
		return slip
	}
	return drop
}
