// Package cache remembers responses for whoever asks next: the rules of a shared HTTP cache (RFC 9111, with
// RFC 5861, 9211 and 9213), and a store in memory that is bounded by bytes.
//
// It decides from the heads of requests and responses and the time that it is given; it sends nothing, waits for
// nothing, reads no clock, and knows no functions but as parts of a key. Package edgeproxy asks it, has the
// functions run, and waits for those whose answer several clients want.
//
// A Cache is safe for concurrent use. Entries are not changed once they are stored. The eviction (W-TinyLFU, of
// the library otter) runs in short goroutines of the library's own; nothing has to be closed.
package cache

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/perigee-edge/perigee"
)

// Key says what a request is for, before its Vary fields. Whatever of a request reaches a function and is not in
// the key, or selects a variant, lets one client choose what others get.
type Key struct {
	Function string
	Revision perigee.RevisionID // a deploy begins with nothing stored
	Scheme   string
	Host     string // canonical
	Port     string // as the client sent it; "" = none
	Target   string // path and query, as the client sent them
}

// resource is all that is stored for a key. It is not changed: a new one replaces it.
type resource struct {
	variants []*Entry // newest first
	alone    time.Time
}

const (
	maxVariants = 64 // of one key; the oldest go
	perEntry    = 512
	aloneFor    = 30 * time.Second
)

// Cache is the store of one gateway.
type Cache struct {
	store *otter.Cache[Key, *resource]
	most  int64

	mu      sync.RWMutex // held to read while something is stored, and to write the marks
	purged  marks[perigee.PurgeMatch]
	changed marks[Key] // by requests with unsafe methods
}

// New makes a Cache that holds at most so many bytes, with the overhead of each entry counted in.
func New(bytes int64) *Cache {
	return &Cache{most: bytes, store: otter.Must(&otter.Options[Key, *resource]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(k Key, r *resource) uint32 { return r.weight(&k) },
	})}
}

// MaxBody is the longest body that is stored, in bytes.
func (c *Cache) MaxBody() int64 { return c.most / 8 }

// Size returns how many bytes are stored, about.
func (c *Cache) Size() int64 { return int64(c.store.WeightedSize()) }

func (r *resource) weight(k *Key) uint32 {
	n := perEntry + len(k.Target)
	for _, e := range r.variants {
		n += e.size
	}
	return uint32(min(n, 1<<31))
}

// find returns the variant of a key that a request with this header selects, or nil.
func (c *Cache) find(k Key, h http.Header) (*Entry, *resource) {
	r, ok := c.store.GetIfPresent(k)
	if !ok {
		return nil, nil
	}
	for _, e := range r.variants {
		if e.Matches(h) {
			return e, r
		}
	}
	return nil, r
}

// Store keeps an entry, and reports whether it did: what was purged or changed since the function was asked
// is not kept.
func (c *Cache) Store(k Key, e *Entry) bool {
	if int64(e.size) > c.most/4 {
		return false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.purged.after(e.asked, e.matches(k)...) || c.changed.after(e.asked, k) {
		return false
	}
	c.store.Compute(k, func(old *resource, _ bool) (*resource, otter.ComputeOp) {
		r := &resource{variants: []*Entry{e}}
		if old != nil {
			for _, o := range old.variants {
				if !o.sameVariant(e) && len(r.variants) < maxVariants {
					r.variants = append(r.variants, o)
				}
			}
		}
		return r, otter.WriteOp
	})
	return true
}

// Drop takes an entry, which may be nil, out of the store.
func (c *Cache) Drop(k Key, e *Entry) {
	c.store.Compute(k, func(old *resource, ok bool) (*resource, otter.ComputeOp) {
		if !ok || !slices.Contains(old.variants, e) {
			return old, otter.CancelOp
		}
		r := &resource{alone: old.alone}
		for _, o := range old.variants {
			if o != e {
				r.variants = append(r.variants, o)
			}
		}
		return r, otter.WriteOp
	})
}

// Alone notes that the response to a key can't be shared, so that for a while those who ask for it don't wait
// for one another.
func (c *Cache) Alone(k Key, now time.Time) {
	c.store.Compute(k, func(old *resource, _ bool) (*resource, otter.ComputeOp) {
		r := &resource{alone: now.Add(aloneFor)}
		if old != nil {
			r.variants = old.variants
		}
		return r, otter.WriteOp
	})
}

// Changed drops what is stored for a key: its resource was asked to change (RFC 9111, section 4.4). What was
// asked for before that and comes later is not stored.
func (c *Cache) Changed(k Key, now time.Time) {
	c.mu.Lock()
	c.changed.set(k, now)
	c.mu.Unlock()
	c.store.Invalidate(k)
}

// Functions returns the functions of which something is stored.
func (c *Cache) Functions() map[string]bool {
	names := map[string]bool{}
	for k := range c.store.Keys() {
		names[k.Function] = true
	}
	return names
}

// Purge drops what matches. What was asked for before that and comes later is not stored.
func (c *Cache) Purge(m perigee.PurgeMatch, now time.Time) {
	c.mu.Lock()
	c.purged.set(m, now)
	c.mu.Unlock()
	for k, r := range c.store.All() {
		for _, e := range r.variants {
			if e.matched(k, m) {
				c.store.Invalidate(k)
				break
			}
		}
	}
}

// marks are the times at which things ended. They are bounded: when there are too many, all are forgotten, and
// everything counts as having ended when the latest of them did.
type marks[K comparable] struct {
	at  map[K]time.Time
	all time.Time
}

const maxMarks = 8192

func (m *marks[K]) set(k K, now time.Time) {
	if len(m.at) >= maxMarks {
		for _, t := range m.at {
			if t.After(m.all) {
				m.all = t
			}
		}
		m.at = nil
	}
	if m.at == nil {
		m.at = map[K]time.Time{}
	}
	m.at[k] = now
}

// after reports whether one of the keys ended at that time or later.
func (m *marks[K]) after(asked time.Time, keys ...K) bool {
	if !m.all.IsZero() && !asked.After(m.all) {
		return true
	}
	for _, k := range keys {
		if t, ok := m.at[k]; ok && !asked.After(t) {
			return true
		}
	}
	return false
}
